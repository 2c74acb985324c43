package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"slices"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/anypb"

	v3 "istio.io/istio/pilot/pkg/xds/v3"
)

// An answer takes milliseconds; on a busy machine it may take longer.
const patience = 60 * time.Second

// generate asks as an Envoy does, so that it prints what an Envoy gets.
func generate(arguments []string, out io.Writer) error {
	var described node
	var mesh meshSettings
	files, err := parse("generate", arguments, func(flags *flag.FlagSet) {
		described.define(flags)
		mesh.define(flags)
	})
	if err != nil {
		return err
	}
	proxy, err := described.proto()
	if err != nil {
		return err
	}
	if err := restart(described.inAmbient()); err != nil {
		return err
	}
	settings, err := mesh.read()
	if err != nil {
		return err
	}
	all, err := readResources(files, described.inAmbient())
	if err != nil {
		return err
	}
	server, err := startIstiod(all, settings, "127.0.0.1:0")
	if err != nil {
		return err
	}
	tree, err := snapshot(server.Listener.Addr().String(), proxy)
	if err != nil {
		return err
	}
	return printJSON(out, tree)
}

// snapshot is all that this proxy gets: first what it always asks for, then what that names.
func snapshot(address string, proxy *core.Node) (map[string]any, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	connection, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(connection).StreamAggregatedResources(ctx)
	if err != nil {
		return nil, err
	}
	client := adsClient{stream, proxy}
	clusters, err := client.fetch(v3.ClusterType, nil)
	if err != nil {
		return nil, err
	}
	listeners, err := client.fetch(v3.ListenerType, nil)
	if err != nil {
		return nil, err
	}
	endpoints, err := client.fetch(v3.EndpointType, endpointNames(clusters))
	if err != nil {
		return nil, err
	}
	routes, err := client.fetch(v3.RouteType, routeNames(listeners))
	if err != nil {
		return nil, err
	}
	extensions, err := client.fetch(v3.ExtensionConfigurationType, extensionNames(clusters, listeners))
	if err != nil {
		return nil, err
	}
	node, err := jsonOf(proxy)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"node":              node,
		"clusters":          clusters,
		"listeners":         listeners,
		"endpoints":         endpoints,
		"routes":            routes,
		"extension_configs": extensions,
	}, nil
}

type adsClient struct {
	stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	proxy  *core.Node
}

// fetch asks for resources of a type, by name or, without names, for all there are. Without names a type that needs them is
// not asked for.
func (c adsClient) fetch(kind string, names []string) ([]any, error) {
	all := kind == v3.ClusterType || kind == v3.ListenerType
	if len(names) == 0 && !all {
		return []any{}, nil
	}
	request := &discovery.DiscoveryRequest{Node: c.proxy, TypeUrl: kind, ResourceNames: names}
	if err := c.stream.Send(request); err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	for {
		answer, err := c.stream.Recv()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		acknowledged := &discovery.DiscoveryRequest{
			Node: c.proxy, TypeUrl: answer.TypeUrl, VersionInfo: answer.VersionInfo, ResponseNonce: answer.Nonce,
		}
		if answer.TypeUrl != kind {
			continue // a push of what was asked for before
		}
		acknowledged.ResourceNames = names
		if err := c.stream.Send(acknowledged); err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		return trees(answer.Resources)
	}
}

func trees(packed []*anypb.Any) ([]any, error) {
	trees := []any{}
	for _, one := range packed {
		message, err := one.UnmarshalNew()
		if err != nil {
			return nil, err
		}
		tree, err := jsonOf(message)
		if err != nil {
			return nil, err
		}
		trees = append(trees, tree)
	}
	slices.SortStableFunc(trees, byName)
	walk(trees, func(members map[string]any) {
		if hosts, _ := members["lb_endpoints"].([]any); hosts != nil {
			slices.SortStableFunc(hosts, byAddress)
		}
	})
	return trees, nil
}

// Istio's order of resources of a type, and of the hosts of a locality, is that of a map here and there.
func byName(one, other any) int {
	return compare(name(one), name(other))
}

func byAddress(one, other any) int {
	return compare(fmt.Sprint(one), fmt.Sprint(other))
}

func compare(one, other string) int {
	switch {
	case one < other:
		return -1
	case one > other:
		return 1
	default:
		return 0
	}
}

func name(tree any) string {
	if own := text(tree, "name"); own != "" {
		return own
	}
	return text(tree, "cluster_name")
}

func text(tree any, member string) string {
	members, _ := tree.(map[string]any)
	value, _ := members[member].(string)
	return value
}

func endpointNames(clusters []any) []string {
	var names []string
	for _, cluster := range clusters {
		if text(cluster, "type") != "EDS" {
			continue
		}
		members, _ := cluster.(map[string]any)
		name := text(members["eds_cluster_config"], "service_name")
		if name == "" {
			name = text(cluster, "name")
		}
		names = append(names, name)
	}
	return sorted(names)
}

func routeNames(listeners []any) []string {
	var names []string
	walk(listeners, func(members map[string]any) {
		if name := text(members["rds"], "route_config_name"); name != "" {
			names = append(names, name)
		}
	})
	return sorted(names)
}

// A filter of a listener, or of a cluster's own.
func extensionNames(trees ...[]any) []string {
	var names []string
	for _, tree := range trees {
		walk(tree, func(members map[string]any) {
			if _, discovered := members["config_discovery"]; discovered {
				names = append(names, text(members, "name"))
			}
		})
	}
	return sorted(names)
}

func sorted(names []string) []string {
	slices.Sort(names)
	return slices.Compact(names)
}

// walk shows every object of a tree.
func walk(tree any, visit func(map[string]any)) {
	switch value := tree.(type) {
	case []any:
		for _, item := range value {
			walk(item, visit)
		}
	case map[string]any:
		visit(value)
		for _, member := range value {
			walk(member, visit)
		}
	}
}
