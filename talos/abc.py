"""The seams: what each layer promises to the one above it.

An interface is its contract, written here, and a conformance suite in `talos.testing`, which each
implementation runs. ABCs stand where behaviour is shared (streams, because trio's are ABCs) or where
the host tells kinds apart by class (`ByteTransport`, `Transport`); everything else is a Protocol.

Streams follow trio's contract: closed, broken and busy are trio's own errors. In addition:

- a cancelled `send_all` leaves the stream unusable, a cancelled `receive_some` loses nothing;
- `aclose` never raises because the peer had already gone.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import trio

from talos.errors import ConnectionCode, DialError, StreamCode, TalosError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from multiaddr import Multiaddr

    from talos.identity.keys import PrivateKey, PublicKey
    from talos.identity.peer_id import PeerId

__all__ = [
    "AddressConfirmed",
    "AddressRefuted",
    "AddressesChanged",
    "AuditEntry",
    "AuditLog",
    "AuditReceipt",
    "Budget",
    "ByteListener",
    "ByteTransport",
    "Connection",
    "ConnectionStats",
    "Direction",
    "Dropped",
    "EntryKind",
    "Event",
    "Gate",
    "GateStep",
    "Handler",
    "HandlerFailed",
    "Host",
    "Inbound",
    "Listener",
    "MuxedConnection",
    "MuxedStream",
    "Muxer",
    "PeerConnected",
    "PeerDisconnected",
    "PeerIdentified",
    "PeerRouting",
    "Peerstore",
    "ProtocolId",
    "ProtocolsChanged",
    "PubSub",
    "Reachability",
    "ReachabilityChanged",
    "RecordStore",
    "Resource",
    "Role",
    "SecureChannel",
    "SecurityTransport",
    "ServiceFault",
    "SignedReceipt",
    "Stream",
    "StreamReset",
    "TopicMessage",
    "Transport",
    "Validator",
    "Verdict",
]

ProtocolId: TypeAlias = str


class Role(enum.Enum):
    """Who opened the bytes below: the dialer is initiator of security and the odd side of yamux."""

    DIALER = "dialer"
    LISTENER = "listener"

    @property
    def other(self) -> Role:
        return Role.LISTENER if self is Role.DIALER else Role.DIALER


class StreamReset(TalosError, trio.BrokenResourceError):
    """The stream ended at once, both ways.

    `code` is the peer's reason or ours (`StreamCode`, advice only); `remote` says whose reset it was.
    """

    def __init__(self, code: int = StreamCode.NONE, *, remote: bool) -> None:
        side = "the peer" if remote else "this side"
        super().__init__(f"stream reset by {side} (code {code:#x})" if code else f"stream reset by {side}")
        self.code = code
        self.remote = remote


# ----------------------------------------------------------------------------------- limits


class Resource(enum.Enum):
    """What a budget counts. MEMORY is in bytes: held for a peer, not merely passed through."""

    CONN_IN = "connections in"
    CONN_OUT = "connections out"
    STREAM_IN = "streams in"
    STREAM_OUT = "streams out"
    MEMORY = "memory"
    FD = "descriptors"


class Budget(Protocol):
    """The limits that a layer charges before it uses something. Never blocks."""

    def reserve(self, kind: Resource, amount: int = 1) -> None:
        """Charges every scope above or none: LimitExceeded when one of them refuses."""

    def release(self, kind: Resource, amount: int = 1) -> None:
        """Gives back; LocalProtocolError when more is released than was reserved."""

    def authenticated(self, peer: PeerId) -> None:
        """The peer's key is proven: asks the gate and moves what is charged to that peer.

        RefusedByGate or LimitExceeded end the connection.
        """


# ----------------------------------------------------------------------------------- streams


class MuxedStream(trio.abc.HalfCloseableStream):
    """One stream of a connection, before negotiation.

    `send_eof` closes our direction and reading goes on; `aclose` closes both, the peer reads what was
    sent and then the end. After a reset either way every call raises StreamReset.
    """

    @abc.abstractmethod
    def reset(self, code: int = StreamCode.NONE) -> None:
        """Ends both directions now; what was not read or sent is lost. Idempotent, never blocks."""


class Stream(MuxedStream):
    """A stream on which a protocol was agreed."""

    @property
    @abc.abstractmethod
    def protocol(self) -> ProtocolId:
        """The protocol that runs on it."""

    @property
    @abc.abstractmethod
    def connection(self) -> Connection:
        """The connection that carries it; its `remote_peer` is authenticated."""


class SecureChannel(trio.abc.Stream):
    """An authenticated, encrypted byte stream. A clean end is b"", a cut or forged one raises."""

    remote_peer: PeerId
    remote_key: PublicKey
    early_muxer: ProtocolId | None
    """The muxer agreed inside the handshake, if both sides offered one."""


# ----------------------------------------------------------------------------------- transports


class ByteListener(Protocol):
    """Accepts raw byte streams."""

    @property
    def addr(self) -> Multiaddr:
        """Where it really listens, port filled in."""

    async def accept(self) -> tuple[trio.abc.Stream, Multiaddr]:
        """The next stream and its remote address. Cancelling it loses no connection.

        OSError of the kinds that pass (EMFILE, ENFILE, ENOBUFS, ENOMEM, ECONNABORTED) leaves it usable.
        """

    async def aclose(self) -> None:
        """Stops listening; accepted streams live on."""


class ByteTransport(abc.ABC):
    """Carries raw bytes; security and muxer come from the upgrade. What most new transports are.

    Addresses come without a final `/p2p/…`, except behind `/p2p-circuit`.
    """

    @abc.abstractmethod
    def matches(self, addr: Multiaddr) -> bool:
        """Whether this transport dials and listens on addresses of that shape; no IO."""

    @abc.abstractmethod
    async def dial(self, addr: Multiaddr) -> trio.abc.Stream:
        """Opens a stream or raises DialError. No deadline of its own: the caller sets it."""

    @abc.abstractmethod
    async def listen(self, addr: Multiaddr) -> ByteListener:
        """Listens or raises ListenError."""

    async def punch(self, addr: Multiaddr) -> trio.abc.Stream:
        """Dials from the port that is listened on, for hole punching."""
        raise DialError(f"{type(self).__name__} cannot punch holes, to {addr}")


class Transport(abc.ABC):
    """Carries whole connections: authenticated and multiplexed. What the host sees."""

    @abc.abstractmethod
    def matches(self, addr: Multiaddr) -> bool:
        """Whether this transport dials and listens on addresses of that shape; no IO."""

    @abc.abstractmethod
    def dial(
        self, addr: Multiaddr, peer: PeerId | None, *, budget: Budget | None = None, punch: Role | None = None
    ) -> AbstractAsyncContextManager[Connection]:
        """A connection for the length of the block.

        With `peer` given, another identity raises PeerIdMismatch. `punch` is the role that hole punching
        gives us above the bytes. Entering raises DialError, NegotiationError, HandshakeError, LimitExceeded
        or RefusedByGate. Leaving closes the connection.
        """

    @abc.abstractmethod
    async def listen(self, addr: Multiaddr) -> Listener:
        """Listens or raises ListenError."""


class Inbound(Protocol):
    """A connection at the door: accepted, no byte read yet, so that the host counts and gates first."""

    @property
    def remote_addr(self) -> Multiaddr:
        """Where it comes from."""

    def open(self, budget: Budget | None = None) -> AbstractAsyncContextManager[Connection]:
        """Entering runs the handshake, leaving closes the connection."""

    def refuse(self) -> None:
        """Closes it unread; never blocks."""


class Listener(Protocol):
    """Accepts connections that are not yet upgraded."""

    @property
    def addr(self) -> Multiaddr:
        """Where it really listens."""

    async def accept(self) -> Inbound:
        """The next one; as `ByteListener.accept`."""

    async def aclose(self) -> None:
        """Stops listening; open connections live on."""


# ----------------------------------------------------------------------------------- security, muxers


class SecurityTransport(Protocol):
    """Makes an authenticated channel of any byte stream."""

    @property
    def protocol_id(self) -> ProtocolId: ...

    async def secure(
        self, stream: trio.abc.Stream, role: Role, expected: PeerId | None, *, muxers: Sequence[ProtocolId] = ()
    ) -> SecureChannel:
        """Runs the handshake, which owns `stream` from then on.

        `muxers` are ours in preference, for early negotiation. Raises HandshakeError or one of its
        children; then, and when cancelled, the stream is unusable and the caller closes it.
        """


@dataclass(slots=True)
class ConnectionStats:
    """Plain counters of one connection; read them whenever you like."""

    bytes_in: int = 0
    bytes_out: int = 0
    frames_in: int = 0
    frames_out: int = 0
    streams_in: int = 0
    streams_out: int = 0
    resets_in: int = 0
    resets_out: int = 0
    dropped: int = 0
    rtt_seconds: float = 0.0


class MuxedConnection(Protocol):
    """Raw streams over one channel."""

    @property
    def stats(self) -> ConnectionStats: ...

    async def open_stream(self) -> MuxedStream:
        """A new stream; waits while too many of ours are not yet acknowledged. LimitExceeded past our cap."""

    async def accept_stream(self) -> MuxedStream:
        """The peer's next stream. Not calling it is back-pressure. trio.EndOfChannel when none will come."""

    async def aclose(self, code: int = ConnectionCode.NONE) -> None:
        """Tells the peer why where the muxer can, flushes within a bound, resets what is open. Idempotent.

        Streams raise StreamReset, `accept_stream` raises trio.EndOfChannel, the `open` block is cancelled.
        """


class Muxer(Protocol):
    """Makes many streams of one channel."""

    @property
    def protocol_id(self) -> ProtocolId: ...

    def open(
        self, channel: trio.abc.Stream, role: Role, *, budget: Budget | None = None
    ) -> AbstractAsyncContextManager[MuxedConnection]:
        """Runs the muxer over `channel`, which it owns, for the length of the block.

        When the channel ends, the block is cancelled and left quietly; when the peer breaks the protocol it
        is left with RemoteProtocolError. Leaving says good-bye, flushes within a bound, resets what is open.
        """


class Connection(MuxedConnection, Protocol):
    """Authenticated and multiplexed, however it came to be. Streams are raw: negotiation is the host's."""

    @property
    def local_peer(self) -> PeerId: ...

    @property
    def remote_peer(self) -> PeerId: ...

    @property
    def remote_key(self) -> PublicKey: ...

    @property
    def role(self) -> Role: ...

    @property
    def local_addr(self) -> Multiaddr: ...

    @property
    def remote_addr(self) -> Multiaddr: ...

    @property
    def limited(self) -> bool:
        """Relayed, so bounded in bytes and time."""


# ----------------------------------------------------------------------------------- gate


class GateStep(enum.Enum):
    """Where a connection is asked for, in order."""

    DIAL_PEER = "dial peer"
    DIAL_ADDR = "dial address"
    ACCEPT = "accept"
    SECURED_IN = "secured inbound"
    SECURED_OUT = "secured outbound"
    UPGRADED_IN = "upgraded inbound"
    UPGRADED_OUT = "upgraded outbound"


class Gate(Protocol):
    """Decides who may connect. Synchronous, no IO; an exception means no."""

    def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:
        """`peer` is None at ACCEPT, where nobody is authenticated yet."""


# ----------------------------------------------------------------------------------- events


class Event:
    """Something that happened to a node; every event is one of the classes below or a service's own."""

    __slots__ = ()


@dataclass(slots=True)
class PeerConnected(Event):
    """The first or a further connection of a peer stands."""

    connection: Connection

    @property
    def peer(self) -> PeerId:
        return self.connection.remote_peer


@dataclass(slots=True)
class PeerDisconnected(Event):
    """A connection ended; `last` when the peer has none left."""

    connection: Connection
    last: bool

    @property
    def peer(self) -> PeerId:
        return self.connection.remote_peer


@dataclass(slots=True)
class PeerIdentified(Event):
    """Identify or a push of it was taken into the peerstore."""

    connection: Connection
    protocols: tuple[ProtocolId, ...]
    listen_addrs: tuple[Multiaddr, ...]
    observed_addr: Multiaddr | None
    agent_version: str
    protocol_version: str

    @property
    def peer(self) -> PeerId:
        return self.connection.remote_peer


@dataclass(slots=True)
class AddressConfirmed(Event):
    """An address of ours is known to be reachable (configured, or probed)."""

    addr: Multiaddr


@dataclass(slots=True)
class AddressRefuted(Event):
    """An address of ours that was confirmed can no longer be reached."""

    addr: Multiaddr


class Reachability(enum.Enum):
    """Whether others can dial us, as far as it is known."""

    UNKNOWN = "unknown"
    PUBLIC = "public"
    PRIVATE = "private"


@dataclass(slots=True)
class ReachabilityChanged(Event):
    """What is known of our reachability is something else now."""

    reachability: Reachability


@dataclass(slots=True)
class AddressesChanged(Event):
    """The set of addresses that we announce is another one."""

    addrs: tuple[Multiaddr, ...]


@dataclass(slots=True)
class ProtocolsChanged(Event):
    """A handler was mounted or unmounted."""

    protocols: tuple[ProtocolId, ...]


@dataclass(slots=True)
class HandlerFailed(Event):
    """A handler or service raised and was contained; its stream or tick ended, nothing else."""

    owner: str
    peer: PeerId | None
    protocol: ProtocolId | None
    exception: BaseException


@dataclass(slots=True)
class ServiceFault(Event):
    """A tick or listener of a service failed; the service goes on."""

    owner: str
    exception: BaseException


@dataclass(slots=True)
class Dropped(Event):
    """The subscriber was too slow: `count` events before this one are lost to it."""

    count: int


# ----------------------------------------------------------------------------------- audit


class EntryKind(enum.IntEnum):
    """What an entry of the audit log records; the numbers are those of its bytes."""

    SENT = 0x01
    RECEIVED = 0x02
    RECEIPT_GOT = 0x03
    FILE = 0x04
    MCP_CALL = 0x05
    MCP_RESULT = 0x06


class Direction(enum.IntEnum):
    """Whose act it was."""

    OUT = 1
    """This node sent the message, file or line; also the tunnel's own events."""
    IN = 2
    """This node received it."""


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A promise to log, as its bytes travelled."""

    body: bytes
    sig: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEntry:
    """What a protocol hands to the log: facts in the clear, of which the log makes commitments and hashes."""

    kind: EntryKind
    msg_id: bytes
    """16 bytes, unique in the log together with kind, direction and counterparty."""
    direction: Direction
    counterparty: bytes
    """The other side's peer id bytes, or the topic of a broadcast."""
    time_ms: int
    """Unix milliseconds: the caller's, kept as they are."""
    sender: bytes = b""
    recipient: bytes = b""
    type: int = 0
    size: int = 0
    sent_ms: int = 0
    detail: bytes = b""
    sealed: bytes = b""
    """The blob itself, where it is to be kept."""
    sealed_hash: bytes = b""
    """Its hash; alone where the blob is not kept."""
    signature: bytes = b""
    session_commit: bytes = b""
    file_root: bytes = b""
    receipt: SignedReceipt | None = None


@dataclass(frozen=True, slots=True)
class AuditReceipt:
    """An entry is durable."""

    leaf: bytes
    """The 32-byte hash of the entry in the log's tree."""
    duplicate: bool
    """The same entry was there already."""
    promise: SignedReceipt | None
    """Of a RECEIVED entry: goes into the acknowledgement."""


class AuditLog(Protocol):
    """Records what happened, so that it cannot be denied or quietly rewritten."""

    async def record(self, entry: AuditEntry) -> AuditReceipt:
        """Returns when the entry is durable. AuditError when it cannot be: then nothing may happen unrecorded."""

    async def record_many(self, entries: Sequence[AuditEntry]) -> Sequence[AuditReceipt]:
        """As `record`, in one commit: all of them or none."""

    def check_receipt(
        self, receipt: SignedReceipt, *, msg_id: bytes, sealed_hash: bytes, sender: PeerId, receiver: PeerId
    ) -> None:
        """ProofInvalid when the receipt does not promise exactly this."""


# ----------------------------------------------------------------------------------- host

Handler: TypeAlias = Callable[[Stream], Awaitable[None]]
H = TypeVar("H", bound=Handler)


class PeerRouting(Protocol):
    """Finds addresses of peers: what the host knows of a DHT."""

    async def find_peer(self, peer: PeerId) -> Sequence[Multiaddr]:
        """Addresses, best first; PeerNotFound when nobody knows one."""


class RecordStore(Protocol):
    """Signed records found by key: what the siblings know of a DHT."""

    async def put_value(self, key: bytes, value: bytes) -> None:
        """Stores with the peers nearest to `key`; RecordRejected where the namespace refuses the value."""

    async def get_value(self, key: bytes) -> bytes | None:
        """The best valid value that the network knows; None when nobody has one."""


class Verdict(enum.Enum):
    """What a validator says of a broadcast message."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    """Neither delivered nor forwarded; nobody is blamed."""
    REJECT = "reject"
    """Neither delivered nor forwarded, and the peer that sent it is scored down."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicMessage:
    """A broadcast message as subscribers and validators see it."""

    topic: str
    data: bytes
    id: bytes
    source: PeerId
    """The neighbour that brought it; ourselves for our own."""
    author: PeerId | None = None
    """Who signed it; None where the network's policy has no authors."""
    seqno: bytes = b""


Validator = Callable[[TopicMessage], Verdict | Awaitable[Verdict]]


class PubSub(Protocol):
    """Broadcast by topic: what the siblings know of a gossip router."""

    async def publish(self, topic: str, data: bytes) -> bytes:
        """Hands one message to the network; returns its id. It is not delivered to our own subscriptions."""

    async def wait_for_peers(self, topic: str, count: int = 1) -> None:
        """Until that many neighbours want `topic`: from then on they get what we publish."""

    def subscribe(
        self, topic: str, validator: Validator | None = None
    ) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[TopicMessage]]:
        """A bounded subscription for the length of the block; a slow reader loses the oldest, counted.

        A topic has at most one validator: a second one is a ConfigError.
        """


class Peerstore(Protocol):
    """What is known of peers. Bounded; connected peers stay. Addresses are kept without `/p2p/…`."""

    def addrs(self, peer: PeerId) -> Sequence[Multiaddr]: ...

    def add_addrs(self, peer: PeerId, addrs: Iterable[Multiaddr]) -> None:
        """Hints: private ones from public peers are the caller's to drop."""

    def protocols(self, peer: PeerId) -> frozenset[ProtocolId]:
        """As identify told; empty before it did."""

    def agent_version(self, peer: PeerId) -> str: ...

    def signed_record(self, peer: PeerId) -> bytes | None:
        """The newest accepted envelope, byte for byte as received."""

    def record_seq(self, peer: PeerId) -> int | None:
        """The sequence number of that envelope."""

    def update(
        self,
        peer: PeerId,
        *,
        addrs: Iterable[Multiaddr] | None = None,
        protocols: Iterable[ProtocolId] | None = None,
        agent_version: str | None = None,
        record: tuple[bytes, int] | None = None,
    ) -> None:
        """Takes over what the peer told of itself; None leaves what is known. `record`: envelope and its number."""

    def peers(self) -> Iterable[PeerId]: ...


class Host(Protocol):
    """A running node, as the protocols above it know it."""

    @property
    def peer_id(self) -> PeerId: ...

    @property
    def key(self) -> PrivateKey: ...

    @property
    def addrs(self) -> Sequence[Multiaddr]:
        """What others may dial, each ending in our `/p2p/…`."""

    @property
    def listened(self) -> Sequence[Multiaddr]:
        """Where connections come in, without `/p2p/…`, whether others are told or not."""

    @property
    def protocols(self) -> Sequence[ProtocolId]:
        """What is mounted, and told to others."""

    @property
    def peerstore(self) -> Peerstore: ...

    @property
    def connections(self) -> Sequence[Connection]: ...

    def is_used(self, connection: Connection) -> bool:
        """Whether a stream of an application runs on it; those of identify and ping do not count."""

    async def connect(
        self, peer: PeerId | None, addrs: Iterable[Multiaddr] = (), *, punch: Role | None = None
    ) -> Connection:
        """A connection to `peer`: the one there is, else a new one.

        One that stands through a relay is given where no direct one can be had. `punch`: only `addrs` are dialled, all
        at once, from the ports that are listened on, in that role above the bytes.
        Peer routing is asked only when neither `addrs` nor the peerstore has an address. `peer` None takes
        whoever answers at an address that the user typed. Concurrent callers share one dial. DialError
        carries the cause of each address. Identify may still be running on return.
        """

    async def open_stream(self, to: PeerId | Connection, *protocols: ProtocolId, limited_ok: bool = False) -> Stream:
        """A stream on which one of `protocols`, in that preference, is agreed.

        With exactly one, negotiation is optimistic: NegotiationError may come at the first receive.
        """

    def handle(self, *protocols: ProtocolId, limited: bool = False) -> Callable[[H], H]:
        """Decorator that mounts a handler for the node's life; `limited` admits relayed connections.

        A handler owns its stream until it returns: then it is closed; on an exception it is reset.
        """

    def mounted(self, protocol: ProtocolId, handler: Handler, *, limited: bool = False) -> AbstractContextManager[None]:
        """Mounts a handler for the length of the block."""

    def using(
        self, part: PeerRouting | ByteTransport | Transport, listen: Sequence[Multiaddr] = ()
    ) -> AbstractContextManager[None]:
        """Adds peer routing or a transport for the length of the block, listening where told."""

    def announcing(self, addrs: Iterable[Multiaddr]) -> AbstractContextManager[None]:
        """Tells others of further addresses of ours, relayed or mapped ones, for the length of the block."""

    def keeping(self, peer: PeerId) -> AbstractContextManager[None]:
        """Exempts the peer's connections from being trimmed, for the length of the block."""

    def events(self) -> AbstractAsyncContextManager[trio.MemoryReceiveChannel[Event]]:
        """A bounded subscription; a slow reader gets `Dropped` in place of what it missed."""

    def observe(self, observer: Callable[[Event], None]) -> AbstractContextManager[None]:
        """Calls `observer` at once for each event, for the length of the block; it must not block."""

    def emit(self, event: Event) -> None:
        """Tells all subscribers and observers; never blocks, never raises."""
