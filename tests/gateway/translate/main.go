// Command holdfast-translate shows what Envoy Gateway makes of resources: its own loader, translators and Wasm cache, in one
// process and without Kubernetes. `egctl experimental translate` does nearly the same, but it is silent about a patch that
// failed, and it has no Wasm cache.
//
// What it uses is internal to Envoy Gateway, so scripts/gateway.sh builds it inside a copy of that module's source.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	gwapiv1 "sigs.k8s.io/gateway-api/apis/v1"
	"sigs.k8s.io/yaml"

	resourcev3 "github.com/envoyproxy/go-control-plane/pkg/resource/v3"

	egv1a1 "github.com/envoyproxy/gateway/api/v1alpha1"
	"github.com/envoyproxy/gateway/internal/gatewayapi"
	"github.com/envoyproxy/gateway/internal/gatewayapi/resource"
	"github.com/envoyproxy/gateway/internal/logging"
	"github.com/envoyproxy/gateway/internal/wasm"
	"github.com/envoyproxy/gateway/internal/xds/bootstrap"
	"github.com/envoyproxy/gateway/internal/xds/translator"
)

var (
	servedModule = regexp.MustCompile(`/[A-Za-z0-9_=-]{40,}\.wasm`)
	servedHash   = regexp.MustCompile(`"sha256": "[0-9a-f]{64}"`)
)

// Where resources say that the image is.
const registryInResources = "registry.example"

// Where Envoy Gateway itself runs.
const controllerNamespace = "envoy-gateway-system"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast-translate:", err)
		os.Exit(1)
	}
}

func run(arguments []string, out io.Writer) error {
	flags := flag.NewFlagSet("holdfast-translate", flag.ContinueOnError)
	image := flags.String("image", "", "an OCI layout that stands for every image at "+registryInResources)
	if err := flags.Parse(arguments); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		return fmt.Errorf("no FILE.yaml was given")
	}
	text, err := textOf(flags.Args())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	modules, text, err := wasmCache(ctx, *image, text)
	if err != nil {
		return err
	}
	// This judges each document by the schema of its kind, as the API server does.
	resources, err := resource.LoadResourcesFromYAMLBytes([]byte(text), true, nil)
	if err != nil {
		return err
	}
	if resources.GatewayClass == nil {
		return fmt.Errorf("no GatewayClass among the resources")
	}
	// The loader passes over the addresses of pods.
	err = resource.IterYAMLBytes([]byte(text), func(document []byte) error {
		var slice discoveryv1.EndpointSlice
		if err := yaml.Unmarshal(document, &slice); err == nil && slice.Kind == "EndpointSlice" {
			resources.EndpointSlices = append(resources.EndpointSlices, &slice)
		}
		return nil
	})
	if err != nil {
		return err
	}
	// The certificate by which a proxy knows Envoy Gateway; its installation makes one.
	resources.Secrets = append(resources.Secrets, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: controllerNamespace, Name: "envoy"},
		Data:       map[string][]byte{corev1.TLSCertKey: []byte("certificate"), corev1.TLSPrivateKeyKey: []byte("key")},
	})
	result, err := translate(ctx, resources, modules)
	if err != nil {
		return err
	}
	printed, err := json.MarshalIndent(result, "", " ")
	if err != nil {
		return err
	}
	// The path of a module that Envoy Gateway serves is a hash of where it came from, here a port of this run; and the module is
	// not the same on every machine.
	printed = servedModule.ReplaceAll(printed, []byte("/fetched-by-envoy-gateway.wasm"))
	printed = servedHash.ReplaceAll(printed, []byte(`"sha256": "`+strings.Repeat("0", 64)+`"`))
	_, err = out.Write(append(printed, '\n'))
	return err
}

func textOf(files []string) (string, error) {
	var texts []string
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return "", err
		}
		texts = append(texts, string(content))
	}
	return strings.Join(texts, "\n---\n"), nil
}

// wasmCache is Envoy Gateway's own, over a registry in this process that has the image.
func wasmCache(ctx context.Context, image, text string) (wasm.Cache, string, error) {
	if !strings.Contains(text, registryInResources) {
		return nil, text, nil
	}
	if image == "" {
		return nil, "", fmt.Errorf("a resource names an image at %s: --image has to say where it is", registryInResources)
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	host := strings.TrimPrefix(server.URL, "http://")
	index, err := layout.ImageIndexFromPath(image)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", image, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, "", err
	}
	packed, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		return nil, "", err
	}
	text = strings.ReplaceAll(text, registryInResources, host)
	for _, word := range strings.Fields(text) {
		address := strings.TrimPrefix(strings.Trim(word, `"'`), "oci://")
		if !strings.HasPrefix(address, host+"/") {
			continue
		}
		reference, err := name.ParseReference(address, name.Insecure)
		if err != nil {
			return nil, "", err
		}
		if err := remote.Write(reference, packed); err != nil {
			return nil, "", err
		}
	}
	dir, err := os.MkdirTemp("", "holdfast-translate-")
	if err != nil {
		return nil, "", err
	}
	options := wasm.CacheOptions{CacheDir: dir}
	cache := wasm.NewHTTPServerWithFileCache(wasm.ServerOptions{Salt: []byte("fixture")}, options, controllerNamespace, quiet())
	return cache, text, nil
}

func quiet() logging.Logger {
	return logging.DefaultLogger(io.Discard, egv1a1.LogLevelError)
}

// translate goes both ways that Envoy Gateway goes, with the settings of its installation but for patches, which are on.
func translate(ctx context.Context, resources *resource.Resources, modules wasm.Cache) (map[string]any, error) {
	first := &gatewayapi.Translator{
		GatewayControllerName:   string(resources.GatewayClass.Spec.ControllerName),
		GatewayClassName:        gwapiv1.ObjectName(resources.GatewayClass.Name),
		EnvoyPatchPolicyEnabled: true,
		ControllerNamespace:     controllerNamespace,
		MergeGateways:           gatewayapi.IsMergeGatewaysEnabled(resources),
		MergeBackends:           gatewayapi.ResolveMergeBackendsConfig(resources),
		WasmCache:               modules,
		Logger:                  quiet(),
	}
	found, err := first.Translate(ctx, resources)
	if err != nil {
		return nil, err
	}
	if len(found.XdsIR) != 1 {
		return nil, fmt.Errorf("the resources have %d Gateways, not one", len(found.XdsIR))
	}
	for _, form := range found.XdsIR {
		second := &translator.Translator{ControllerNamespace: controllerNamespace, Logger: quiet()}
		table, err := second.Translate(ctx, form)
		if err != nil {
			return nil, err
		}
		result := map[string]any{}
		for name, kind := range map[string]string{
			"listeners": resourcev3.ListenerType,
			"routes":    resourcev3.RouteType,
			"clusters":  resourcev3.ClusterType,
			"endpoints": resourcev3.EndpointType,
		} {
			if result[name], err = trees(table.XdsResources[kind]); err != nil {
				return nil, err
			}
		}
		if result["stats_tags"], err = statsTags(resources); err != nil {
			return nil, err
		}
		complaints := complaints(found)
		for _, status := range table.EnvoyPatchPolicyStatuses {
			complaints = append(complaints, ofPolicy("EnvoyPatchPolicy", status.Namespace, status.Name, status.Status)...)
		}
		slices.Sort(complaints)
		result["complaints"] = slices.Compact(complaints)
		return result, nil
	}
	return nil, nil
}

// statsTags are those in the bootstrap of the Gateway's proxies.
func statsTags(resources *resource.Resources) (any, error) {
	rendered, err := bootstrap.GetRenderedBootstrapConfig(nil)
	if err != nil {
		return nil, err
	}
	// The loader takes one EnvoyProxy, whoever names it.
	for _, proxy := range []*egv1a1.EnvoyProxy{resources.EnvoyProxyForGatewayClass} {
		if proxy == nil || proxy.Spec.Bootstrap == nil {
			continue
		}
		if err := bootstrap.Validate(proxy.Spec.Bootstrap); err != nil {
			return nil, fmt.Errorf("EnvoyProxy %s/%s: bootstrap: %w", proxy.Namespace, proxy.Name, err)
		}
		if rendered, err = bootstrap.ApplyBootstrapConfig(proxy.Spec.Bootstrap, rendered); err != nil {
			return nil, fmt.Errorf("EnvoyProxy %s/%s: bootstrap: %w", proxy.Namespace, proxy.Name, err)
		}
	}
	var tree struct {
		StatsConfig struct {
			StatsTags []map[string]string `json:"stats_tags"`
		} `json:"stats_config"`
	}
	return &tree.StatsConfig.StatsTags, yaml.Unmarshal([]byte(rendered), &tree)
}

// complaints are the conditions that do not hold: what a user would see by kubectl.
func complaints(found *gatewayapi.TranslateResult) []string {
	complaints := []string{}
	for _, one := range found.Gateways {
		for _, listener := range one.Status.Listeners {
			complaints = append(complaints, unmet("Gateway "+one.Namespace+"/"+one.Name+" "+string(listener.Name), listener.Conditions)...)
		}
	}
	for _, one := range found.HTTPRoutes {
		for _, parent := range one.Status.Parents {
			complaints = append(complaints, unmet("HTTPRoute "+one.Namespace+"/"+one.Name, parent.Conditions)...)
		}
	}
	for _, one := range found.GRPCRoutes {
		for _, parent := range one.Status.Parents {
			complaints = append(complaints, unmet("GRPCRoute "+one.Namespace+"/"+one.Name, parent.Conditions)...)
		}
	}
	for _, one := range found.BackendTrafficPolicies {
		complaints = append(complaints, ofPolicy("BackendTrafficPolicy", one.Namespace, one.Name, &one.Status)...)
	}
	for _, one := range found.EnvoyExtensionPolicies {
		complaints = append(complaints, ofPolicy("EnvoyExtensionPolicy", one.Namespace, one.Name, &one.Status)...)
	}
	for _, one := range found.EnvoyPatchPolicies {
		complaints = append(complaints, ofPolicy("EnvoyPatchPolicy", one.Namespace, one.Name, &one.Status)...)
	}
	return complaints
}

func ofPolicy(kind, namespace, name string, status *gwapiv1.PolicyStatus) []string {
	complaints := []string{}
	for _, ancestor := range status.Ancestors {
		complaints = append(complaints, unmet(kind+" "+namespace+"/"+name, ancestor.Conditions)...)
	}
	return complaints
}

func unmet(who string, conditions []metav1.Condition) []string {
	complaints := []string{}
	for _, condition := range conditions {
		// Whether a proxy runs at an address is no matter of a translation.
		bad := condition.Type == "Conflicted" || condition.Type == "Overridden" || condition.Type == "Warning"
		if (condition.Status == metav1.ConditionTrue) == bad {
			complaints = append(complaints, fmt.Sprintf("%s: %s=%s: %s: %s", who, condition.Type, condition.Status,
				condition.Reason, condition.Message))
		}
	}
	return complaints
}

// trees are messages with Envoy's own field names, in the order of their names.
func trees[T any](messages []T) ([]any, error) {
	trees := []any{}
	for _, message := range messages {
		text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(any(message).(proto.Message))
		if err != nil {
			return nil, err
		}
		var tree any
		if err := json.Unmarshal(text, &tree); err != nil {
			return nil, err
		}
		trees = append(trees, tree)
	}
	slices.SortStableFunc(trees, func(one, other any) int { return strings.Compare(nameOf(one), nameOf(other)) })
	return trees, nil
}

func nameOf(tree any) string {
	members, _ := tree.(map[string]any)
	for _, key := range []string{"name", "cluster_name"} {
		if name, ok := members[key].(string); ok {
			return name
		}
	}
	return ""
}
