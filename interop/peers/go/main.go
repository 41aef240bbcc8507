// go-libp2p behind the contract of interop/peers/README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/libp2p/go-libp2p/core/peer"
)

const usage = "usage: listen [--stack S] [--listen ADDR] | dial ADDR [--stack S] OPERATION [options]"

type options struct {
	stack, listen                              string
	count, bytes, write, concurrency, up, down uint64
}

// parse reads flags that may stand before, between and after the positional words.
func parse(args []string) (options, []string, error) {
	var o options
	flags := flag.NewFlagSet("go", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.StringVar(&o.stack, "stack", "tcp/noise/yamux", "")
	flags.StringVar(&o.listen, "listen", "/ip4/127.0.0.1/tcp/0", "")
	flags.Uint64Var(&o.count, "count", 1, "")
	flags.Uint64Var(&o.bytes, "bytes", 1<<20, "")
	flags.Uint64Var(&o.write, "write", 1<<16, "")
	flags.Uint64Var(&o.concurrency, "concurrency", 1, "")
	flags.Uint64Var(&o.up, "up", 0, "")
	flags.Uint64Var(&o.down, "down", 0, "")
	var words []string
	for {
		if err := flags.Parse(args); err != nil {
			return o, nil, err
		}
		if flags.NArg() == 0 {
			return o, words, nil
		}
		words = append(words, flags.Arg(0))
		args = flags.Args()[1:]
	}
}

func listen(o options) error {
	h, err := openHost(o.stack, o.listen)
	if err != nil {
		return err
	}
	defer h.Close()
	serve(h)
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	if err != nil {
		return err
	}
	for _, addr := range addrs {
		fmt.Println(addr)
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func dial(o options, address, name string) error {
	operation, known := operations[name]
	if !known {
		return fmt.Errorf("no operation %q", name)
	}
	info, err := peer.AddrInfoFromString(address)
	if err != nil {
		return err
	}
	h, err := openHost(o.stack, "")
	if err != nil {
		return err
	}
	defer h.Close()
	before, err := cpuSeconds()
	if err != nil {
		return err
	}
	result, err := operation(context.Background(), h, *info, o)
	if err != nil {
		return err
	}
	after, err := cpuSeconds()
	if err != nil {
		return err
	}
	result["cpu_seconds"] = after - before
	return json.NewEncoder(os.Stdout).Encode(result)
}

func cpuSeconds() (float64, error) {
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		return 0, err
	}
	micros := (used.Utime.Sec+used.Stime.Sec)*1_000_000 + int64(used.Utime.Usec) + int64(used.Stime.Usec)
	return float64(micros) / 1e6, nil
}

func run(args []string) error {
	o, words, err := parse(args)
	switch {
	case err != nil:
		return err
	case len(words) == 1 && words[0] == "listen":
		return listen(o)
	case len(words) == 3 && words[0] == "dial":
		return dial(o, words[1], words[2])
	}
	return errors.New(usage)
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "go: %v\n", err)
		os.Exit(1)
	}
}
