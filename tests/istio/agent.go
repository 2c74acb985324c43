package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbac "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	httpwasm "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/wasm/v3"
	ociname "github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"istio.io/istio/pkg/wasm"
)

// What stands in the printed resources where the agent has put the path of the module that it fetched.
const fetchedModule = "/fetched/by/the/agent/holdfast.wasm"

// agent does with extension configurations what the sidecar's own agent does before Envoy sees them: it fetches the module
// with the agent's own code, from a registry in this process, and compares what came with the module that was packed.
func agent(arguments []string, out io.Writer) error {
	var module, image, archive string
	files, err := parse("agent", arguments, func(flags *flag.FlagSet) {
		flags.StringVar(&module, "module", "", "the module as it was built")
		flags.StringVar(&image, "image", "", "the image of it, an OCI layout")
		flags.StringVar(&archive, "archive", "", "the same as an archive for docker load")
	})
	if err != nil {
		return err
	}
	if module == "" || image == "" || archive == "" {
		return errors.New("agent needs --module, --image and --archive")
	}
	built, err := os.ReadFile(module)
	if err != nil {
		return err
	}
	resources, err := extensionConfigs(files)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "holdfast-agent-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	run := agentRun{built: built, resources: resources, scratch: scratch}
	fetched, err := run.everyWay(image, archive)
	if err != nil {
		return err
	}
	denied, err := run.inVain()
	if err != nil {
		return err
	}
	return printJSON(out, map[string]any{"fetched": fetched, "denied": denied})
}

type agentRun struct {
	built     []byte
	resources []*core.TypedExtensionConfig
	scratch   string
	caches    int
}

// everyWay fetches by each address that a user can give: by tag, pinned by digest, an image that docker pushed, and a file.
func (r *agentRun) everyWay(image, archive string) ([]any, error) {
	images := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer images.Close()
	files := httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		_, _ = answer.Write(r.built)
	}))
	defer files.Close()
	host := strings.TrimPrefix(images.URL, "http://")

	packed, err := imageInLayout(image)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	if err := r.push(packed, host, func(path string) string { return path }); err != nil {
		return nil, fmt.Errorf("%s: %w", image, err)
	}
	digest, err := packed.Digest()
	if err != nil {
		return nil, err
	}
	docker, err := tarball.ImageFromPath(archive, nil)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	dockerPath := func(string) string { return "/by/docker:1" }
	if err := r.push(docker, host, dockerPath); err != nil {
		return nil, fmt.Errorf("%s: %w", archive, err)
	}
	sum := sha256.Sum256(r.built)
	right, wrong := hex.EncodeToString(sum[:]), strings.Repeat("0", 64)

	byTag, err := r.convert("by tag", func(path string) (string, string) { return "oci://" + host + path, "" })
	if err != nil {
		return nil, err
	}
	for _, way := range []struct {
		name    string
		address func(path string) (string, string)
	}{
		{"pinned by digest", func(path string) (string, string) {
			return "oci://" + host + repository(path) + "@" + digest.String(), ""
		}},
		{"by tag, with the digest as sha256", func(path string) (string, string) {
			return "oci://" + host + path, digest.Hex
		}},
		{"from docker's archive", func(path string) (string, string) { return "oci://" + host + dockerPath(path), "" }},
		{"as a file", func(string) (string, string) { return files.URL + "/holdfast.wasm", right }},
	} {
		if _, err := r.convert(way.name, way.address); err != nil {
			return nil, err
		}
	}
	refused, err := r.agent(func(string) (string, string) { return files.URL + "/holdfast.wasm", wrong })
	if err != nil {
		return nil, err
	}
	if err := areDenials(refused); err != nil {
		return nil, fmt.Errorf("a file with another sha256: %w", err)
	}
	return byTag, nil
}

// inVain is what the agent makes of the resources when nothing answers.
func (r *agentRun) inVain() ([]any, error) {
	gone := httptest.NewServer(http.NotFoundHandler())
	host := strings.TrimPrefix(gone.URL, "http://")
	gone.Close()
	resources, err := r.agent(func(path string) (string, string) { return "oci://" + host + path, "" })
	if err != nil {
		return nil, err
	}
	if err := areDenials(resources); err != nil {
		return nil, fmt.Errorf("a registry that is away: %w", err)
	}
	return trees(resources)
}

// convert lets the agent fetch, and compares the file that it names now with the module.
func (r *agentRun) convert(way string, address func(path string) (string, string)) ([]any, error) {
	resources, err := r.agent(address)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", way, err)
	}
	for index, resource := range resources {
		filter, config, err := wasmFilter(resource)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", way, err)
		}
		local := config.GetConfig().GetVmConfig().GetCode().GetLocal()
		if local.GetFilename() == "" {
			return nil, fmt.Errorf("%s: %s has no local file after the agent", way, filter.GetName())
		}
		content, err := os.ReadFile(local.GetFilename())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", way, err)
		}
		if !bytes.Equal(content, r.built) {
			return nil, fmt.Errorf("%s: %s has %d bytes that are not the module's %d", way, filter.GetName(), len(content), len(r.built))
		}
		local.Specifier = &core.DataSource_Filename{Filename: fetchedModule}
		if resources[index], err = repacked(filter, config); err != nil {
			return nil, err
		}
	}
	fmt.Fprintf(os.Stderr, "agent: %s: %d resources, each with the %d bytes of the module\n", way, len(resources), len(r.built))
	return trees(resources)
}

// agent runs the agent's own code, with a cache of its own, over the resources with another address.
func (r *agentRun) agent(address func(path string) (string, string)) ([]*anypb.Any, error) {
	var resources []*anypb.Any
	for _, resource := range r.resources {
		moved := proto.Clone(resource).(*core.TypedExtensionConfig)
		config := &httpwasm.Wasm{}
		if err := moved.GetTypedConfig().UnmarshalTo(config); err != nil {
			return nil, err
		}
		source := config.GetConfig().GetVmConfig().GetCode().GetRemote()
		path, err := pathOf(source.GetHttpUri().GetUri())
		if err != nil {
			return nil, fmt.Errorf("%s: %w", resource.GetName(), err)
		}
		source.GetHttpUri().Uri, source.Sha256 = address(path)
		packed, err := repacked(moved, config)
		if err != nil {
			return nil, err
		}
		resources = append(resources, packed)
	}
	r.caches++
	dir := filepath.Join(r.scratch, fmt.Sprint(r.caches))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	cache := wasm.NewLocalFileCache(dir, wasm.Options{HTTPRequestMaxRetries: 1})
	defer cache.Cleanup()
	return resources, wasm.MaybeConvertWasmExtensionConfig(resources, cache)
}

// push puts an image where the resources look for it.
func (r *agentRun) push(image v1.Image, host string, place func(path string) string) error {
	for _, resource := range r.resources {
		_, config, err := wasmConfigOf(resource)
		if err != nil {
			return err
		}
		path, err := pathOf(config.GetConfig().GetVmConfig().GetCode().GetRemote().GetHttpUri().GetUri())
		if err != nil {
			return fmt.Errorf("%s: %w", resource.GetName(), err)
		}
		reference, err := ociname.ParseReference(host+place(path), ociname.Insecure)
		if err != nil {
			return err
		}
		if err := remote.Write(reference, image); err != nil {
			return err
		}
	}
	return nil
}

// imageInLayout is the one image of a layout.
func imageInLayout(folder string) (v1.Image, error) {
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, err
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return nil, err
	}
	if len(manifest.Manifests) != 1 {
		return nil, fmt.Errorf("it has %d images, not one", len(manifest.Manifests))
	}
	return index.Image(manifest.Manifests[0].Digest)
}

// extensionConfigs are the Wasm filters with remote code in what generate printed.
func extensionConfigs(files []string) ([]*core.TypedExtensionConfig, error) {
	var configs []*core.TypedExtensionConfig
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var snapshot struct {
			Configs []json.RawMessage `json:"extension_configs"`
		}
		if err := json.Unmarshal(content, &snapshot); err != nil {
			return nil, fmt.Errorf("%s: not what generate prints: %w", file, err)
		}
		for _, text := range snapshot.Configs {
			config := &core.TypedExtensionConfig{}
			if err := protojson.Unmarshal(text, config); err != nil {
				return nil, fmt.Errorf("%s: extension_configs: %w", file, err)
			}
			_, filter, err := wasmConfigOf(config)
			if err == nil && filter.GetConfig().GetVmConfig().GetCode().GetRemote() != nil {
				configs = append(configs, config)
			}
		}
	}
	if len(configs) == 0 {
		return nil, fmt.Errorf("no Wasm filter with remote code in extension_configs of %v", files)
	}
	return configs, nil
}

func wasmFilter(resource *anypb.Any) (*core.TypedExtensionConfig, *httpwasm.Wasm, error) {
	filter := &core.TypedExtensionConfig{}
	if err := resource.UnmarshalTo(filter); err != nil {
		return nil, nil, err
	}
	return wasmConfigOf(filter)
}

func wasmConfigOf(filter *core.TypedExtensionConfig) (*core.TypedExtensionConfig, *httpwasm.Wasm, error) {
	config := &httpwasm.Wasm{}
	if err := filter.GetTypedConfig().UnmarshalTo(config); err != nil {
		return nil, nil, fmt.Errorf("%s is no Wasm filter: %w", filter.GetName(), err)
	}
	return filter, config, nil
}

func repacked(filter *core.TypedExtensionConfig, config *httpwasm.Wasm) (*anypb.Any, error) {
	typed, err := anypb.New(config)
	if err != nil {
		return nil, err
	}
	filter.TypedConfig = typed
	return anypb.New(filter)
}

// areDenials says whether each is the filter that denies every request, which is what an agent without a module puts there.
func areDenials(resources []*anypb.Any) error {
	for _, resource := range resources {
		filter := &core.TypedExtensionConfig{}
		if err := resource.UnmarshalTo(filter); err != nil {
			return err
		}
		config := &rbac.RBAC{}
		if err := filter.GetTypedConfig().UnmarshalTo(config); err != nil {
			return fmt.Errorf("%s should be an RBAC filter: %w", filter.GetName(), err)
		}
		if config.GetRules() == nil || len(config.GetRules().GetPolicies()) != 0 {
			return fmt.Errorf("%s should deny everything: %v", filter.GetName(), config)
		}
	}
	return nil
}

// pathOf is the path of an address, with its tag.
func pathOf(address string) (string, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return "", err
	}
	if parsed.Scheme != "oci" || parsed.Path == "" {
		return "", fmt.Errorf("%q is no address of an image: it is oci://REGISTRY/REPOSITORY:TAG", address)
	}
	return parsed.Path, nil
}

// repository is a path without its tag or digest.
func repository(path string) string {
	path, _, _ = strings.Cut(path, "@")
	last := strings.LastIndex(path, "/")
	if colon := strings.LastIndex(path, ":"); colon > last {
		return path[:colon]
	}
	return path
}
