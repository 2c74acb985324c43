package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"

	admission "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/webhooks/validation/server"
)

// What the webhook says about every EnvoyFilter, whatever is in it.
const always = "EnvoyFilter exposes internal implementation details"

// validate gives every resource of Istio's own to Istio's admission webhook, as the API server of a cluster does, after the
// check of its fields that the server makes by the resource's definition. Others have to be what Kubernetes knows.
func validate(arguments []string, out io.Writer) error {
	var lenient bool
	files, err := parse("validate", arguments, func(flags *flag.FlagSet) {
		flags.BoolVar(&lenient, "warnings", false, "only print warnings; without it they are errors")
	})
	if err != nil {
		return err
	}
	if err := restart(false); err != nil {
		return err
	}
	documents, err := readDocuments(files)
	if err != nil {
		return err
	}
	webhook := http.NewServeMux()
	if _, err := server.New(server.Options{Schemas: collections.Pilot, DomainSuffix: domain, Mux: webhook}); err != nil {
		return err
	}
	var wrong []error
	for _, document := range documents {
		schema, isIstios := document.istioSchema()
		if !isIstios {
			_, err := document.object()
			wrong = append(wrong, err)
			continue
		}
		if _, err := document.config(schema); err != nil {
			wrong = append(wrong, err)
			continue
		}
		warnings, err := judge(webhook, document)
		wrong = append(wrong, err)
		for _, warning := range warnings {
			if strings.HasPrefix(warning, always) {
				continue
			}
			if lenient {
				fmt.Fprintf(out, "%s: warning: %s\n", document.place, warning)
			} else {
				wrong = append(wrong, fmt.Errorf("%s: warning: %s", document.place, warning))
			}
		}
	}
	if err := errors.Join(wrong...); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d documents are valid\n", len(documents))
	return nil
}

// judge asks the webhook, by its own protocol.
func judge(webhook http.Handler, one document) ([]string, error) {
	review := admission.AdmissionReview{
		TypeMeta: metav1.TypeMeta{APIVersion: "admission.k8s.io/v1", Kind: "AdmissionReview"},
		Request: &admission.AdmissionRequest{
			UID:       "1",
			Kind:      metav1.GroupVersionKind(one.gvk),
			Operation: admission.Create,
			Object:    runtime.RawExtension{Raw: one.raw},
		},
	}
	asked, err := json.Marshal(review)
	if err != nil {
		return nil, err
	}
	request := httptest.NewRequest(http.MethodPost, "/validate", bytes.NewReader(asked))
	request.Header.Set("content-type", "application/json")
	recorder := httptest.NewRecorder()
	webhook.ServeHTTP(recorder, request)
	var answer admission.AdmissionReview
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil || answer.Response == nil {
		return nil, fmt.Errorf("%s: the webhook answered %d: %s", one.place, recorder.Code, recorder.Body)
	}
	if !answer.Response.Allowed {
		reason := "it is refused"
		if answer.Response.Result != nil {
			reason = strings.TrimSpace(answer.Response.Result.Message)
		}
		return nil, fmt.Errorf("%s: %s", one.place, reason)
	}
	return answer.Response.Warnings, nil
}
