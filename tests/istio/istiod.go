package main

import (
	"flag"
	"fmt"
	"net"
	"os"
	"reflect"
	"time"

	"google.golang.org/protobuf/proto"
	"k8s.io/apimachinery/pkg/runtime"

	meshconfig "istio.io/api/mesh/v1alpha1"
	"istio.io/istio/pilot/test/xds"
	"istio.io/istio/pkg/config"
	"istio.io/istio/pkg/config/mesh"
)

// The resources of a mesh.
type resources struct {
	configs []config.Config
	objects []runtime.Object
}

// readResources reads them. In an ambient mesh Istio also reads its own kinds through a Kubernetes client.
func readResources(files []string, inAmbient bool) (resources, error) {
	documents, err := readDocuments(files)
	if err != nil {
		return resources{}, err
	}
	var all resources
	// The older of two filters comes first, and they stand in the order in which a user applied them.
	applied := time.Now().Truncate(time.Second).Add(-time.Hour)
	for index, document := range documents {
		schema, isIstios := document.istioSchema()
		if isIstios {
			read, err := document.config(schema)
			if err != nil {
				return resources{}, err
			}
			if _, err := schema.ValidateConfig(read); err != nil {
				return resources{}, fmt.Errorf("%s: %w", document.place, err)
			}
			read.CreationTimestamp = applied.Add(time.Duration(index) * time.Second)
			all.configs = append(all.configs, read)
		}
		if !isIstios || inAmbient {
			object, err := document.object()
			if err != nil {
				return resources{}, err
			}
			all.objects = append(all.objects, object)
		}
	}
	return all, nil
}

// Settings of the mesh.
type meshSettings struct {
	file string
}

func (m *meshSettings) define(flags *flag.FlagSet) {
	flags.StringVar(&m.file, "mesh", "", "a `FILE` of MeshConfig, over Istio's defaults")
}

// read turns off what needs more than an Envoy: certificates of the mesh, and the metrics of Istio's own Envoy.
func (m *meshSettings) read() (*meshconfig.MeshConfig, error) {
	settings := mesh.DefaultMeshConfig()
	settings.EnableAutoMtls.Value = false
	settings.DefaultProviders = &meshconfig.MeshConfig_DefaultProviders{}
	if m.file == "" {
		return settings, nil
	}
	text, err := os.ReadFile(m.file)
	if err != nil {
		return nil, err
	}
	settings, err = mesh.ApplyMeshConfig(string(text), settings)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.file, err)
	}
	return settings, nil
}

// istiod is a discovery server with these resources, serving ADS at its listener.
type istiod struct {
	*xds.FakeDiscoveryServer
	now resources
}

func startIstiod(all resources, settings *meshconfig.MeshConfig, address string) (*istiod, error) {
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	server := xds.NewFakeDiscoveryServer(failer{}, xds.FakeOptions{
		Configs:                    all.configs,
		KubernetesObjects:          all.objects,
		MeshConfig:                 settings,
		ListenerBuilder:            func() (net.Listener, error) { return listener, nil },
		DisableSecretAuthorization: true,
	})
	return &istiod{server, all}, nil
}

// update makes these the resources of the mesh, and says how many were added, changed and removed.
func (i *istiod) update(all resources) (added, changed, removed int, err error) {
	if !sameObjects(i.now.objects, all.objects) {
		return 0, 0, 0, fmt.Errorf("only Istio's own resources are taken up while it runs, and one of Kubernetes' has changed")
	}
	before := map[string]config.Config{}
	for _, one := range i.now.configs {
		before[one.Key()] = one
	}
	for _, one := range all.configs {
		old, known := before[one.Key()]
		delete(before, one.Key())
		switch {
		case !known:
			added++
			_, err = i.Store().Create(one)
		case !sameConfig(old, one):
			changed++
			stored := i.Store().Get(one.GroupVersionKind, one.Name, one.Namespace)
			one.ResourceVersion, one.CreationTimestamp = stored.ResourceVersion, stored.CreationTimestamp
			_, err = i.Store().Update(one)
		}
		if err != nil {
			return added, changed, removed, fmt.Errorf("%s: %w", one.Key(), err)
		}
	}
	for _, one := range before {
		removed++
		if err := i.Store().Delete(one.GroupVersionKind, one.Name, one.Namespace, nil); err != nil {
			return added, changed, removed, fmt.Errorf("%s: %w", one.Key(), err)
		}
	}
	i.now = all
	return added, changed, removed, nil
}

func sameConfig(one, other config.Config) bool {
	first, ok := one.Spec.(proto.Message)
	second, also := other.Spec.(proto.Message)
	sameSpec := ok && also && proto.Equal(first, second) || !ok && !also && reflect.DeepEqual(one.Spec, other.Spec)
	return sameSpec && reflect.DeepEqual(one.Labels, other.Labels) && reflect.DeepEqual(one.Annotations, other.Annotations)
}

func sameObjects(some, others []runtime.Object) bool {
	if len(some) != len(others) {
		return false
	}
	for index, one := range some {
		if !reflect.DeepEqual(one, others[index]) {
			return false
		}
	}
	return true
}

// failer ends the process where a test would fail: nothing has been printed then.
type failer struct{}

func (f failer) Fail()                          { f.Fatal("Istio's discovery server failed") }
func (f failer) FailNow()                       { f.Fail() }
func (f failer) Fatalf(form string, all ...any) { f.Fatal(fmt.Sprintf(form, all...)) }
func (f failer) Skip(all ...any)                { f.Fatal(all...) }
func (failer) Log(...any)                       {}
func (failer) Logf(string, ...any)              {}
func (failer) Helper()                          {}
func (failer) Cleanup(func())                   {} // the end of the process is the end of everything in it
func (failer) Fatal(all ...any) {
	fmt.Fprintln(os.Stderr, "holdfast-istio:", fmt.Sprint(all...))
	os.Exit(1)
}

// TempDir is for whoever wants files; nothing that is used here does.
func (f failer) TempDir() string {
	directory, err := os.MkdirTemp("", "holdfast-istio-")
	if err != nil {
		f.Fatal(err)
	}
	return directory
}
