"""GossipSub over a host: the router's driver.

What a neighbour sends is handed to the router in the task that reads its stream; what the router wants sent waits in
its own bounded queues until the neighbour's writer takes it. Nothing here waits for one peer on behalf of another.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import asdict
from random import Random, SystemRandom
from typing import TYPE_CHECKING, cast

import trio

from talos import addr as addresses
from talos.abc import Role, TopicMessage
from talos.errors import ConfigError, LimitExceeded
from talos.gossip.config import GossipConfig
from talos.gossip.driver_config import DriverConfig
from talos.gossip.event import Connect, Deliver, Disconnect, Grafted, PeerSubscribed, Send, ValidationResult
from talos.gossip.introduction import Introductions
from talos.gossip.judge import Judge
from talos.gossip.neighbours import Neighbours
from talos.gossip.router import Router
from talos.gossip.snapshot import GossipSnapshot, PeerView, TopicView
from talos.gossip.subscription import Subscription, TopicDesk
from talos.host.block import background
from talos.host.contain import Owner, contain_sync

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator

    from talos.abc import Host, Validator
    from talos.gossip.event import Effect
    from talos.gossip.message import Message
    from talos.identity.peer_id import PeerId

__all__ = ["Gossip", "open_gossip"]

YIELD_MESSAGES = 32
YIELD_BYTES = 64 * 1024
YIELD_SECONDS = 0.002
"""A task that publishes without end gives way to others after so much, or so long: its messages travel together."""


@asynccontextmanager
async def open_gossip(
    host: Host,
    config: GossipConfig | None = None,
    *,
    driver: DriverConfig | None = None,
    random: Random | None = None,
    on_receive: Callable[[PeerId, str, bytes], None] | None = None,
) -> AsyncIterator[Gossip]:
    """Joins all peers of the host that speak gossipsub or floodsub, for the length of the block.

    `on_receive` hears of every well-formed message, duplicates too: neighbour, topic, message id.
    """
    config, driver = config or GossipConfig(), driver or DriverConfig()
    async with background() as nursery:
        gossip = Gossip(host, config, driver, nursery, random=random or SystemRandom(), on_receive=on_receive)
        neighbours = gossip.neighbours
        with ExitStack() as stack:
            stack.callback(neighbours.end_readers)
            for protocol in driver.protocols:
                stack.enter_context(host.mounted(protocol, neighbours.answer))
            stack.enter_context(host.observe(neighbours.observe))
            for connection in host.connections:
                neighbours.connected(connection)
            nursery.start_soon(gossip.beat)
            yield gossip


class Gossip:
    """`abc.PubSub`, made by `open_gossip`. All methods are for the tasks of one event loop."""

    def __init__(
        self,
        host: Host,
        config: GossipConfig,
        driver: DriverConfig,
        nursery: trio.Nursery,
        *,
        random: Random,
        on_receive: Callable[[PeerId, str, bytes], None] | None,
    ) -> None:
        self._host = host
        self._router = router = Router(
            config,
            peer_id=host.peer_id,
            key=host.key if config.policy.signs else None,
            record_of=host.peerstore.signed_record,
            random=random,
            now=trio.current_time(),
            first_seqno=time.time_ns(),
            on_receive=on_receive,
            ask=self._verdict,
        )
        self._config = config
        self._driver = driver
        self._desks: dict[str, TopicDesk] = {}
        self._lost_before = 0
        self._changed = trio.Event()
        self._burst = min(YIELD_MESSAGES, config.limits.outbox_messages // 4)
        self._unyielded = self._unyielded_bytes = 0
        self._yielded_at = 0.0
        self._judge = Judge(nursery, driver.validator_seconds, host.emit, self._judged)
        self._introductions = Introductions(host, driver, nursery)
        self.neighbours = Neighbours(
            host, router, driver, nursery, max_rpc_bytes=config.limits.rpc_bytes, apply=self._apply
        )

    # -- publishing and subscribing

    async def publish(self, topic: str, data: bytes) -> bytes:
        """As `abc.PubSub.publish`. Returns when it is queued for the neighbours; LocalProtocolError when too long.

        Waits, for a bounded time, while most of them have much to send already: what their queues cannot hold is
        lost to them. Cancelling it then does not take the message back.
        """
        message_id = self.publish_nowait(topic, data)
        now = trio.current_time()
        self._unyielded += 1
        self._unyielded_bytes += len(data)
        if (
            self._unyielded < self._burst
            and self._unyielded_bytes < YIELD_BYTES
            and now - self._yielded_at < YIELD_SECONDS
        ):
            await trio.lowlevel.checkpoint_if_cancelled()
            return message_id
        self._unyielded, self._unyielded_bytes, self._yielded_at = 0, 0, now
        await trio.lowlevel.checkpoint()
        if self._crowded(topic):
            with trio.move_on_after(self._driver.publish_seconds):
                while self._crowded(topic):
                    await self.neighbours.wait_for_room()
        return message_id

    def publish_nowait(self, topic: str, data: bytes) -> bytes:
        """As `publish`, without giving way to the tasks that send."""
        message, effects = self._router.publish(topic, data, trio.current_time())
        self._apply(effects)
        return message.id

    def max_data(self, topic: str) -> int:
        """Bytes that a message of `topic` may have."""
        return self._config.limits.data_of(topic)

    async def wait_for_peers(self, topic: str, count: int = 1) -> None:
        """Until that many neighbours want `topic`: from then on they get what we publish."""
        await trio.lowlevel.checkpoint()
        while len(self._router.peers(topic)) < count:
            await self._changed.wait()

    async def wait_for_mesh(self, topic: str, count: int = 1) -> None:
        """Until that many neighbours are in our mesh of `topic`: from then on they get what others publish."""
        await trio.lowlevel.checkpoint()
        while len(self._router.mesh(topic)) < count:
            await self._changed.wait()

    def _crowded(self, topic: str) -> bool:
        """Whether more than half of those who want the topic have more than half their queue full."""
        most = self._config.limits.outbox_messages // 2
        peers = self._router.peers(topic)
        return 2 * sum(self._router.queued(peer)[0] > most for peer in peers) > len(peers)

    @asynccontextmanager
    async def subscribe(
        self, topic: str, validator: Validator | None = None, *, max_queued: int | None = None
    ) -> AsyncIterator[trio.MemoryReceiveChannel[TopicMessage]]:
        """As `abc.PubSub.subscribe`; LimitExceeded past the limits of topics and readers."""
        subscription = Subscription(max_queued or self._driver.subscription_messages)
        with self.validating(topic, validator) as desk:
            if len(desk.subscriptions) >= self._driver.subscriptions:
                raise LimitExceeded(f"topic {topic} has {len(desk.subscriptions)} readers on this node already")
            desk.subscriptions.append(subscription)
            try:
                yield subscription.receiver
            finally:
                desk.leave(subscription)

    @contextmanager
    def validating(self, topic: str, validator: Validator | None) -> Iterator[TopicDesk]:
        """Takes part in `topic`, and judges its messages, for the length of the block, without reading them."""
        desk = self._desks.get(topic)
        if desk is not None and validator is not None and desk.validator is not None:
            raise ConfigError(f"topic {topic} has a validator already")
        if desk is None:
            self._apply(self._router.subscribe(topic, trio.current_time()))
            desk = self._desks[topic] = TopicDesk()
        desk.users += 1
        if validator is not None:
            desk.validator = validator
            self._router.judge(topic, validate=True)
        try:
            yield desk
        finally:
            desk.users -= 1
            if validator is not None:
                desk.validator = None
                self._router.judge(topic, validate=False)
            if not desk.users:
                self._lost_before += desk.lost
                del self._desks[topic]
                self._apply(self._router.unsubscribe(topic, trio.current_time()))

    # -- questions

    @property
    def topics(self) -> tuple[str, ...]:
        """What we are subscribed to."""
        return tuple(sorted(self._desks))

    def peers(self, topic: str | None = None) -> tuple[PeerId, ...]:
        """Our neighbours; with `topic` those that want it."""
        return tuple(sorted(self._router.peers(topic)))

    def mesh(self, topic: str) -> tuple[PeerId, ...]:
        """Neighbours that exchange whole messages of `topic` with us."""
        return tuple(sorted(self._router.mesh(topic)))

    def score(self, peer: PeerId) -> float:
        """What we think of a neighbour; 0 for a stranger."""
        return self._router.score(peer)

    def snapshot(self) -> GossipSnapshot:
        """Everything, at this moment."""
        peers = self.peers()
        wanted: dict[str, list[PeerId]] = {topic: [] for topic in self._desks}
        for peer in peers:
            for topic in self._router.topics_of(peer):
                wanted.setdefault(topic, []).append(peer)
        topics = tuple(self._topic_view(topic, wanted[topic]) for topic in sorted(wanted))
        meshes = {view.topic: frozenset(view.mesh) for view in topics}
        counters = {**asdict(self._router.stats), "lost": self._lost, "dialled": self._introductions.dialled}
        return GossipSnapshot(
            topics=topics, peers=tuple(self._peer_view(peer, meshes) for peer in peers), counters=counters
        )

    def status(self) -> dict[str, object]:
        """The few numbers that `talos status` shows."""
        stats = self._router.stats
        return {
            "topics": len(self._desks),
            "peers": len(self._router.peers()),
            "published": stats.published,
            "delivered": stats.delivered,
            "duplicates": stats.duplicates,
            "rejected": stats.rejected,
            "lost": self._lost,
        }

    @property
    def _lost(self) -> int:
        return self._lost_before + sum(desk.lost for desk in self._desks.values())

    def _topic_view(self, topic: str, peers: Iterable[PeerId]) -> TopicView:
        desk = self._desks.get(topic)
        return TopicView(
            topic=topic,
            subscribed=desk is not None,
            peers=tuple(peers),
            mesh=self.mesh(topic),
            lost=0 if desk is None else desk.lost,
        )

    def _peer_view(self, peer: PeerId, meshes: dict[str, frozenset[PeerId]]) -> PeerView:
        link = self.neighbours.link(peer)
        stream = None if link is None else link.stream
        return PeerView(
            peer_id=peer,
            protocol="" if stream is None else stream.protocol,
            role=Role.LISTENER if stream is None else stream.connection.role,
            score=self._router.score(peer),
            topics=tuple(sorted(self._router.topics_of(peer))),
            mesh=tuple(topic for topic, those in meshes.items() if peer in those),
            queued=self._router.queued(peer)[0],
        )

    # -- driving the router

    async def beat(self) -> None:
        """Runs the router's heartbeats, on time; one that fails costs that beat."""
        owner = Owner("gossip heartbeat", self._host.emit)
        least = self._config.heartbeat_interval / 2
        while True:
            began = trio.current_time()
            await trio.sleep_until(self._router.next_deadline())
            contain_sync(owner, self._deadline_passed)
            if self._router.next_deadline() < began + least:
                await trio.sleep(least)  # it failed before it set the next one

    def _deadline_passed(self) -> None:
        self._apply(self._router.deadline_passed(trio.current_time()))

    def _apply(self, effects: Iterable[Effect], source: PeerId | None = None) -> None:
        for effect in effects:
            kind = type(effect)
            if kind is Send:
                self.neighbours.wake(cast("Send", effect).peers)
            elif kind is Deliver:
                self._deliver(cast("Deliver", effect).message)
            else:
                self._apply_rare(effect, source)

    def _apply_rare(self, effect: Effect, source: PeerId | None) -> None:
        match effect:
            case Connect(candidates=candidates):
                self._introductions.meet(candidates, public_only=self._is_public(source))
            case Disconnect(peer=peer):
                self.neighbours.dismiss(peer)
            case PeerSubscribed() | Grafted():
                self._changed.set()
                self._changed = trio.Event()

    def _is_public(self, peer: PeerId | None) -> bool:
        """Whether we see that neighbour on the public network, where nobody's private addresses are of use."""
        link = None if peer is None else self.neighbours.link(peer)
        return link is not None and link.stream is not None and addresses.is_public(link.stream.connection.remote_addr)

    # -- messages

    def _deliver(self, message: Message) -> None:
        desk = self._desks.get(message.topic)
        if desk is not None and desk.subscriptions:
            desk.push(_as_seen(message))

    def _verdict(self, message: Message) -> ValidationResult | None:
        """What the router asks for each message of a topic of ours; None when the answer takes a while."""
        desk = self._desks.get(message.topic)
        if desk is None or desk.validator is None:
            return ValidationResult.ACCEPT
        return self._judge.ask(desk.validator, _as_seen(message), message)

    def _judged(self, question: object, result: ValidationResult) -> None:
        self._apply(self._router.validated(cast("Message", question), result, trio.current_time()))


def _as_seen(message: Message) -> TopicMessage:
    return TopicMessage(
        topic=message.topic,
        data=message.data,
        id=message.id,
        source=message.source,
        author=message.author,
        seqno=message.seqno,
    )
