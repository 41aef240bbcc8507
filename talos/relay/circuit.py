"""Connections through relays: a byte transport for `/…/p2p/<relay>/p2p-circuit/p2p/<peer>`.

Dialling asks the relay for a circuit, listening reserves there. What comes is a plain byte stream: security and muxer
run over it from end to end, so that the relay sees neither.
"""

from __future__ import annotations

import logging
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from multiaddr import Multiaddr

from talos import addr as addresses
from talos.abc import ByteTransport, Event, PeerDisconnected, Role
from talos.errors import BadSignature, ConfigError, DialError, ListenError, RemoteProtocolError, StreamCode, TalosError
from talos.host.direct import direct_connection
from talos.relay.listener import CircuitListener
from talos.relay.stream import CircuitStream
from talos.relay.wire import (
    HOP,
    MAX_MESSAGE_BYTES,
    STOP,
    HopMessage,
    HopType,
    Status,
    StopMessage,
    StopType,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
    open_voucher,
)
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Connection, Host, Stream
    from talos.identity.peer_id import PeerId
    from talos.relay.wire import Reservation

__all__ = ["Circuit", "CircuitConfig", "RelayLost", "RelayReserved", "open_circuit"]

_log = logging.getLogger(__name__)
_ENDS = (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError)
CIRCUIT = Multiaddr("/p2p-circuit")


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitConfig:
    """How relays are used."""

    reserve_seconds: float = 30.0
    """For a relay to be reached and to answer a reservation."""
    hop_seconds: float = 60.0
    """For a relay to reach the peer that is called; the deadline of the whole dial is shorter as a rule."""
    stop_seconds: float = 10.0
    """For a relay that calls to say who is calling."""
    backlog: int = 16
    """Calls that wait to be accepted, for each relay."""
    longest_seconds: float = 86_400.0
    """What is believed of a reservation's time."""

    def __post_init__(self) -> None:
        times = (self.reserve_seconds, self.hop_seconds, self.stop_seconds, self.longest_seconds)
        if min(times) <= 0 or self.backlog < 1:
            raise ConfigError("a circuit needs time, and room for one call at least")


@dataclass(slots=True)
class RelayReserved(Event):
    """A relay relays for us, anew or still."""

    relay: PeerId
    addrs: tuple[Multiaddr, ...]


@dataclass(slots=True)
class RelayLost(Event):
    """A relay no longer relays for us, or refused to."""

    relay: PeerId
    reason: str


@asynccontextmanager
async def open_circuit(
    host: Host, config: CircuitConfig | None = None, listen: tuple[Multiaddr, ...] = ()
) -> AsyncIterator[Circuit]:
    """Relayed addresses can be dialled for the length of the block; `listen`: relays to reserve at, for ever tried.

    They read `/…/p2p/<relay>/p2p-circuit`.
    """
    circuit = Circuit(host, config or CircuitConfig())
    with (
        host.mounted(STOP, circuit.take_call),
        host.observe(circuit.observe),
        host.using(circuit, listen),
    ):
        yield circuit


class Circuit(ByteTransport):
    """The transport; made by `open_circuit`."""

    def __init__(self, host: Host, config: CircuitConfig) -> None:
        self.config = config
        self._host = host
        self._listeners: dict[PeerId, CircuitListener] = {}

    @property
    def relays(self) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Where we hold a reservation, and the addresses that it gives us."""
        return {relay: listener.addrs for relay, listener in self._listeners.items()}

    def matches(self, addr: Multiaddr) -> bool:
        """Whether it leads through one relay."""
        return addresses.is_relayed(addr)

    # -- dialling

    async def dial(self, addr: Multiaddr) -> CircuitStream:
        """A circuit to the peer that `addr` ends in; DialError says which status the relay gave."""
        relay_addr, target = addresses.split_peer(addr)
        if target is None:
            raise DialError(f"{addr} names nobody behind its relay")
        where, relay = self._relay_of(relay_addr, DialError)
        if target == relay:
            raise DialError(f"{relay} is not reached through itself")
        connection = await self._connected(where, relay)
        if connection.limited:
            raise DialError(f"relay {relay} is behind a relay itself")
        stream: Stream | None = None
        try:
            with trio.fail_after(self.config.hop_seconds):
                stream = await self._host.open_stream(connection, HOP)
                hop = _hop(stream)
                await hop.send(HopMessage(type=HopType.CONNECT, peer=target))
                answer = _status(await hop.receive())
        except BaseException as error:
            if stream is not None:
                stream.reset()
            if isinstance(error, (*_ENDS, trio.TooSlowError)):
                raise DialError(f"relay {relay} gave no circuit to {target}: {_reason(error)}") from error
            raise
        if answer.status != Status.OK:
            stream.reset()
            raise DialError(f"relay {relay} gave no circuit to {target}: {_name(answer.status)}")
        return CircuitStream(stream, hop.take_leftover())

    def _relay_of(self, addr: Multiaddr, error: type[DialError | ListenError]) -> tuple[tuple[Multiaddr, ...], PeerId]:
        """Where the relay of `/…/p2p/<relay>/p2p-circuit` is, and who."""
        names = addresses.names_of(addr)
        if names[-1:] != ("p2p-circuit",) or names.count("p2p-circuit") != 1:
            raise error(f"{addr} does not lead through exactly one relay")
        before, relay = addresses.split_peer(Multiaddr(addr.to_bytes()[: -len(CIRCUIT.to_bytes())]))
        if relay is None or relay == self._host.peer_id:
            raise error(f"{addr} names no relay" if relay is None else f"{addr}: this node itself is no way to it")
        return ((before,) if before.to_bytes() else ()), relay

    # -- listening

    async def listen(self, addr: Multiaddr) -> CircuitListener:
        """Reserves at the relay of `addr`; ListenError says why that failed. `accept` renews it."""
        where, relay = self._relay_of(addr, ListenError)
        if relay in self._listeners:
            raise ListenError(f"there is a reservation at {relay} already")
        try:
            listener = await self._reserved(where, relay)
        except ListenError as error:
            self._host.emit(RelayLost(relay, str(error)))
            raise
        self._listeners[relay] = listener
        self._host.emit(RelayReserved(relay, listener.addrs))
        return listener

    async def _reserved(self, where: tuple[Multiaddr, ...], relay: PeerId) -> CircuitListener:
        with trio.move_on_after(self.config.reserve_seconds):
            try:
                connection = await self._connected(where, relay)
            except TalosError as error:
                raise ListenError(f"relay {relay} is not reached: {error}") from error
            reservation = await self._reserve(connection)
            return CircuitListener(
                self._host,
                connection,
                reservation,
                backlog=self.config.backlog,
                longest_seconds=self.config.longest_seconds,
                renew=self._renewed,
                gone=self._gone,
            )
        raise ListenError(f"relay {relay} did not answer within {self.config.reserve_seconds:g} s")

    async def _connected(self, where: tuple[Multiaddr, ...], relay: PeerId) -> Connection:
        """From the port that we listen on, where that can be: a hole can be punched where the relay sees us then."""
        known = where or tuple(addr for addr in self._host.peerstore.addrs(relay) if not addresses.is_relayed(addr))
        try:
            if known:
                return await self._host.connect(relay, known, punch=Role.DIALER)
        except TalosError as error:
            _log.debug("relay %s cannot be dialled from the port listened on: %s", relay, error)
        return await self._host.connect(relay, where)

    async def _reserve(self, connection: Connection) -> Reservation:
        """ListenError: refused, or no sensible answer."""
        relay = connection.remote_peer
        if connection.limited:
            raise ListenError(f"relay {relay} is behind a relay itself")
        try:
            async with await self._host.open_stream(connection, HOP) as stream:
                hop = _hop(stream)
                await hop.send(HopMessage(type=HopType.RESERVE))
                answer = _status(await hop.receive())
        except _ENDS as error:
            raise ListenError(f"relay {relay} gave no reservation: {_reason(error)}") from error
        granted = answer.reservation
        if answer.status != Status.OK or granted is None:
            raise ListenError(f"relay {relay} gave no reservation: {_name(answer.status)}")
        if granted.expire <= time.time():
            raise ListenError(f"relay {relay} gave a reservation that is over")
        self._look_at_voucher(relay, granted.voucher)
        return granted

    def _look_at_voucher(self, relay: PeerId, data: bytes | None) -> None:
        """It is nobody's to use yet, so that a bad one only says something of the relay."""
        try:
            voucher = open_voucher(data) if data is not None else None
        except (RemoteProtocolError, BadSignature) as error:
            _log.info("relay %s gave a bad voucher: %s", relay, error)
            return
        if voucher is not None and (voucher.relay, voucher.peer) != (relay, self._host.peer_id):
            _log.info("relay %s gave a voucher for others", relay)

    async def _renewed(self, relay: PeerId) -> Reservation:
        with trio.move_on_after(self.config.reserve_seconds):
            connection = direct_connection(self._host, relay)
            if connection is None:
                raise ListenError(f"the connection to relay {relay} is gone")
            reservation = await self._reserve(connection)
            self._host.emit(RelayReserved(relay, self._listeners[relay].addrs))
            return reservation
        raise ListenError(f"relay {relay} did not answer within {self.config.reserve_seconds:g} s")

    def _gone(self, relay: PeerId, reason: str) -> None:
        if self._listeners.pop(relay, None) is not None:
            self._host.emit(RelayLost(relay, reason))

    def observe(self, event: Event) -> None:
        """A reservation ends with the last direct connection to its relay."""
        if isinstance(event, PeerDisconnected):
            listener = self._listeners.get(event.peer)
            if listener is not None and direct_connection(self._host, event.peer) is None:
                listener.lost()

    # -- being called

    async def take_call(self, stream: Stream) -> None:
        """Answers a relay that calls for somebody, and holds the stream for as long as the circuit lasts."""
        stop = MessageStream[StopMessage, StopMessage](
            stream, decode=decode_stop, encode=encode_stop, max_size=MAX_MESSAGE_BYTES
        )
        with trio.fail_after(self.config.stop_seconds):
            status, source = self._judge_call(stream, await stop.receive())
            listener = self._listeners.get(stream.connection.remote_peer)
            if status is Status.OK and listener is not None and listener.full:
                status = Status.RESOURCE_LIMIT_EXCEEDED
            await stop.send(StopMessage(type=StopType.STATUS, status=status))
        if status is not Status.OK or source is None or listener is None:
            return
        circuit = CircuitStream(stream, stop.take_leftover())
        if not listener.put(circuit, source, stream.connection.remote_addr):
            stream.reset(StreamCode.RESOURCE_LIMIT)
            return
        await circuit.closed.wait()

    def _judge_call(self, stream: Stream, call: StopMessage) -> tuple[Status, PeerId | None]:
        if call.type is not StopType.CONNECT:
            return Status.UNEXPECTED_MESSAGE, None
        if call.peer is None or call.peer == self._host.peer_id:
            return Status.MALFORMED_MESSAGE, None
        if stream.connection.remote_peer not in self._listeners:
            return Status.PERMISSION_DENIED, None
        return Status.OK, call.peer


def _hop(stream: Stream) -> MessageStream[HopMessage, HopMessage]:
    return MessageStream(stream, decode=decode_hop, encode=encode_hop, max_size=MAX_MESSAGE_BYTES)


def _status(message: HopMessage) -> HopMessage:
    if message.type is not HopType.STATUS:
        raise RemoteProtocolError(f"relay answered with {message.type.name}")
    if message.status == Status.UNUSED:
        raise RemoteProtocolError("relay answered without a status")
    return message


def _name(status: int) -> str:
    try:
        return Status(status).name
    except ValueError:
        return f"status {status}"


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__
