package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"istio.io/istio/pkg/cluster"
	"istio.io/istio/pkg/config/constants"
	"istio.io/istio/pkg/model"
)

// A proxy of the mesh, as flags describe it.
type node struct {
	kind      string
	namespace string
	name      string
	address   string
	labels    string
	locality  string
	version   string
}

// The word for a proxy, and Istio's.
var kinds = map[string]model.NodeType{
	"sidecar":  model.SidecarProxy,
	"gateway":  model.Router,
	"waypoint": model.Waypoint,
}

func (n *node) define(flags *flag.FlagSet) {
	flags.StringVar(&n.kind, "node", "sidecar", "the proxy: sidecar, gateway or waypoint")
	flags.StringVar(&n.namespace, "namespace", "default", "the proxy's namespace")
	flags.StringVar(&n.name, "name", "client", "the proxy's name")
	flags.StringVar(&n.address, "address", "127.0.0.1", "the proxy's IP address, by which the services that it is a host of are found")
	flags.StringVar(&n.labels, "labels", "", "the pod's labels, as `name=value,...`; a gateway's default is istio=ingressgateway")
	flags.StringVar(&n.locality, "locality", "", "where the proxy is, as `region/zone/subzone`")
	flags.StringVar(&n.version, "istio-version", "1.30.0", "the Istio version that the proxy says it is, for `proxyVersion` in EnvoyFilters")
}

func (n *node) inAmbient() bool {
	return n.kind == "waypoint"
}

// proto is the node of a bootstrap. In interception mode NONE a listener binds its service's port on loopback, so that nothing
// has to redirect traffic.
func (n *node) proto() (*core.Node, error) {
	kind, known := kinds[n.kind]
	if !known {
		return nil, fmt.Errorf("--node %s: a proxy is a sidecar, gateway or waypoint", n.kind)
	}
	if net.ParseIP(n.address) == nil {
		return nil, fmt.Errorf("--address %s: it is an IP address", n.address)
	}
	labels, err := n.parsedLabels()
	if err != nil {
		return nil, err
	}
	locality, err := n.parsedLocality()
	if err != nil {
		return nil, err
	}
	metadata := model.NodeMetadata{
		Namespace:    n.namespace,
		Labels:       labels,
		IstioVersion: n.version,
		ClusterID:    cluster.ID(constants.DefaultClusterName),
		InstanceIPs:  []string{n.address},
	}
	if kind == model.SidecarProxy {
		metadata.InterceptionMode = "NONE"
	}
	return &core.Node{
		Id:       fmt.Sprintf("%s~%s~%s.%s~%s.svc.cluster.local", kind, n.address, n.name, n.namespace, n.namespace),
		Cluster:  n.name + "." + n.namespace,
		Locality: locality,
		Metadata: plain(metadata.ToStruct()),
	}, nil
}

// plain is a struct without its empty members.
func plain(value *structpb.Struct) *structpb.Struct {
	for name, member := range value.GetFields() {
		if member.GetKind() == nil {
			delete(value.Fields, name)
		}
	}
	return value
}

func (n *node) parsedLabels() (map[string]string, error) {
	text := n.labels
	if text == "" && n.kind == "gateway" {
		text = "istio=ingressgateway"
	}
	if text == "" && n.kind == "waypoint" {
		text = "gateway.networking.k8s.io/gateway-name=" + n.name + ",gateway.istio.io/managed=istio.io-mesh-controller"
	}
	labels := map[string]string{}
	if text == "" {
		return labels, nil
	}
	for _, label := range strings.Split(text, ",") {
		name, value, found := strings.Cut(label, "=")
		if !found || name == "" {
			return nil, fmt.Errorf("--labels %s: a label is name=value", n.labels)
		}
		labels[name] = value
	}
	return labels, nil
}

func (n *node) parsedLocality() (*core.Locality, error) {
	if n.locality == "" {
		return nil, nil
	}
	parts := strings.Split(n.locality, "/")
	if len(parts) > 3 {
		return nil, fmt.Errorf("--locality %s: it is region/zone/subzone, the last two as far as there are any", n.locality)
	}
	parts = append(parts, "", "")
	return &core.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}, nil
}

// parse reads flags and files, in any order.
func parse(command string, arguments []string, define func(*flag.FlagSet)) ([]string, error) {
	flags := flag.NewFlagSet("holdfast-istio "+command, flag.ContinueOnError)
	define(flags)
	var files []string
	for {
		if err := flags.Parse(arguments); err != nil {
			return nil, err
		}
		if flags.NArg() == 0 {
			return files, nil
		}
		files = append(files, flags.Arg(0))
		arguments = flags.Args()[1:]
	}
}

func printNode(arguments []string, out io.Writer) error {
	var described node
	files, err := parse("node", arguments, described.define)
	if err != nil {
		return err
	}
	if len(files) > 0 {
		return errors.New("node takes flags only")
	}
	proto, err := described.proto()
	if err != nil {
		return err
	}
	tree, err := jsonOf(proto)
	if err != nil {
		return err
	}
	return printJSON(out, tree)
}
