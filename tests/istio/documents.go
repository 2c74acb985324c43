package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubeyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"istio.io/istio/pilot/pkg/config/kube/crd"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/schema/collections"
	"istio.io/istio/pkg/config/schema/resource"
	kubelib "istio.io/istio/pkg/kube"
)

// A document is one resource of a file.
type document struct {
	place string // file, number and name, for messages
	gvk   schema.GroupVersionKind
	raw   []byte // JSON
}

// The domain of a cluster, by which Istio completes a short host name.
const domain = "cluster.local"

// What holds other documents rather than being one (`kubectl get -o yaml` prints it).
const list = "List"

// readDocuments reads all documents of these files; all that is wrong with their form is told at once.
func readDocuments(files []string) ([]document, error) {
	if len(files) == 0 {
		return nil, errors.New("no FILE.yaml was given")
	}
	var documents []document
	var wrong []error
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			wrong = append(wrong, err)
			continue
		}
		found, err := documentsIn(file, content)
		documents = append(documents, found...)
		wrong = append(wrong, err)
	}
	if err := errors.Join(wrong...); err != nil {
		return nil, err
	}
	if len(documents) == 0 {
		return nil, fmt.Errorf("no document in %v", files)
	}
	return documents, nil
}

func documentsIn(file string, content []byte) ([]document, error) {
	var documents []document
	var wrong []error
	reader := kubeyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for number := 1; ; number++ {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return documents, errors.Join(wrong...)
		}
		place := fmt.Sprintf("%s: document %d", file, number)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
		// A key that stands twice is an error here.
		raw, err := yaml.YAMLToJSONStrict(text)
		if err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", place, err))
			continue
		}
		if string(bytes.TrimSpace(raw)) == "null" {
			continue // comments only
		}
		found, err := documentsOf(place, raw)
		documents = append(documents, found...)
		wrong = append(wrong, err)
	}
}

func documentsOf(place string, raw []byte) ([]document, error) {
	var head metav1.PartialObjectMetadata
	if err := json.Unmarshal(raw, &head); err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	if head.Kind == "" || head.APIVersion == "" {
		return nil, fmt.Errorf("%s: a resource has apiVersion and kind", place)
	}
	if head.Kind != list {
		name := head.Name
		if head.Namespace != "" {
			name = head.Namespace + "/" + name
		}
		return []document{{fmt.Sprintf("%s (%s %s)", place, head.Kind, name), head.GroupVersionKind(), raw}}, nil
	}
	var items struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(raw, &items); err != nil {
		return nil, fmt.Errorf("%s: %w", place, err)
	}
	var documents []document
	var wrong []error
	for index, item := range items.Items {
		found, err := documentsOf(fmt.Sprintf("%s: items[%d]", place, index), item)
		documents = append(documents, found...)
		wrong = append(wrong, err)
	}
	return documents, errors.Join(wrong...)
}

// istioSchema is the schema of a resource of Istio's own; whatever else there is belongs to Kubernetes.
func (d document) istioSchema() (resource.Schema, bool) {
	kind := d.gvk
	return collections.Pilot.FindByGroupVersionAliasesKind(resource.FromKubernetesGVK(&kind))
}

// config reads a resource of Istio's own; a field that Istio does not know is an error.
func (d document) config(of resource.Schema) (config.Config, error) {
	var object crd.IstioKind
	if err := json.Unmarshal(d.raw, &object); err != nil {
		return config.Config{}, fmt.Errorf("%s: %w", d.place, err)
	}
	strict := func(of resource.Schema, text string) (config.Spec, error) {
		spec, err := of.NewInstance()
		if err != nil {
			return nil, err
		}
		return spec, config.ApplyJSONStrict(spec, text)
	}
	read, err := crd.ConvertObjectInternal(of, &object, domain, strict)
	if err != nil {
		return config.Config{}, fmt.Errorf("%s: spec: %w", d.place, err)
	}
	if read.Namespace == "" {
		read.Namespace = metav1.NamespaceDefault
	}
	return *read, nil
}

// object reads a resource as a Kubernetes client has it.
func (d document) object() (runtime.Object, error) {
	object, _, err := kubelib.IstioCodec.UniversalDeserializer().Decode(d.raw, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", d.place, err)
	}
	return object, nil
}
