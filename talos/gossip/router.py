"""The gossipsub router, v1.0 to v1.3, with floodsub peers: all decisions, no IO.

A message that is new and holds goes to our subscribers and on to the mesh of its topic, to floodsub and direct
peers; ours go to everybody who wants the topic (flood publishing). Each heartbeat brings the meshes into their bounds
and announces the last messages to some of those outside. What one peer can make us hold or send is bounded, and goes
when it leaves; only a bad score and a back-off stay.

`mesh`, `lazy`, `intake`, `forwarding`, `interest` and `exchange` hold the rules of their part; this module is where
calls come in and where they meet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.errors import LimitExceeded, LocalProtocolError, RemoteProtocolError
from talos.gossip import wire
from talos.gossip.backoff import Backoffs
from talos.gossip.event import Candidate, Connect, Deliver, Disconnect
from talos.gossip.exchange import PeerExchange
from talos.gossip.forwarding import Forwarding
from talos.gossip.gater import Gater
from talos.gossip.intake import Intake
from talos.gossip.interest import Interest
from talos.gossip.lazy import LazyPush
from talos.gossip.mesh import Mesh
from talos.gossip.message import Message
from talos.gossip.message_cache import MessageCache
from talos.gossip.neighbour import EffectSink, Neighbour, Neighbours
from talos.gossip.promise import Promises
from talos.gossip.score import PeerScores
from talos.gossip.score_config import ScoreThresholds
from talos.gossip.signature import Signatures
from talos.gossip.stats import RouterStats
from talos.gossip.version import Version

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from ipaddress import IPv4Address, IPv6Address
    from random import Random

    from talos.gossip.config import GossipConfig
    from talos.gossip.event import Effect, ValidationResult
    from talos.gossip.wire import Control
    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId

__all__ = ["Router"]

_GRAYLISTED_TICKS = 10
"""Heartbeats that a peer may stay graylisted before its streams are ended."""
_UNSCORED = ScoreThresholds(accept_px_threshold=0.0, opportunistic_graft_threshold=0.0)


class Router:
    """One node's router. `now` is monotonic time in seconds everywhere; effects are to be carried out in order.

    `key` may be None only where nothing is signed; `first_seqno` is Unix time in nanoseconds, so that numbers rise
    over restarts. `record_of` gives the signed record of a peer for peer exchange. `on_receive` is told sender,
    topic and id of every well-formed message, known or not. `ask`, if it is given, is called instead of a
    `Validate`: it answers at once, or None where `validated` follows.
    """

    def __init__(
        self, config: GossipConfig, *, peer_id: PeerId, key: PrivateKey | None, random: Random, now: float,
        first_seqno: int, record_of: Callable[[PeerId], bytes | None] = lambda _: None,
        on_receive: Callable[[PeerId, str, bytes], None] | None = None,
        ask: Callable[[Message], ValidationResult | None] | None = None,
    ) -> None:  # fmt: skip
        self.stats = stats = RouterStats()
        self._config = config
        self._peer_id = peer_id
        self._thresholds = config.score.thresholds if config.score else _UNSCORED
        self._next_heartbeat = now + config.heartbeat_initial_delay
        self._tick = 0
        self._topics: dict[str, bool] = {}
        self._direct: set[PeerId] = set(config.direct_peers)
        self._neighbours = neighbours = Neighbours()
        self._effects = effects = EffectSink()
        self._scores = scores = PeerScores(config.score, now=now, kept_topics=config.limits.topics)
        self._cache = cache = MessageCache(
            length=config.mcache_len, gossip=config.mcache_gossip, max_bytes=config.limits.cache_bytes
        )
        self._promises = promises = Promises(config.limits.promises)
        self._gater = Gater(config.gater, random=random, limit=2 * config.limits.peers)
        self._signatures = Signatures(config.policy, peer_id=peer_id, key=key, first_seqno=first_seqno)
        self._intake = Intake(
            config, signatures=self._signatures, own=peer_id, scores=scores, promises=promises, gater=self._gater,
            stats=stats, effects=effects, topics=self._topics, on_receive=on_receive, ask=ask,
        )  # fmt: skip
        exchange = PeerExchange(
            config, own=peer_id, neighbours=neighbours, scores=scores, effects=effects, random=random,
            record_of=record_of,
        )  # fmt: skip
        self._mesh = Mesh(
            config, neighbours=neighbours, scores=scores, thresholds=self._thresholds,
            backoffs=Backoffs(config.limits.backoffs), exchange=exchange, stats=stats, effects=effects, random=random,
            direct=self._direct,
        )  # fmt: skip
        self._forwarding = Forwarding(
            config, neighbours=neighbours, mesh=self._mesh, scores=scores, thresholds=self._thresholds,
            direct=self._direct, effects=effects, random=random,
        )  # fmt: skip
        self._fanout = self._forwarding.fanout
        self._interest = Interest(
            config, neighbours=neighbours, mesh=self._mesh, fanout=self._fanout, scores=scores, stats=stats,
            effects=effects,
        )  # fmt: skip
        self._lazy = LazyPush(
            config, scores=scores, thresholds=self._thresholds, cache=cache, seen=self._intake.seen,
            promises=promises, stats=stats, effects=effects, random=random,
        )  # fmt: skip

    # ------------------------------------------------------------------------- questions

    def __contains__(self, peer: PeerId) -> bool:
        """Whether the peer has joined."""
        return peer in self._neighbours

    def topics(self) -> frozenset[str]:
        """What we subscribe to."""
        return frozenset(self._topics)

    def peers(self, topic: str | None = None) -> frozenset[PeerId]:
        """The neighbours; those that want `topic`, if it is given."""
        if topic is None:
            return frozenset(one.peer for one in self._neighbours)
        return frozenset(self._neighbours.in_topic(topic))

    def topics_of(self, peer: PeerId) -> frozenset[str]:
        """What a neighbour wants; LocalProtocolError when it is none."""
        return frozenset(self._joined(peer).topics)

    def mesh(self, topic: str) -> frozenset[PeerId]:
        """Who is in our mesh of the topic."""
        return frozenset(self._mesh.peers(topic))

    def fanout(self, topic: str) -> frozenset[PeerId]:
        """To whom we publish without a subscription."""
        return frozenset(self._fanout.peers(topic))

    def score(self, peer: PeerId) -> float:
        """The peer's score now; 0 of somebody unknown."""
        return self._scores.score(peer)

    def scores(self) -> dict[PeerId, float]:
        """The scores of all neighbours."""
        return {one.peer: self._scores.score(one.peer) for one in self._neighbours}

    def version(self, peer: PeerId) -> Version:
        """What a neighbour speaks; LocalProtocolError when it is none."""
        return self._joined(peer).version

    def queued(self, peer: PeerId) -> tuple[int, int]:
        """How many messages and control items wait for the peer, and their bytes."""
        outbox = self._joined(peer).outbox
        return len(outbox), outbox.size

    def data_to_send(self, peer: PeerId, max_bytes: int = 256 * 1024) -> bytes:
        """Whole RPCs behind their lengths for the peer's stream; nothing when nothing waits."""
        neighbour = self._neighbours.get(peer)
        return b"" if neighbour is None else neighbour.outbox.take(max_bytes)

    def _joined(self, peer: PeerId) -> Neighbour:
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            raise LocalProtocolError(f"{peer} has not joined")
        return neighbour

    # ------------------------------------------------------------------------- neighbours

    def peer_joined(
        self, peer: PeerId, protocol: str, now: float, *, ip: IPv4Address | IPv6Address | None, outbound: bool  # noqa: ARG002 - the shape of all machines
    ) -> list[Effect]:  # fmt: skip
        """Our stream to the peer has been agreed on as `protocol`; its first RPC waits in the outbox.

        `ip` is None for a relayed connection; `outbound`: we dialled. Raises LimitExceeded above `limits.peers`,
        LocalProtocolError for a peer that has joined, NegotiationError for a protocol that is not ours.
        """
        if peer in self._neighbours:
            raise LocalProtocolError(f"{peer} has joined already")
        limits = self._config.limits
        if len(self._neighbours) >= limits.peers:
            raise LimitExceeded(f"gossip has its {limits.peers} neighbours", limit=limits.peers)
        neighbour = Neighbour(
            peer,
            Version.of(protocol),
            ip=ip,
            outbound=outbound,
            config=self._config,
            stats=self.stats,
            tick=self._tick,
        )
        self._neighbours.add(neighbour)
        self._scores.joined(peer, ip)
        if neighbour.version >= Version.V1_3:
            neighbour.outbox.hello(wire.EXTENSIONS)
        for topic in self._topics:
            neighbour.outbox.subscribe(topic, wanted=True)
        if self._topics or neighbour.version >= Version.V1_3:
            self._effects.wake(peer)
        return self._effects.drain()

    def peer_left(self, peer: PeerId, now: float) -> list[Effect]:
        """Its last stream or connection is gone, and with it all that was kept of it."""
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            return []
        for topic in neighbour.topics:
            self._fanout.forget(peer, topic)
        self._mesh.peer_left(neighbour)
        self._neighbours.remove(neighbour)
        self._promises.forget_peer(peer)
        self._cache.forget_peer(peer)
        self._scores.left(peer, now)
        return self._effects.drain()

    def add_direct(self, peer: PeerId) -> list[Effect]:
        """From now on the peer is always sent to, and never in a mesh."""
        self._direct.add(peer)
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            self._effects.add(Connect((Candidate(peer),)))
        else:
            self._mesh.peer_left(neighbour)
        return self._effects.drain()

    def remove_direct(self, peer: PeerId) -> None:
        """A peer like others again."""
        self._direct.discard(peer)

    def set_application_score(self, peer: PeerId, score: float) -> None:
        """P5 of a neighbour: what the application thinks of it. Must be finite."""
        self._scores.set_application(peer, score)

    # ------------------------------------------------------------------------- our side

    def subscribe(self, topic: str, now: float, *, validate: bool = False) -> list[Effect]:
        """From now on messages of the topic are delivered; with `validate` each is first given to be judged.

        Raises LimitExceeded above `limits.topics`, LocalProtocolError for a name too long or a topic subscribed to.
        """
        limits = self._config.limits
        if topic in self._topics:
            raise LocalProtocolError(f"topic {topic!r} is subscribed to already")
        if len(topic.encode()) > limits.topic_bytes:
            raise LocalProtocolError(f"topic is over {limits.topic_bytes} bytes")
        if len(self._topics) >= limits.topics:
            raise LimitExceeded(f"gossip has its {limits.topics} topics", limit=limits.topics)
        self._topics[topic] = validate
        self._tell_all(topic, wanted=True)
        self._mesh.join(topic, self._fanout.remove(topic), now)
        return self._effects.drain()

    def judge(self, topic: str, *, validate: bool) -> None:
        """Whether messages of a topic of ours are judged from now on."""
        if topic not in self._topics:
            raise LocalProtocolError(f"topic {topic!r} is not subscribed to")
        self._topics[topic] = validate

    def unsubscribe(self, topic: str, now: float) -> list[Effect]:
        """Messages of the topic are no longer ours; LocalProtocolError when they were not."""
        if topic not in self._topics:
            raise LocalProtocolError(f"topic {topic!r} is not subscribed to")
        del self._topics[topic]
        self._tell_all(topic, wanted=False)
        self._mesh.leave(topic, now)
        return self._effects.drain()

    def _tell_all(self, topic: str, *, wanted: bool) -> None:
        for neighbour in self._neighbours:
            neighbour.outbox.subscribe(topic, wanted=wanted)
            self._effects.wake(neighbour.peer)

    def publish(self, topic: str, data: bytes, now: float) -> tuple[Message, list[Effect]]:
        """Makes a message of ours, which goes out but is not delivered to us.

        LocalProtocolError when it is over the topic's limit, or the same message is known already.
        """
        limits = self._config.limits
        if len(data) > limits.data_of(topic) or len(topic.encode()) > limits.topic_bytes:
            raise LocalProtocolError(f"message of {len(data)} bytes, or its topic, is over the limit")
        author, seqno, raw = self._signatures.make(topic, data)
        message_id = self._config.id_of(author, seqno, data, topic)
        if message_id in self._intake.seen:
            raise LocalProtocolError("the same message has been published already")
        message = Message(
            topic, data, message_id, self._peer_id, self._peer_id if self._config.policy.signs else None, seqno, raw
        )
        self._intake.seen.add(message_id, now)
        self.stats.published += 1
        self._cache.put(message)
        self._forwarding.publish(message, now)
        return message, self._effects.drain()

    # ------------------------------------------------------------------------- received

    def receive(self, peer: PeerId, rpc: bytes, now: float) -> list[Effect]:
        """One RPC of a neighbour, without its length; of somebody else it means nothing.

        RemoteProtocolError: nothing of it was taken and the peer has been blamed; reset the stream.
        """
        neighbour = self._neighbours.get(peer)
        if neighbour is None:
            return []
        direct = peer in self._direct
        if not direct and self._scores.score(peer) < self._thresholds.graylist_threshold:
            self.stats.graylisted += 1
            return []
        try:
            read = wire.decode_rpc(rpc, self._config.limits)
        except RemoteProtocolError:
            self.stats.malformed += 1
            self._scores.misbehaved(peer)
            raise
        if read.subscriptions:
            self._interest.received(neighbour, read.subscriptions, read.surplus)
        if read.messages:
            if direct or self._gater.accepts(peer, now):
                self._messages(neighbour, read.messages, now)
                self.stats.throttled += read.left_out
            else:
                self.stats.gated += 1
        if read.control is not None and neighbour.meshes:
            self._control(neighbour, read.control, now)
        return self._effects.drain()

    def _messages(self, neighbour: Neighbour, messages: Iterable[bytes], now: float) -> None:
        for raw in messages:
            message, accepted = self._intake.receive(neighbour, raw, now)
            if message is None:
                continue
            mesh = self._mesh.peers(message.topic).values()
            self._lazy.announce_unwanted(message, mesh, waits=not accepted)
            if accepted:
                self._forward(message, ())

    def validated(self, message: Message, result: ValidationResult, now: float) -> list[Effect]:
        """The answer to a `Validate`; one that nobody waits for means nothing."""
        knowing = self._intake.validated(message, result, now)
        if knowing is not None and message.topic in self._topics:
            self._forward(message, knowing)
        return self._effects.drain()

    def _forward(self, message: Message, knowing: Collection[PeerId]) -> None:
        self.stats.delivered += 1
        self._cache.put(message)
        self._effects.add(Deliver(message))
        self._forwarding.forward(message, knowing)

    def _control(self, neighbour: Neighbour, control: Control, now: float) -> None:
        peer = neighbour.peer
        if control.extensions and neighbour.version >= Version.V1_3:
            if neighbour.extensions:
                self._scores.misbehaved(peer)
            neighbour.extensions = True
        for topic in control.graft:
            if topic in self._topics and self._interest.begins(neighbour, topic):
                self._mesh.graft_received(neighbour, topic, now)
        for prune in control.prune:
            self._mesh.prune_received(neighbour, prune, now)
        if control.idontwant and neighbour.version >= Version.V1_2:
            self._lazy.idontwant_received(neighbour, control.idontwant)
        if control.iwant:
            self._lazy.iwant_received(neighbour, control.iwant)
        if control.ihave:
            self._lazy.ihave_received(neighbour, control.ihave, self._topics, now)

    # ------------------------------------------------------------------------- time

    def next_deadline(self) -> float:
        """When `deadline_passed` is due: the next heartbeat."""
        return self._next_heartbeat

    def deadline_passed(self, now: float) -> list[Effect]:
        """Runs the heartbeat, if it is due."""
        return self.heartbeat(now) if now >= self._next_heartbeat else []

    def heartbeat(self, now: float) -> list[Effect]:
        """Keeps mesh, fanout, scores and caches; beats that were missed are not made up for."""
        self._next_heartbeat = now + self._config.heartbeat_interval
        self._tick += 1
        for peer, count in self._promises.broken(now).items():
            self.stats.broken_promises += count
            self._scores.misbehaved(peer, count)
        self._scores.refresh(now)
        self._gater.beat()
        self._intake.expire(now)
        for neighbour in self._neighbours:
            self._beat(neighbour)
        if self._direct and self._tick % self._config.direct_connect_ticks == 1:
            absent = tuple(Candidate(peer) for peer in sorted(self._direct) if peer not in self._neighbours)
            if absent:
                self._effects.add(Connect(absent))
        self._mesh.heartbeat(self._tick, now)
        self._fanout.heartbeat(now)
        self._gossip()
        self._cache.shift()
        return self._effects.drain()

    def _beat(self, neighbour: Neighbour) -> None:
        neighbour.beat(self._tick)
        if neighbour.peer in self._direct or self.score(neighbour.peer) >= self._thresholds.graylist_threshold:
            neighbour.graylisted = 0
            return
        neighbour.graylisted += 1
        if neighbour.graylisted == _GRAYLISTED_TICKS:
            self._effects.add(Disconnect(neighbour.peer, "its score stays below the graylist threshold"))

    def _gossip(self) -> None:
        for topic, ids in self._cache.gossip_ids().items():
            if not ids or not (topic in self._mesh or topic in self._fanout.topics()):
                continue
            served = self._mesh.peers(topic) or self._fanout.peers(topic)
            others = [
                one
                for peer, one in self._neighbours.in_topic(topic).items()
                if peer not in served and peer not in self._direct
            ]
            if others:
                self._lazy.gossip(topic, ids, others)
