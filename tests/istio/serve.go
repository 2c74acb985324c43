package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// How often the files are looked at.
const lookEvery = 50 * time.Millisecond

// serve runs until it is ended. Every line on stdout is an event: where it listens, and what became of a change.
func serve(arguments []string, out io.Writer) error {
	var mesh meshSettings
	var address string
	var inAmbient bool
	files, err := parse("serve", arguments, func(flags *flag.FlagSet) {
		mesh.define(flags)
		flags.StringVar(&address, "listen", "127.0.0.1:0", "the loopback address of the ADS listener")
		flags.BoolVar(&inAmbient, "ambient", false, "an ambient mesh, for waypoints")
	})
	if err != nil {
		return err
	}
	if err := onLoopback(address); err != nil {
		return err
	}
	if err := restart(inAmbient); err != nil {
		return err
	}
	settings, err := mesh.read()
	if err != nil {
		return err
	}
	seen := fingerprint(files)
	all, err := readResources(files, inAmbient)
	if err != nil {
		return err
	}
	server, err := startIstiod(all, settings, address)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "listening on %s\n", server.Listener.Addr())
	for {
		time.Sleep(lookEvery)
		now := fingerprint(files)
		if now == seen {
			continue
		}
		seen = now
		all, err := readResources(files, inAmbient)
		if err != nil {
			fmt.Fprintf(out, "refused: what is served stays: %v\n", err)
			continue
		}
		added, changed, removed, err := server.update(all)
		if err != nil {
			fmt.Fprintf(out, "refused: %v\n", err)
			continue
		}
		fmt.Fprintf(out, "updated: %d added, %d changed, %d removed\n", added, changed, removed)
	}
}

// It takes any configuration from whoever reaches it, without a word of who that is.
func onLoopback(address string) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("--listen %s: %w", address, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("--listen %s: only a loopback address, as 127.0.0.1:15010", address)
	}
	return nil
}

// fingerprint changes with the files' content. A file that cannot be read counts as one without content: it may be about to be
// replaced.
func fingerprint(files []string) [sha256.Size]byte {
	hash := sha256.New()
	for _, file := range files {
		content, err := os.ReadFile(file)
		fmt.Fprintln(hash, file, len(content), err == nil)
		hash.Write(content)
	}
	return [sha256.Size]byte(hash.Sum(nil))
}
