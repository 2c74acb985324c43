// Command holdfast-istio shows what Istio's own generator makes of resources: as JSON, to an Envoy over ADS, and as its webhook
// judges them. It is Istio's discovery server in one process, over the package that Istio tests itself with.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"

	"istio.io/istio/pkg/log"
)

const usage = `usage: holdfast-istio COMMAND [FLAG...] FILE.yaml...

  generate   prints listeners, clusters, routes, endpoints and extension configurations as one JSON document
  serve      serves an Envoy over ADS, prints the address, and takes up files that change
  validate   judges every document as Istio's admission webhook does
  node       prints the node, as it stands in an Envoy's bootstrap, as JSON
  agent      does with the extension configurations in a FILE.json of generate what the sidecar's agent does, and prints them

A file holds Istio's and Kubernetes' resources in any order, several documents or a List (as kubectl get -o yaml prints it).
holdfast-istio COMMAND -h lists its flags.
`

// Istio reads these when its packages are initialised. What they turn off are filters and metadata of Istio's own Envoy, which
// another Envoy does not know.
var environment = map[string]string{
	"PILOT_ENABLE_METADATA_EXCHANGE": "false",
	"PILOT_ENABLE_ALPN_FILTER":       "false",
	"PILOT_ENABLE_TELEMETRY_LABEL":   "false",
}

// An ambient mesh is one more setting of that kind.
const ambient = "PILOT_ENABLE_AMBIENT"

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast-istio:", err)
		os.Exit(1)
	}
}

func run(arguments []string, out io.Writer) error {
	if len(arguments) == 0 || arguments[0] == "-h" || arguments[0] == "--help" || arguments[0] == "help" {
		fmt.Fprint(os.Stderr, usage)
		if len(arguments) == 0 {
			return errors.New("no command")
		}
		return nil
	}
	commands := map[string]func([]string, io.Writer) error{
		"generate": generate,
		"serve":    serve,
		"validate": validate,
		"node":     printNode,
		"agent":    agent,
	}
	command, known := commands[arguments[0]]
	if !known {
		return fmt.Errorf("%q is not a command: it is generate, serve, validate, node or agent", arguments[0])
	}
	if err := quieten(); err != nil {
		return err
	}
	err := command(arguments[1:], out)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	return err
}

// Istio's log is for its developers: HOLDFAST_ISTIO_LOG=1 shows it, on stderr.
func quieten() error {
	options := log.DefaultOptions()
	options.SetDefaultOutputLevel("all", log.NoneLevel)
	options.WithTeeToUDS("", "")
	options.OutputPaths = []string{"stderr"}
	if os.Getenv("HOLDFAST_ISTIO_LOG") != "" {
		options.SetDefaultOutputLevel("all", log.InfoLevel)
	}
	return log.Configure(options)
}

// restart begins this process anew where its environment is not the one that Istio's packages have to be initialised with.
func restart(inAmbient bool) error {
	wanted := map[string]string{ambient: fmt.Sprint(inAmbient)}
	for name, value := range environment {
		wanted[name] = value
	}
	ready := true
	for name, value := range wanted {
		if os.Getenv(name) != value {
			ready = false
			if err := os.Setenv(name, value); err != nil {
				return err
			}
		}
	}
	if ready {
		return nil
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", binary, syscall.Exec(binary, os.Args, os.Environ()))
}
