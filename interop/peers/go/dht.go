package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/ipfs/go-cid"
	dht "github.com/libp2p/go-libp2p-kad-dht"
	record "github.com/libp2p/go-libp2p-record"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multihash"
)

const (
	tableWait = 10 * time.Second
	pollEvery = 20 * time.Millisecond
	// Nobody answers a provider record, and one that is still on its way dies with the connection.
	lingering = 500 * time.Millisecond
)

// anything is the validator of /example/.
type anything struct{}

func (anything) Validate(string, []byte) error        { return nil }
func (anything) Select(string, [][]byte) (int, error) { return 0, nil }

func openDHT(ctx context.Context, h host.Host, id string, mode dht.ModeOpt) (*dht.IpfsDHT, error) {
	return dht.New(ctx, h,
		dht.Mode(mode),
		// Under its own prefix the library insists on its own namespaces; the id is what counts.
		dht.ProtocolPrefix("/interop"),
		dht.V1ProtocolOverride(protocol.ID(id)),
		dht.Validator(record.NamespacedValidator{"pk": record.PublicKeyValidator{}, "example": anything{}}),
	)
}

// joined connects, and waits until the table has somebody: that takes an identify.
func joined(ctx context.Context, h host.Host, d *dht.IpfsDHT, bootstrap []peer.AddrInfo) error {
	for _, info := range bootstrap {
		if err := h.Connect(ctx, info); err != nil {
			return err
		}
	}
	if len(bootstrap) == 0 {
		return nil
	}
	for deadline := time.Now().Add(tableWait); d.RoutingTable().Size() == 0; time.Sleep(pollEvery) {
		if time.Now().After(deadline) {
			return errors.New("no bootstrap peer serves this DHT")
		}
	}
	return <-d.RefreshRoutingTable()
}

func cidOf(key []byte) cid.Cid { return cid.NewCidV1(cid.Raw, multihash.Multihash(key)) }

type query func(context.Context, host.Host, *dht.IpfsDHT, []string) (result, error)

// dhtOperation is an operation and how many words come behind its name.
type dhtOperation struct {
	words int
	run   query
}

var dhtOperations = map[string]dhtOperation{
	"find-peer": {1, findPeer}, "put": {2, putValue}, "get": {1, getValue},
	"provide": {1, provide}, "find-providers": {1, findProviders},
}

func findPeer(ctx context.Context, _ host.Host, d *dht.IpfsDHT, words []string) (result, error) {
	id, err := peer.Decode(words[0])
	if err != nil {
		return nil, err
	}
	info, err := d.FindPeer(ctx, id)
	if err != nil {
		return nil, err
	}
	addrs := make([]string, 0, len(info.Addrs))
	for _, addr := range info.Addrs {
		addrs = append(addrs, addr.String())
	}
	return result{"peer_id": info.ID.String(), "addrs": addrs}, nil
}

func putValue(ctx context.Context, _ host.Host, d *dht.IpfsDHT, words []string) (result, error) {
	key, err := hex.DecodeString(words[0])
	if err != nil {
		return nil, err
	}
	value, err := hex.DecodeString(words[1])
	if err != nil {
		return nil, err
	}
	return result{"key": words[0], "ok": true}, d.PutValue(ctx, string(key), value)
}

func getValue(ctx context.Context, _ host.Host, d *dht.IpfsDHT, words []string) (result, error) {
	key, err := hex.DecodeString(words[0])
	if err != nil {
		return nil, err
	}
	value, err := d.GetValue(ctx, string(key))
	return result{"key": words[0], "value": hex.EncodeToString(value)}, err
}

func provide(ctx context.Context, h host.Host, d *dht.IpfsDHT, words []string) (result, error) {
	key, err := hex.DecodeString(words[0])
	if err != nil {
		return nil, err
	}
	err = d.Provide(ctx, cidOf(key), true)
	time.Sleep(lingering)
	return result{"key": words[0], "peer_id": h.ID().String(), "ok": true}, err
}

func findProviders(ctx context.Context, _ host.Host, d *dht.IpfsDHT, words []string) (result, error) {
	key, err := hex.DecodeString(words[0])
	if err != nil {
		return nil, err
	}
	found, err := d.FindProviders(ctx, cidOf(key))
	providers := make([]string, 0, len(found))
	for _, info := range found {
		providers = append(providers, info.ID.String())
	}
	if err == nil && len(providers) == 0 {
		err = errors.New("no providers")
	}
	return result{"key": words[0], "providers": providers}, err
}

func dialDHT(ctx context.Context, o options, address string, words []string) (result, error) {
	operation, known := dhtOperations[words[0]]
	if !known || len(words) != 1+operation.words {
		return nil, fmt.Errorf("no DHT operation %q", words)
	}
	info, err := peer.AddrInfoFromString(address)
	if err != nil {
		return nil, err
	}
	h, err := openHost(o.stack, o.listen)
	if err != nil {
		return nil, err
	}
	d, err := openDHT(ctx, h, o.dht, dht.ModeClient)
	if err != nil {
		return nil, err
	}
	if err := joined(ctx, h, d, []peer.AddrInfo{*info}); err != nil {
		return nil, err
	}
	return operation.run(ctx, h, d, words[1:])
}

// node opens one node of a network in this process, which joins through the first.
func node(ctx context.Context, o options, mode dht.ModeOpt, first host.Host) (host.Host, *dht.IpfsDHT, error) {
	h, err := openHost(o.stack, o.listen)
	if err != nil {
		return nil, nil, err
	}
	d, err := openDHT(ctx, h, o.dht, mode)
	if err != nil {
		return nil, nil, err
	}
	var bootstrap []peer.AddrInfo
	if first != nil {
		bootstrap = []peer.AddrInfo{{ID: first.ID(), Addrs: first.Addrs()}}
	}
	return h, d, joined(ctx, h, d, bootstrap)
}

// networkDHT runs servers and clients in this process: one client writes, another one reads.
func networkDHT(ctx context.Context, o options) (result, error) {
	first, firstDHT, err := node(ctx, o, dht.ModeServer, nil)
	if err != nil {
		return nil, err
	}
	for range o.nodes - 1 {
		if _, _, err := node(ctx, o, dht.ModeServer, first); err != nil {
			return nil, err
		}
	}
	_, writer, err := node(ctx, o, dht.ModeClient, first)
	if err != nil {
		return nil, err
	}
	_, reader, err := node(ctx, o, dht.ModeClient, first)
	if err != nil {
		return nil, err
	}
	key := func(kind string, i uint64) []byte {
		digest := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(kind), i))
		return append([]byte{0x12, 32}, digest[:]...)
	}
	name := func(i uint64) string { return "/example/" + hex.EncodeToString(key("value", i)) }
	found := result{"count": o.count, "nodes": o.nodes, "table": firstDHT.RoutingTable().Size()}
	for _, timed := range []struct {
		name string
		run  func(i uint64) error
	}{
		{"provide", func(i uint64) error { return writer.Provide(ctx, cidOf(key("provided", i)), true) }},
		{"put", func(i uint64) error { return writer.PutValue(ctx, name(i), key("value", i)) }},
		{"get", func(i uint64) error {
			value, err := reader.GetValue(ctx, name(i))
			if err == nil && string(value) != string(key("value", i)) {
				err = errors.New("another value than was put")
			}
			return err
		}},
		{"find", func(i uint64) error {
			for range reader.FindProvidersAsync(ctx, cidOf(key("provided", i)), 1) {
				return nil
			}
			return errors.New("no provider")
		}},
	} {
		start := time.Now()
		for i := range o.count {
			if err := timed.run(i); err != nil {
				return nil, fmt.Errorf("%s: %w", timed.name, err)
			}
		}
		found[timed.name+"_per_second"] = float64(o.count) / time.Since(start).Seconds()
	}
	return found, nil
}
