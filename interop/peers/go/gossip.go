package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	pubsub "github.com/libp2p/go-libp2p-pubsub"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
)

const (
	meshWait    = 1500 * time.Millisecond
	burstWait   = 30 * time.Second
	publishGap  = 10 * time.Millisecond
	steadyGap   = 50 * time.Millisecond
	steadyCount = 100
	queued      = 4096
)

// openGossip scores its peers and exchanges them; loopback has one address for all, so that is not held against them.
func openGossip(ctx context.Context, h host.Host, name string) (*pubsub.Topic, *pubsub.Subscription, error) {
	scores := &pubsub.PeerScoreParams{
		AppSpecificScore: func(peer.ID) float64 { return 0 },
		DecayInterval:    time.Second,
		DecayToZero:      0.1,
		RetainScore:      time.Minute,
		Topics: map[string]*pubsub.TopicScoreParams{name: {
			TopicWeight: 1, TimeInMeshWeight: 0.01, TimeInMeshQuantum: time.Second, TimeInMeshCap: 100,
			FirstMessageDeliveriesWeight: 1, FirstMessageDeliveriesDecay: 0.9, FirstMessageDeliveriesCap: 100,
			InvalidMessageDeliveriesWeight: -10, InvalidMessageDeliveriesDecay: 0.9,
		}},
		BehaviourPenaltyWeight: -10, BehaviourPenaltyThreshold: 6, BehaviourPenaltyDecay: 0.2,
	}
	thresholds := &pubsub.PeerScoreThresholds{
		GossipThreshold: -10, PublishThreshold: -50, GraylistThreshold: -80, OpportunisticGraftThreshold: 1,
	}
	ps, err := pubsub.NewGossipSub(ctx, h,
		pubsub.WithPeerScore(scores, thresholds),
		pubsub.WithPeerExchange(true),
		pubsub.WithFloodPublish(true),
		// The shipped queues of 32 lose most of a burst.
		pubsub.WithPeerOutboundQueueSize(queued),
		pubsub.WithValidateQueueSize(queued),
	)
	if err != nil {
		return nil, nil, err
	}
	topic, err := ps.Join(name)
	if err != nil {
		return nil, nil, err
	}
	subscription, err := topic.Subscribe(pubsub.WithBufferSize(queued))
	return topic, subscription, err
}

// tell prints a line for every message, until the subscription ends.
func tell(ctx context.Context, subscription *pubsub.Subscription) {
	lines := json.NewEncoder(os.Stdout)
	for {
		message, err := subscription.Next(ctx)
		if err != nil {
			return
		}
		digest := sha256.Sum256(message.Data)
		_ = lines.Encode(result{
			"topic": message.GetTopic(), "from": message.GetFrom().String(), "seqno": hex.EncodeToString(message.GetSeqno()),
			"size": len(message.Data), "sha256": hex.EncodeToString(digest[:]),
		})
	}
}

func dialGossip(ctx context.Context, o options, address string) (result, error) {
	info, err := peer.AddrInfoFromString(address)
	if err != nil {
		return nil, err
	}
	h, err := openHost(o.stack, o.listen)
	if err != nil {
		return nil, err
	}
	topic, subscription, err := openGossip(ctx, h, o.gossip)
	if err != nil {
		return nil, err
	}
	defer subscription.Cancel()
	if err := h.Connect(ctx, *info); err != nil {
		return nil, err
	}
	if err := met(1, topic); err != nil {
		return nil, err
	}
	digests := make([]string, 0, o.publish)
	for range o.publish {
		data := make([]byte, o.size)
		if _, err := rand.Read(data); err != nil {
			return nil, err
		}
		if err := topic.Publish(ctx, data); err != nil {
			return nil, err
		}
		digest := sha256.Sum256(data)
		digests = append(digests, hex.EncodeToString(digest[:]))
		time.Sleep(publishGap)
	}
	time.Sleep(meshWait) // the last may still stand in a queue
	return result{"peer_id": h.ID().String(), "published": o.publish, "size": o.size, "sha256": digests}, nil
}

// met waits until so many peers are subscribed everywhere, and then for a heartbeat that grafts them.
func met(peers int, topics ...*pubsub.Topic) error {
	deadline := time.Now().Add(tableWait)
	for _, topic := range topics {
		for ; len(topic.ListPeers()) < peers; time.Sleep(pollEvery) {
			if time.Now().After(deadline) {
				return errors.New("too few peers are subscribed to the topic")
			}
		}
	}
	time.Sleep(meshWait)
	return nil
}

// arrivals counts what all nodes received and how long each took; the time of publishing stands in the message.
type arrivals struct {
	sync.Mutex
	latencies []float64
	since     time.Time
}

func (a *arrivals) read(ctx context.Context, own peer.ID, subscription *pubsub.Subscription) {
	for {
		message, err := subscription.Next(ctx)
		if err != nil {
			return
		}
		if message.GetFrom() == own {
			continue
		}
		sent := time.Duration(binary.BigEndian.Uint64(message.Data))
		took := time.Since(a.since) - sent
		a.Lock()
		a.latencies = append(a.latencies, millis(took))
		a.Unlock()
	}
}

// drained waits for so many arrivals, or for the deadline, and takes them.
func (a *arrivals) drained(expected int) []float64 {
	deadline := time.Now().Add(burstWait)
	for ; ; time.Sleep(time.Millisecond) {
		a.Lock()
		if len(a.latencies) >= expected || time.Now().After(deadline) {
			taken := a.latencies
			a.latencies = nil
			a.Unlock()
			return taken
		}
		a.Unlock()
	}
}

// networkGossip runs nodes that all know each other: a burst from one, then a steady rate from all in turn.
func networkGossip(ctx context.Context, o options) (result, error) {
	all := &arrivals{since: time.Now()}
	var topics []*pubsub.Topic
	var hosts []host.Host
	for range o.nodes {
		h, err := openHost(o.stack, o.listen)
		if err != nil {
			return nil, err
		}
		topic, subscription, err := openGossip(ctx, h, o.gossip)
		if err != nil {
			return nil, err
		}
		for _, other := range hosts {
			if err := h.Connect(ctx, peer.AddrInfo{ID: other.ID(), Addrs: other.Addrs()}); err != nil {
				return nil, err
			}
		}
		hosts, topics = append(hosts, h), append(topics, topic)
		go all.read(ctx, h.ID(), subscription)
	}
	if err := met(len(topics)-1, topics...); err != nil {
		return nil, err
	}
	publish := func(topic *pubsub.Topic) error {
		data := make([]byte, o.size)
		binary.BigEndian.PutUint64(data, uint64(time.Since(all.since)))
		if _, err := rand.Read(data[8:]); err != nil {
			return err
		}
		return topic.Publish(ctx, data)
	}
	expected := int(o.count) * (len(topics) - 1)
	start := time.Now()
	for range o.count {
		if err := publish(topics[0]); err != nil {
			return nil, err
		}
	}
	burst := len(all.drained(expected))
	seconds := time.Since(start).Seconds()
	for i := range steadyCount {
		if err := publish(topics[i%len(topics)]); err != nil {
			return nil, err
		}
		time.Sleep(steadyGap)
	}
	steady := all.drained(steadyCount * (len(topics) - 1))
	slices.Sort(steady)
	return result{
		"nodes": o.nodes, "count": o.count, "size": o.size, "expected": expected, "delivered": burst,
		"burst_per_second": float64(burst) / seconds, "steady_delivered": len(steady),
		"p50_ms": steady[len(steady)/2], "p99_ms": steady[len(steady)*99/100],
	}, nil
}
