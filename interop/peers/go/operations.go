package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// Prime, so that the pattern never lines up with a frame and a lost piece shows.
const patternSize = 65521

type result = map[string]any

var operations = map[string]func(context.Context, host.Host, peer.AddrInfo, options) (result, error){
	"ping":       pings,
	"identify":   identify,
	"echo":       echo,
	"perf":       perf,
	"bulk":       bulk,
	"reconnect":  reconnect,
	"handshakes": handshakes,
	"streams":    streams,
	"rtt":        rtt,
	"direct":     direct,
	"reachable":  reachable,
}

func millis(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// dialed connects without waiting for identify, as Host.Connect would.
func dialed(ctx context.Context, h host.Host, info peer.AddrInfo) (network.Conn, error) {
	h.Peerstore().AddAddrs(info.ID, info.Addrs, peerstore.PermanentAddrTTL)
	return h.Network().DialPeer(ctx, info.ID)
}

func open(ctx context.Context, h host.Host, info peer.AddrInfo, id protocol.ID) (network.Stream, error) {
	if err := h.Connect(ctx, info); err != nil {
		return nil, err
	}
	return h.NewStream(ctx, info.ID, id)
}

func pings(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	if err := h.Connect(ctx, info); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rtts := make([]float64, 0, o.count)
	answers := ping.Ping(ctx, h, info.ID)
	for range o.count {
		answer := <-answers
		if answer.Error != nil {
			return nil, answer.Error
		}
		rtts = append(rtts, millis(answer.RTT))
	}
	return result{"rtt_ms": rtts}, nil
}

func identify(ctx context.Context, h host.Host, info peer.AddrInfo, _ options) (result, error) {
	sub, err := h.EventBus().Subscribe([]any{
		new(event.EvtPeerIdentificationCompleted), new(event.EvtPeerIdentificationFailed),
	})
	if err != nil {
		return nil, err
	}
	defer sub.Close()
	if _, err := dialed(ctx, h, info); err != nil {
		return nil, err
	}
	switch found := (<-sub.Out()).(type) {
	case event.EvtPeerIdentificationFailed:
		return nil, found.Reason
	case event.EvtPeerIdentificationCompleted:
		listening := make([]string, 0, len(found.ListenAddrs))
		for _, addr := range found.ListenAddrs {
			listening = append(listening, addr.String())
		}
		observed := ""
		if found.ObservedAddr != nil {
			observed = found.ObservedAddr.String()
		}
		return result{
			"peer_id": found.Peer.String(), "agent": found.AgentVersion, "protocol_version": found.ProtocolVersion,
			"protocols": append([]protocol.ID{}, found.Protocols...), "listen_addrs": listening,
			"observed_addr": observed, "signed_record": found.SignedPeerRecord != nil,
		}, nil
	}
	return nil, errors.New("identify ended without a result")
}

// echoed sends size patterned bytes and checks every byte that comes back, up to the end of the stream.
func echoed(s network.Stream, size uint64) error {
	defer s.Reset() // a no-op once both ends are closed
	pattern := make([]byte, patternSize, 2*patternSize)
	if _, err := rand.Read(pattern); err != nil {
		return err
	}
	pattern = append(pattern, pattern...)
	sent := make(chan error, 1)
	go func() {
		for left := size; left > 0; {
			offset := (size - left) % patternSize
			n, err := s.Write(pattern[offset : offset+min(left, patternSize)])
			if err != nil {
				sent <- err
				return
			}
			left -= uint64(n)
		}
		sent <- s.CloseWrite()
	}()
	buffer := make([]byte, patternSize)
	have := uint64(0)
	for {
		n, err := s.Read(buffer)
		offset := have % patternSize
		if !bytes.Equal(buffer[:n], pattern[offset:offset+uint64(n)]) {
			return fmt.Errorf("echo differs within %d bytes after %d", n, have)
		}
		have += uint64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if have != size {
		return fmt.Errorf("echo gave %d of %d bytes", have, size)
	}
	if err := <-sent; err != nil {
		return err
	}
	return s.Close()
}

func echo(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	if err := h.Connect(ctx, info); err != nil {
		return nil, err
	}
	start := time.Now()
	s, err := h.NewStream(ctx, info.ID, echoProtocol)
	if err != nil {
		return nil, err
	}
	if err := echoed(s, o.bytes); err != nil {
		return nil, err
	}
	return result{"bytes": o.bytes, "ok": true, "seconds": time.Since(start).Seconds()}, nil
}

type took struct{ total, uploaded time.Duration }

// exchange is one round of /perf/1.0.0. The server answers only after the end of the upload, so the
// upload has arrived when the first answer, or the end, comes.
func exchange(ctx context.Context, h host.Host, info peer.AddrInfo, up, down, chunk uint64) (took, error) {
	if err := h.Connect(ctx, info); err != nil {
		return took{}, err
	}
	start := time.Now()
	s, err := h.NewStream(ctx, info.ID, perfProtocol)
	if err != nil {
		return took{}, err
	}
	defer s.Reset()
	if _, err := s.Write(binary.BigEndian.AppendUint64(nil, down)); err != nil {
		return took{}, err
	}
	if err := writeZeros(s, up, chunk); err != nil {
		return took{}, err
	}
	if err := s.CloseWrite(); err != nil {
		return took{}, err
	}
	buffer := make([]byte, chunkSize)
	first, err := s.Read(buffer)
	uploaded := time.Since(start)
	received := uint64(first)
	for err == nil {
		var n int
		n, err = s.Read(buffer)
		received += uint64(n)
	}
	if !errors.Is(err, io.EOF) {
		return took{}, err
	}
	if received != down {
		return took{}, fmt.Errorf("perf gave %d of %d bytes", received, down)
	}
	return took{time.Since(start), uploaded}, nil
}

func perf(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	t, err := exchange(ctx, h, info, o.up, o.down, chunkSize)
	if err != nil {
		return nil, err
	}
	return result{
		"up": o.up, "down": o.down, "seconds": t.total.Seconds(),
		"upload_seconds": t.uploaded.Seconds(), "download_seconds": (t.total - t.uploaded).Seconds(),
	}, nil
}

func bulk(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	if o.write == 0 {
		return nil, errors.New("--write must be positive")
	}
	t, err := exchange(ctx, h, info, o.bytes, 0, o.write)
	if err != nil {
		return nil, err
	}
	return result{"bytes": o.bytes, "seconds": t.total.Seconds()}, nil
}

func reconnect(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	start := time.Now()
	for range o.count {
		if _, err := pings(ctx, h, info, options{count: 1}); err != nil {
			return nil, err
		}
		if err := h.Network().ClosePeer(info.ID); err != nil {
			return nil, err
		}
	}
	return result{"count": o.count, "seconds": time.Since(start).Seconds()}, nil
}

func handshakes(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	latencies := make([]float64, 0, o.count)
	start := time.Now()
	for range o.count {
		began := time.Now()
		conn, err := dialed(ctx, h, info)
		if err != nil {
			return nil, err
		}
		latencies = append(latencies, millis(time.Since(began)))
		s, err := open(ctx, h, info, echoProtocol)
		if err != nil {
			return nil, err
		}
		if err := echoed(s, 1); err != nil {
			return nil, err
		}
		if err := conn.Close(); err != nil {
			return nil, err
		}
	}
	return result{"count": o.count, "seconds": time.Since(start).Seconds(), "latency_ms": latencies}, nil
}

func streams(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	if err := h.Connect(ctx, info); err != nil {
		return nil, err
	}
	var taken atomic.Uint64
	var workers sync.WaitGroup
	failures := make(chan error, o.concurrency)
	start := time.Now()
	for range o.concurrency {
		workers.Go(func() {
			for taken.Add(1) <= o.count {
				s, err := h.NewStream(ctx, info.ID, echoProtocol)
				if err == nil {
					err = echoed(s, 1)
				}
				if err != nil {
					failures <- err
					return
				}
			}
		})
	}
	workers.Wait()
	seconds := time.Since(start).Seconds()
	select {
	case err := <-failures:
		return nil, err
	default:
		return result{"count": o.count, "seconds": seconds}, nil
	}
}

func rtt(ctx context.Context, h host.Host, info peer.AddrInfo, o options) (result, error) {
	return pings(ctx, h, info, o)
}
