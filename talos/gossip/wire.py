"""RPCs and messages: bytes ↔ what the router works with (libp2p pubsub, gossipsub v1.0 to v1.3).

The outer parts are read field by field: messages must keep their bytes, every limit is judged before anything
is decoded, and a decoded message hides what was given twice. Only the control part, bounded by then, goes
through the protobuf library. Every fault is a RemoteProtocolError.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from talos.errors import RemoteProtocolError
from talos.wire import fields, varint
from talos.wire.pb import gossip_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from talos.gossip.config import GossipLimits

__all__ = [
    "EXTENSIONS",
    "BadMessage",
    "Control",
    "MessageFields",
    "Prune",
    "Rpc",
    "assemble",
    "decode_rpc",
    "encode_message",
    "graft",
    "idontwant",
    "ihave",
    "iwant",
    "prune",
    "publish",
    "subscription",
    "with_signature",
]

SIGN_PREFIX = b"libp2p-pubsub:"
# Tags: number × 8 + 2, for all of these are byte strings or embedded messages.
_SUBSCRIPTIONS, _PUBLISH, _CONTROL = 0x0A, 0x12, 0x1A
_IHAVE, _IWANT, _GRAFT, _PRUNE, _IDONTWANT, _EXTENSIONS = 0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x32
_FROM, _DATA, _SEQNO, _TOPIC, _SIGNATURE, _KEY = 0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x32
_MESSAGE_FIELDS = frozenset((_FROM, _DATA, _SEQNO, _TOPIC, _SIGNATURE, _KEY))
_UNSIGNED_FIELDS = frozenset((_SIGNATURE, _KEY))
_MAX_MESSAGE_FIELDS = 64
_MAX_SURPLUS = 8192
"""Fields of an RPC beyond the messages and subscriptions it may have: they are counted, not refused."""
_COUNTED = frozenset((_IHAVE, _IWANT, _PRUNE, _IDONTWANT))


class BadMessage(RemoteProtocolError):
    """A message within an RPC that breaks the rules; `topic` is that of its first topic field, if it has one."""

    def __init__(self, fault: str, topic: str | None = None) -> None:
        super().__init__(f"message {fault}")
        self.topic = topic


@dataclass(slots=True)
class Prune:
    """We left a mesh: peers to try instead, and for how long not to come back; None is not said."""

    topic: str
    peers: Sequence[tuple[bytes, bytes]] = ()
    """Id and signed record of each; the record may be empty."""
    backoff: int | None = None


@dataclass(slots=True)
class Control:
    """The control part of an RPC."""

    ihave: list[tuple[str, Sequence[bytes]]] = field(default_factory=list)
    iwant: list[bytes] = field(default_factory=list)
    graft: list[str] = field(default_factory=list)
    prune: list[Prune] = field(default_factory=list)
    idontwant: list[Sequence[bytes]] = field(default_factory=list)
    extensions: bool = False


@dataclass(slots=True)
class Rpc:
    """One RPC; messages are still bytes."""

    subscriptions: list[tuple[bool, str]] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    control: Control | None = None
    surplus: int = 0
    """Subscriptions over the limit, not looked at."""
    left_out: int = 0
    """Messages over the limit."""


class MessageFields:
    """A message in parts; None is a field that is absent."""

    __slots__ = ("_found", "_spans", "raw", "topic")

    def __init__(self, raw: bytes) -> None:
        """BadMessage where it is malformed, a field is repeated or the topic is missing."""
        self.raw = raw
        try:
            self._spans = fields.spans(raw, _MAX_MESSAGE_FIELDS)
        except RemoteProtocolError as error:
            raise BadMessage("is malformed") from error
        found: dict[int, bytes] = {}
        repeated = False
        for tag, _, begin, end in self._spans:
            if tag in found:
                repeated = True
            elif tag in _MESSAGE_FIELDS:
                found[tag] = raw[begin:end]
        self._found = found
        try:
            self.topic = found[_TOPIC].decode()
        except KeyError:
            raise BadMessage("has no topic") from None
        except UnicodeDecodeError as error:
            raise BadMessage("has a topic that is not UTF-8") from error
        if repeated:
            raise BadMessage("has a field twice", self.topic)

    @property
    def data(self) -> bytes:
        return self._found.get(_DATA, b"")

    @property
    def author(self) -> bytes | None:
        return self._found.get(_FROM)

    @property
    def seqno(self) -> bytes | None:
        return self._found.get(_SEQNO)

    @property
    def signature(self) -> bytes | None:
        return self._found.get(_SIGNATURE)

    @property
    def key(self) -> bytes | None:
        return self._found.get(_KEY)

    def signed_part(self) -> bytes:
        """What the signature covers: the received bytes without the fields `signature` and `key`, behind the prefix.

        The text leaves out only the signature; everybody leaves out both. Unknown fields are covered.
        """
        raw = self.raw
        kept = [raw[start:end] for tag, start, _, end in self._spans if tag not in _UNSIGNED_FIELDS]
        return SIGN_PREFIX + b"".join(kept)


# ------------------------------------------------------------------------------------- reading


def decode_rpc(data: bytes, limits: GossipLimits) -> Rpc:
    """One RPC without its length; limits are judged before anything is decoded."""
    rpc = Rpc()
    control: list[bytes] = []
    control_size = 0
    most = limits.messages + limits.subscriptions + _MAX_SURPLUS
    for tag, _, begin, end in fields.spans(data, most):
        if tag == _PUBLISH:
            if len(rpc.messages) < limits.messages:
                rpc.messages.append(data[begin:end])
            else:
                rpc.left_out += 1
        elif tag == _CONTROL:
            control_size += end - begin
            if control_size > limits.control_bytes:
                raise RemoteProtocolError(f"control of an RPC is over {limits.control_bytes} bytes")
            control.append(data[begin:end])
        elif tag == _SUBSCRIPTIONS:
            if len(rpc.subscriptions) < limits.subscriptions:
                rpc.subscriptions.append(_subscription(data[begin:end], limits))
            else:
                rpc.surplus += 1
    if control:
        rpc.control = _control(b"".join(control), limits)
    return rpc


def _subscription(data: bytes, limits: GossipLimits) -> tuple[bool, str]:
    wanted, topic = False, b""
    for number, value in fields.read(data):
        if number == 1:
            wanted = bool(value)
        elif number == 2 and isinstance(value, bytes):
            topic = value
    return wanted, _topic(topic, limits)


def _topic(raw: bytes, limits: GossipLimits) -> str:
    if len(raw) > limits.topic_bytes:
        raise RemoteProtocolError(f"topic of {len(raw)} bytes is over the limit of {limits.topic_bytes}")
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError("topic is not UTF-8") from error


def _control(data: bytes, limits: GossipLimits) -> Control:
    _count(data, limits)
    try:
        message = pb.ControlMessage.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("control of an RPC is malformed") from error
    return Control(
        ihave=[(_topic(item.topicID, limits), item.messageIDs) for item in message.ihave],
        iwant=[one for item in message.iwant for one in item.messageIDs],
        graft=[_topic(item.topicID, limits) for item in message.graft],
        prune=[
            Prune(
                _topic(item.topicID, limits),
                [(info.peerID, info.signedPeerRecord) for info in item.peers],
                item.backoff if item.HasField("backoff") else None,
            )
            for item in message.prune
        ],
        idontwant=[item.messageIDs for item in message.idontwant],
        extensions=message.HasField("extensions"),
    )


def _count(data: bytes, limits: GossipLimits) -> None:
    """What would become an object each is counted on the wire."""
    ids = 0
    for tag, _, begin, end in fields.spans(data, limits.control_items):
        if tag in _COUNTED:
            ids += len(fields.spans(data[begin:end], limits.control_ids))
            if ids > limits.control_ids:
                raise RemoteProtocolError(f"control of an RPC has more than {limits.control_ids} ids")


# ------------------------------------------------------------------------------------- writing


def _field(tag: int, value: bytes) -> bytes:
    return bytes((tag,)) + varint.encode(len(value)) + value


def encode_message(author: bytes | None, data: bytes, seqno: bytes | None, topic: str) -> bytes:
    """A message without signature, fields in the order of their numbers."""
    return b"".join(
        (
            b"" if author is None else _field(_FROM, author),
            _field(_DATA, data),
            b"" if seqno is None else _field(_SEQNO, seqno),
            _field(_TOPIC, topic.encode()),
        )
    )


def with_signature(message: bytes, signature: bytes, key: bytes | None) -> bytes:
    """The message with its signature, and with the key where the author's id does not hold it."""
    signed = message + _field(_SIGNATURE, signature)
    return signed if key is None else signed + _field(_KEY, key)


def subscription(topic: str, *, wanted: bool) -> bytes:
    """A field of an RPC."""
    opts = fields.uint64_field(1, int(wanted)) + _field(0x12, topic.encode())
    return _field(_SUBSCRIPTIONS, opts)


def publish(message: bytes) -> bytes:
    """A field of an RPC."""
    return _field(_PUBLISH, message)


def ihave(topic: str, ids: Iterable[bytes]) -> bytes:
    """A field of a control message, as are those below."""
    named = _field(0x0A, topic.encode())
    return _field(_IHAVE, named + b"".join(_field(0x12, one) for one in ids))


def iwant(ids: Iterable[bytes]) -> bytes:
    return _field(_IWANT, b"".join(_field(0x0A, one) for one in ids))


def idontwant(ids: Iterable[bytes]) -> bytes:
    return _field(_IDONTWANT, b"".join(_field(0x0A, one) for one in ids))


def graft(topic: str) -> bytes:
    return _field(_GRAFT, _field(0x0A, topic.encode()))


def prune(item: Prune) -> bytes:
    parts = [_field(0x0A, item.topic.encode())]
    for peer, record in item.peers:
        info = _field(0x0A, peer) + (_field(0x12, record) if record else b"")
        parts.append(_field(0x12, info))
    if item.backoff is not None:
        parts.append(fields.uint64_field(3, item.backoff))
    return _field(_PRUNE, b"".join(parts))


EXTENSIONS = _field(_EXTENSIONS, b"")
"""That we speak extensions, and none of them."""


def assemble(outer: Iterable[bytes], control: Sequence[bytes]) -> bytes:
    """An RPC behind its length. All control is one field: not every reader merges two."""
    body = b"".join(outer)
    if control:
        body += _field(_CONTROL, b"".join(control))
    return varint.encode(len(body)) + body
