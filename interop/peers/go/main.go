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

	dht "github.com/libp2p/go-libp2p-kad-dht"
	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
)

const usage = "usage: listen [--stack S] [--listen ADDR] | dial ADDR [--stack S] OPERATION [options] | network [options]; " +
	"each with --dht ID or --gossip TOPIC"

type options struct {
	stack, listen, dht, gossip                 string
	bootstrap                                  []peer.AddrInfo
	count, bytes, write, concurrency, up, down uint64
	publish, size, nodes                       uint64
	relay, punch, autonat                      bool
	via                                        string
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
	flags.StringVar(&o.dht, "dht", "", "")
	flags.StringVar(&o.gossip, "gossip", "", "")
	flags.Uint64Var(&o.publish, "publish", 1, "")
	flags.Uint64Var(&o.size, "size", 1024, "")
	flags.Uint64Var(&o.nodes, "nodes", 10, "")
	flags.BoolVar(&o.relay, "relay", false, "")
	flags.BoolVar(&o.punch, "punch", false, "")
	flags.BoolVar(&o.autonat, "autonat", false, "")
	flags.StringVar(&o.via, "via", "", "")
	flags.Func("bootstrap", "", func(text string) error {
		info, err := peer.AddrInfoFromString(text)
		if err == nil {
			o.bootstrap = append(o.bootstrap, *info)
		}
		return err
	})
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
	h, err := openHost(o.stack, o.listen, relayed(o.punch)...)
	if err != nil {
		return err
	}
	defer h.Close()
	serve(h)
	if err := serveNat(h, o); err != nil {
		return err
	}
	heard, err := services(context.Background(), h, o)
	if err != nil {
		return err
	}
	addrs, err := peer.AddrInfoToP2pAddrs(&peer.AddrInfo{ID: h.ID(), Addrs: h.Addrs()})
	if err != nil {
		return err
	}
	if o.via != "" {
		if addrs, err = reserved(context.Background(), h, o.via); err != nil {
			return err
		}
	}
	if o.punch {
		if err := punches(context.Background(), h); err != nil {
			return err
		}
	}
	for _, addr := range addrs {
		fmt.Println(addr)
	}
	fmt.Println("ready")
	if heard != nil {
		go tell(context.Background(), heard)
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// services opens what the options name beside the plain ones and joins it.
func services(ctx context.Context, h host.Host, o options) (*pubsub.Subscription, error) {
	var heard *pubsub.Subscription
	if o.gossip != "" {
		var err error
		if _, heard, err = openGossip(ctx, h, o.gossip); err != nil {
			return nil, err
		}
	}
	if o.dht != "" {
		d, err := openDHT(ctx, h, o.dht, dht.ModeServer)
		if err != nil {
			return nil, err
		}
		return heard, joined(ctx, h, d, o.bootstrap)
	}
	for _, info := range o.bootstrap {
		if err := h.Connect(ctx, info); err != nil {
			return nil, err
		}
	}
	return heard, nil
}

// told prints a result with the CPU time that it cost.
func told(run func() (result, error)) error {
	before, err := cpuSeconds()
	if err != nil {
		return err
	}
	found, err := run()
	if err != nil {
		return err
	}
	after, err := cpuSeconds()
	if err != nil {
		return err
	}
	found["cpu_seconds"] = after - before
	return json.NewEncoder(os.Stdout).Encode(found)
}

func runNetwork(o options) (result, error) {
	switch {
	case o.nodes < 2 || o.count == 0 || o.size < 8:
		return nil, errors.New("a network has two nodes and more, and messages of 8 bytes and more")
	case o.dht != "":
		return networkDHT(context.Background(), o)
	case o.gossip != "":
		return networkGossip(context.Background(), o)
	}
	return nil, errors.New(usage)
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
	listen := ""
	if name == "direct" || name == "reachable" {
		listen = o.listen
	}
	h, err := openHost(o.stack, listen, relayed(name == "direct")...)
	if err != nil {
		return err
	}
	defer h.Close()
	ctx := network.WithAllowLimitedConn(context.Background(), "interop")
	return told(func() (result, error) { return operation(ctx, h, *info, o) })
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
	case len(words) == 1 && words[0] == "network":
		return told(func() (result, error) { return runNetwork(o) })
	case len(words) > 2 && words[0] == "dial" && o.dht != "":
		return told(func() (result, error) { return dialDHT(context.Background(), o, words[1], words[2:]) })
	case len(words) == 3 && words[0] == "dial" && o.gossip != "" && words[2] == "gossip":
		return told(func() (result, error) { return dialGossip(context.Background(), o, words[1]) })
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
