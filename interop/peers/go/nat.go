package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/autonatv2"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	ma "github.com/multiformats/go-multiaddr"
)

const directSeconds = 40 * time.Second

// relayed are the options of a host that uses relays; with punch, it looks for a direct way behind them.
func relayed(punch bool) []libp2p.Option {
	if punch {
		return []libp2p.Option{libp2p.EnableRelay(), libp2p.EnableHolePunching(), libp2p.ForceReachabilityPrivate()}
	}
	return []libp2p.Option{libp2p.EnableRelay(), libp2p.DisableIdentifyAddressDiscovery()}
}

// serveNat relays for others and answers AutoNAT v2.
func serveNat(h host.Host, o options) error {
	if o.relay {
		if _, err := relay.New(h); err != nil {
			return err
		}
	}
	if o.autonat {
		_, err := openAutonat(h, o.stack)
		return err
	}
	return nil
}

func openAutonat(h host.Host, stack string) (*autonatv2.AutoNAT, error) {
	dialer, err := openHost(stack, "")
	if err != nil {
		return nil, err
	}
	nat, err := autonatv2.New(dialer, autonatv2.AllowPrivateAddrs)
	if err != nil {
		return nil, err
	}
	return nat, nat.Start(h)
}

// reserved is where the host is reached through the relay from now on.
func reserved(ctx context.Context, h host.Host, via string) ([]ma.Multiaddr, error) {
	info, err := peer.AddrInfoFromString(via)
	if err != nil {
		return nil, err
	}
	if err := h.Connect(ctx, *info); err != nil {
		return nil, err
	}
	granted, err := client.Reserve(ctx, h, *info)
	if err != nil {
		return nil, err
	}
	if granted.Voucher == nil {
		return nil, errors.New("the reservation came without a voucher")
	}
	addr, err := ma.NewMultiaddr(fmt.Sprintf("%s/p2p-circuit/p2p/%s", via, h.ID()))
	return []ma.Multiaddr{addr}, err
}

// punches waits until the host serves DCUtR. It looks for its public address after 0, 250, 750 ms and so on, and punches
// to nobody who came before it had one.
func punches(ctx context.Context, h host.Host) error {
	ctx, cancel := context.WithTimeout(ctx, directSeconds)
	defer cancel()
	for !slices.Contains(h.Mux().Protocols(), holepunch.Protocol) {
		select {
		case <-ctx.Done():
			return errors.New("no public address was learned")
		case <-time.After(20 * time.Millisecond):
		}
	}
	return nil
}

// direct connects through a relay and waits until there is a direct connection too.
func direct(ctx context.Context, h host.Host, info peer.AddrInfo, _ options) (result, error) {
	ctx, cancel := context.WithTimeout(ctx, directSeconds)
	defer cancel()
	if err := h.Connect(network.WithAllowLimitedConn(ctx, "direct"), info); err != nil {
		return nil, err
	}
	for {
		for _, conn := range h.Network().ConnsToPeer(info.ID) {
			if !conn.Stat().Limited {
				return result{"direct": true, "addr": conn.RemoteMultiaddr().String()}, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("no direct connection came to be")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reachable asks one AutoNAT v2 server about our own addresses.
func reachable(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	nat, err := openAutonat(h, o.stack)
	if err != nil {
		return nil, err
	}
	if err := h.Connect(ctx, info); err != nil {
		return nil, err
	}
	requests := make([]autonatv2.Request, 0, len(h.Addrs()))
	for _, addr := range h.Addrs() {
		requests = append(requests, autonatv2.Request{Addr: addr, SendDialData: true})
	}
	deadline := time.Now().Add(10 * time.Second)
	for {
		found, err := nat.GetReachability(ctx, requests)
		if err == nil {
			return result{"addr": found.Addr.String(), "reachability": found.Reachability.String()}, nil
		}
		// The server is one as soon as it was identified.
		if !errors.Is(err, autonatv2.ErrNoPeers) || time.Now().After(deadline) {
			return nil, err
		}
		time.Sleep(20 * time.Millisecond)
	}
}
