package main

import (
	"encoding/json"
	"io"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	// Every extension that Istio knows, so that what is packed in an Any can be shown.
	_ "istio.io/istio/pkg/config/xds"
)

// jsonOf is a message with Envoy's own field names. protojson varies its spaces on purpose, so it is read again.
func jsonOf(message proto.Message) (any, error) {
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(message)
	if err != nil {
		return nil, err
	}
	var tree any
	return tree, json.Unmarshal(text, &tree)
}

// printJSON prints everything or nothing, members sorted by name.
func printJSON(out io.Writer, tree any) error {
	text, err := json.MarshalIndent(tree, "", " ")
	if err != nil {
		return err
	}
	_, err = out.Write(append(text, '\n'))
	return err
}
