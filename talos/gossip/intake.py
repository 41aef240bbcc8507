"""Messages on their way in: form, policy, known or not, signature, validation (libp2p pubsub; libp2p v1.1 scoring).

The order of the checks is fixed: size, form, topic subscribed, policy fields, author, known id, signature, room for
validation. An id is known only once its signature held: else anyone could suppress a message. A message for which
there is no room to be validated is forgotten again, so that gossip can bring it later.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, TypeVar

from talos.gossip.event import Validate, ValidationResult
from talos.gossip.message import Message
from talos.gossip.seen import SeenCache
from talos.gossip.wire import BadMessage, MessageFields

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable

    from talos.gossip.config import GossipConfig
    from talos.gossip.gater import Gater
    from talos.gossip.neighbour import EffectSink, Neighbour
    from talos.gossip.promise import Promises
    from talos.gossip.score import PeerScores
    from talos.gossip.signature import Signatures
    from talos.gossip.stats import RouterStats
    from talos.identity.peer_id import PeerId

__all__ = ["Intake"]

K = TypeVar("K", bound="Hashable")

_DIGEST_BYTES = 16
_MAX_RECENT = 16_384
"""Messages within their delivery window; the oldest leaves."""


class _Delivery:
    """Who brought a message, from its first copy until copies are too late to count."""

    __slots__ = ("peers", "validated_at")

    def __init__(self, source: PeerId) -> None:
        self.peers = {source}
        self.validated_at: float | None = None


class Intake:
    """Judges messages; says which are to be delivered and forwarded."""

    def __init__(
        self, config: GossipConfig, *, signatures: Signatures, own: PeerId, scores: PeerScores, promises: Promises,
        gater: Gater, stats: RouterStats, effects: EffectSink, topics: dict[str, bool],
        on_receive: Callable[[PeerId, str, bytes], None] | None = None,
        ask: Callable[[Message], ValidationResult | None] | None = None,
    ) -> None:  # fmt: skip
        """`topics`: those subscribed to, and whether a validator judges them; shared with the router."""
        self._ask = ask
        self._on_receive = on_receive
        self._config = config
        self._limits = config.limits
        self._id_of = config.id_of
        self._signatures = signatures
        self._own = own
        self._scores = scores
        self._promises = promises
        self._gater = gater
        self._stats = stats
        self._effects = effects
        self._topics = topics
        self.seen = SeenCache(ttl=config.seen_ttl, max_ids=config.limits.seen, max_authors=config.limits.authors)
        self._deliveries: OrderedDict[bytes, _Delivery] = OrderedDict()
        self._recent: OrderedDict[bytes, tuple[bytes, str]] = OrderedDict()
        self._pending: dict[bytes, Message] = {}
        self._pending_of_peer: Counter[PeerId] = Counter()
        self._pending_of_topic: Counter[str] = Counter()
        score = config.score
        counted = () if score is None else (*score.topics.values(), *filter(None, (score.default_topic,)))
        self._window = max((topic.mesh_message_deliveries_window for topic in counted), default=0.0)

    @property
    def pending(self) -> int:
        """Messages that wait for a validator."""
        return len(self._pending)

    def receive(self, neighbour: Neighbour, raw: bytes, now: float) -> tuple[Message | None, bool]:
        """The message, if it is new and holds, and whether it is accepted: else it waits for a validator."""
        source = neighbour.peer
        digest = blake2b(raw, digest_size=_DIGEST_BYTES).digest()
        if self._is_copy(neighbour, digest, now):
            return None, False
        try:
            fields = MessageFields(raw)
            if fields.topic not in self._topics:
                self._stats.ignored += 1
                return None, False
            message, accepted = self._judge(neighbour, fields, now)
        except BadMessage as fault:
            self._stats.rejected += 1
            self._gater.rejected(source)
            if fault.topic is not None and fault.topic in self._topics:
                self._scores.invalid_delivery(source, fault.topic)
            else:
                self._scores.misbehaved(source)
            return None, False
        if message is not None:
            self._remember(digest, message)
        return message, accepted

    def _is_copy(self, neighbour: Neighbour, digest: bytes, now: float) -> bool:
        """Byte for byte what has been taken already: in a mesh most of what comes, so it is not even parsed."""
        known = self._recent.get(digest)
        if known is None or known[0] not in self.seen or known[1] not in self._topics:
            return False
        if self._on_receive is not None:
            self._on_receive(neighbour.peer, known[1], known[0])
        self._duplicate(neighbour, *known, now)
        return True

    def _remember(self, digest: bytes, message: Message) -> None:
        self._recent[digest] = message.id, message.topic
        if len(self._recent) > _MAX_RECENT:
            self._recent.popitem(last=False)

    def _judge(self, neighbour: Neighbour, fields: MessageFields, now: float) -> tuple[Message | None, bool]:
        topic, data, seqno = fields.topic, fields.data, fields.seqno or b""
        if len(data) > self._limits.data_of(topic):
            raise BadMessage("has more data than its topic allows", topic)
        author = self._signatures.author(fields)
        message_id = self._id_of(fields.author or b"", seqno, data, topic)
        if self._on_receive is not None:
            self._on_receive(neighbour.peer, topic, message_id)
        if author is not None and author.peer == self._own:
            self._stats.ignored += 1
            return None, False
        if message_id in self.seen:
            self._duplicate(neighbour, message_id, topic, now)
            return None, False
        if author is not None:
            self._signatures.verify(fields, author)
        message = Message(
            topic, data, message_id, neighbour.peer, author.peer if author is not None else None, seqno, fields.raw
        )
        self._promises.kept(message_id)
        if self._is_replay(message) or not self._has_room(message, now):
            return None, False
        neighbour.has(message_id)
        accepted = self._take(message, now)
        return (message if accepted or message_id in self._pending else None), accepted

    def _is_replay(self, message: Message) -> bool:
        author = message.author
        if author is None or not self.seen.is_replay(author.raw, int.from_bytes(message.seqno, "big")):
            return False
        self._stats.ignored += 1
        self._gater.ignored(message.source)
        return True

    def _take(self, message: Message, now: float) -> bool:
        """Makes the message known; whether it is accepted at once."""
        author = message.author.raw if message.author is not None else None
        self._gater.validated()
        self.seen.add(message.id, now, author, int.from_bytes(message.seqno, "big"))
        self._deliveries[message.id] = _Delivery(message.source)
        if len(self._deliveries) > _MAX_RECENT:
            self._deliveries.popitem(last=False)
        if not self._topics[message.topic]:
            self._accepted(message, now)
            return True
        self._wait(message)
        if self._ask is None:
            self._effects.add(Validate(message))
            return False
        result = self._ask(message)
        return result is not None and self.validated(message, result, now) is not None

    def _duplicate(self, neighbour: Neighbour, message_id: bytes, topic: str, now: float) -> None:
        peer = neighbour.peer
        neighbour.has(message_id)
        self._stats.duplicates += 1
        self._gater.duplicate(peer)
        if self.seen.was_rejected(message_id):
            self._scores.invalid_delivery(peer, topic)
            return
        delivery = self._deliveries.get(message_id)
        if delivery is None or peer in delivery.peers:
            return
        delivery.peers.add(peer)
        if delivery.validated_at is not None:
            self._scores.near_first_delivery(peer, topic, late_by=now - delivery.validated_at)

    # ------------------------------------------------------------------------- validation

    def _has_room(self, message: Message, now: float) -> bool:
        limits = self._limits
        if not self._topics[message.topic] or (
            len(self._pending) < limits.validation
            and self._pending_of_peer[message.source] < limits.validation_per_peer
            and self._pending_of_topic[message.topic] < limits.validation_per_topic
        ):
            return True
        self._stats.throttled += 1
        self._gater.throttled(now)
        return False

    def _wait(self, message: Message) -> None:
        self._pending[message.id] = message
        self._pending_of_peer[message.source] += 1
        self._pending_of_topic[message.topic] += 1

    def validated(self, message: Message, result: ValidationResult, now: float) -> Collection[PeerId] | None:
        """Who has the message already, if it is to be delivered and forwarded; None if it is not."""
        if self._pending.get(message.id) is not message:
            return None
        del self._pending[message.id]
        _count_down(self._pending_of_peer, message.source)
        _count_down(self._pending_of_topic, message.topic)
        delivery = self._deliveries.get(message.id)
        peers = delivery.peers if delivery is not None else {message.source}
        if result is ValidationResult.ACCEPT:
            self._accepted(message, now)
            return peers
        self._deliveries.pop(message.id, None)
        if result is ValidationResult.IGNORE:
            self._stats.ignored += 1
            self._gater.ignored(message.source)
            return None
        self._stats.rejected += 1
        self.seen.reject(message.id)
        self._gater.rejected(message.source)
        for peer in peers:
            self._scores.invalid_delivery(peer, message.topic)
        return None

    def _accepted(self, message: Message, now: float) -> None:
        self._gater.delivered(message.source)
        self._scores.first_delivery(message.source, message.topic)
        delivery = self._deliveries.get(message.id)
        if delivery is None:
            return
        delivery.validated_at = now
        for peer in delivery.peers:
            if peer != message.source:
                self._scores.near_first_delivery(peer, message.topic)

    # ------------------------------------------------------------------------- time

    def expire(self, now: float) -> None:
        """Forgets ids that are over, and deliveries whose window is."""
        self.seen.expire(now)
        cutoff = now - self._window
        for message_id, delivery in list(self._deliveries.items()):
            if delivery.validated_at is None:
                continue
            if delivery.validated_at >= cutoff:
                break
            del self._deliveries[message_id]


def _count_down(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
