package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
)

const (
	echoProtocol = "/echo/1.0.0"
	perfProtocol = "/perf/1.0.0"
	chunkSize    = 64 << 10
)

var (
	transports = map[string]libp2p.Option{
		"tcp": libp2p.Transport(tcp.NewTCPTransport),
		"ws":  libp2p.Transport(websocket.New),
		"wss": secureWebsockets(),
	}
	securities = map[string]libp2p.Option{
		"noise": libp2p.Security(noise.ID, noise.New),
		"tls":   libp2p.Security(libp2ptls.ID, libp2ptls.New),
	}
	muxers = map[string]libp2p.Option{"yamux": libp2p.Muxer(yamux.ID, yamux.DefaultTransport)}
	// Transports that bring their own security and streams are a whole stack.
	whole = map[string]libp2p.Option{"quic-v1": libp2p.Transport(quic.NewTransport)}
)

// layers are the options of a stack.
func layers(stack string) ([]libp2p.Option, error) {
	if opt, known := whole[stack]; known {
		return []libp2p.Option{opt}, nil
	}
	parts := strings.Split(stack, "/")
	if len(parts) != 3 {
		return nil, fmt.Errorf("a stack is TRANSPORT/SECURITY/MUXER or quic-v1, not %q", stack)
	}
	var opts []libp2p.Option
	for i, table := range []map[string]libp2p.Option{transports, securities, muxers} {
		opt, known := table[parts[i]]
		if !known {
			return nil, fmt.Errorf("go has no %q (%s of the stack)", parts[i], []string{"transport", "security", "muxer"}[i])
		}
		opts = append(opts, opt)
	}
	return opts, nil
}

// openHost starts a host with exactly one stack; without an address it only dials.
func openHost(stack, listen string, more ...libp2p.Option) (host.Host, error) {
	if len(more) == 0 {
		more = relayed(false)
	}
	opts, err := layers(stack)
	if err != nil {
		return nil, err
	}
	opts = append(opts,
		// The shipped limits refuse many quick connections from one address.
		libp2p.ResourceManager(&network.NullResourceManager{}),
		libp2p.UserAgent(agent()),
		libp2p.DisableRelay(),
		libp2p.DisableMetrics(),
	)
	if listen == "" {
		opts = append(opts, libp2p.NoListenAddrs)
	} else {
		opts = append(opts, libp2p.ListenAddrStrings(listen))
	}
	return libp2p.New(append(opts, more...)...)
}

// secureWebsockets shows, and trusts, the certificates that the environment names.
func secureWebsockets() libp2p.Option {
	var opts []any
	if chain, err := tls.LoadX509KeyPair(os.Getenv("WEB_CHAIN"), os.Getenv("WEB_KEY")); err == nil {
		opts = append(opts, websocket.WithTLSConfig(&tls.Config{Certificates: []tls.Certificate{chain}}))
	}
	if authority, err := os.ReadFile(os.Getenv("WEB_AUTHORITY")); err == nil {
		trusted := x509.NewCertPool()
		trusted.AppendCertsFromPEM(authority)
		opts = append(opts, websocket.WithTLSClientConfig(&tls.Config{RootCAs: trusted}))
	}
	return libp2p.Transport(websocket.New, opts...)
}

// agent names the library, where it would name this program by itself.
func agent() string {
	const library = "github.com/libp2p/go-libp2p"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			if dependency.Path == library {
				return "go-libp2p/" + dependency.Version
			}
		}
	}
	return "go-libp2p"
}

// serve mounts echo and perf; identify and ping are the host's own.
func serve(h host.Host) {
	h.SetStreamHandler(echoProtocol, guarded(func(s network.Stream) error {
		_, err := io.CopyBuffer(onlyWriter{s}, s, make([]byte, chunkSize))
		return err
	}))
	h.SetStreamHandler(perfProtocol, guarded(func(s network.Stream) error {
		var header [8]byte
		if _, err := io.ReadFull(s, header[:]); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(onlyWriter{io.Discard}, s, make([]byte, chunkSize)); err != nil {
			return err
		}
		return writeZeros(s, binary.BigEndian.Uint64(header[:]), chunkSize)
	}))
}

func guarded(handle func(network.Stream) error) network.StreamHandler {
	return func(s network.Stream) {
		if err := handle(s); err != nil {
			s.Reset()
			return
		}
		s.Close()
	}
}

// onlyWriter hides ReadFrom, so that io.CopyBuffer uses the buffer that it was given.
type onlyWriter struct{ io.Writer }

func writeZeros(w io.Writer, size, chunk uint64) error {
	piece := make([]byte, chunk)
	for size > 0 {
		now := min(size, chunk)
		if _, err := w.Write(piece[:now]); err != nil {
			return err
		}
		size -= now
	}
	return nil
}
