"""The upgrade: raw bytes become an authenticated, multiplexed connection.

Order on a stream: multistream chooses the security, the security proves the peer, the budget and its gate agree to
that peer, then the muxer: agreed on inside the handshake, or by multistream over the secure channel. A private
network is no step of it: its transport is handed in wrapped.
"""

from __future__ import annotations

import math
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

import trio
from multiaddr import Multiaddr

from talos.abc import Role, Transport
from talos.addr import is_relayed, split_peer, with_peer
from talos.errors import (
    ConfigError,
    DialError,
    HandshakeError,
    LimitExceeded,
    NegotiationError,
    PeerIdMismatch,
    RemoteProtocolError,
    TalosError,
)
from talos.multistream import MultistreamConfig, PrefixedStream, answer, select

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Any

    from talos.abc import (
        Budget,
        ByteListener,
        ByteTransport,
        Connection,
        ConnectionStats,
        MuxedConnection,
        MuxedStream,
        Muxer,
        ProtocolId,
        SecureChannel,
        SecurityTransport,
    )
    from talos.identity.keys import PublicKey
    from talos.identity.peer_id import PeerId

__all__ = ["Upgrade", "UpgradeConfig"]

_UNKNOWN_ADDR = Multiaddr("")
CLOSE_SECONDS = 1.0  # closing raw bytes never waits for the peer
"""For closing the raw bytes, which never waits for the peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeConfig:
    """Deadlines, all of them totals, and bounds of one upgrade."""

    connect_seconds: float = 5.0
    """For the byte transport to connect, name resolution included."""
    authenticate_seconds: float = 10.0
    """Inbound: from the start of the upgrade until the peer is authenticated."""
    total_seconds: float = 15.0
    """Either side: from the connected bytes until the muxer runs."""
    preauth_bytes: int = 64 * 1024
    """Most bytes read from a peer that is not yet authenticated."""
    multistream: MultistreamConfig = field(default_factory=MultistreamConfig)
    """Bounds of the negotiations."""

    def __post_init__(self) -> None:
        if min(self.connect_seconds, self.authenticate_seconds, self.total_seconds, self.preauth_bytes) <= 0:
            raise ConfigError("deadlines and limits of the upgrade must be positive")
        if self.authenticate_seconds > self.total_seconds:
            raise ConfigError("the deadline of authentication lies behind that of the upgrade")


class _UnprovenStream(trio.abc.Stream):
    """Counts what comes from a peer until it is authenticated; from then on reading is the stream's own again."""

    def __init__(self, stream: trio.abc.Stream, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._left: int | None = limit
        self.exceeded: LimitExceeded | None = None
        vars(self).update(send_all=stream.send_all)

    def proven(self) -> None:
        """Takes the limit off."""
        self._left = None
        vars(self).update(receive_some=self._stream.receive_some)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self._left is None:
            return await self._stream.receive_some(max_bytes)
        if self._left == 0:
            self.exceeded = LimitExceeded(
                f"more than {self._limit} bytes before authentication",
                limit=self._limit,
                scope="connection",
                kind="preauth_bytes",
            )
            raise self.exceeded
        data = await self._stream.receive_some(min(max_bytes or self._left, self._left))
        self._left -= len(data)
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class _Upgraded:
    """The `Connection` that an upgrade makes: the muxer's streams, and what the layers below it know."""

    def __init__(
        self,
        muxed: MuxedConnection,
        *,
        local_peer: PeerId,
        channel: SecureChannel,
        role: Role,
        local_addr: Multiaddr,
        remote_addr: Multiaddr,
        layers: tuple[ProtocolId, ...],
    ) -> None:
        self._muxed = muxed
        self.layers = layers
        self.local_peer = local_peer
        self.remote_peer: PeerId = channel.remote_peer
        self.remote_key: PublicKey = channel.remote_key
        self.role = role
        self.local_addr = local_addr
        self.remote_addr = remote_addr
        self.limited = is_relayed(remote_addr)
        self.stats: ConnectionStats = muxed.stats

    def open_stream(self) -> Coroutine[Any, Any, MuxedStream]:
        return self._muxed.open_stream()

    def accept_stream(self) -> Coroutine[Any, Any, MuxedStream]:
        return self._muxed.accept_stream()

    def aclose(self, code: int = 0) -> Coroutine[Any, Any, None]:
        return self._muxed.aclose(code)

    def __repr__(self) -> str:
        return f"<connection with {self.remote_peer} at {self.remote_addr}>"


class Upgrade(Transport):
    """A `Transport` of a byte transport, securities and muxers; the order of the last two is preference.

    What goes wrong between the bytes and the muxer raises HandshakeError, NegotiationError, LimitExceeded or
    RefusedByGate, and the bytes are closed; a deadline gives a HandshakeError whose cause is trio.TooSlowError.
    """

    def __init__(
        self,
        byte_transport: ByteTransport,
        *,
        security: Sequence[SecurityTransport],
        muxers: Sequence[Muxer],
        local_peer: PeerId,
        config: UpgradeConfig | None = None,
    ) -> None:
        if not security or not muxers:
            raise ConfigError("an upgrade needs a security transport and a muxer")
        self.byte_transport = byte_transport
        self.config = config or UpgradeConfig()
        self.local_peer = local_peer
        self.security = {each.protocol_id: each for each in security}
        self.muxers = {each.protocol_id: each for each in muxers}

    def matches(self, addr: Multiaddr) -> bool:
        """As the byte transport."""
        return self.byte_transport.matches(addr)

    @asynccontextmanager
    async def dial(
        self, addr: Multiaddr, peer: PeerId | None, *, budget: Budget | None = None, punch: Role | None = None
    ) -> AsyncIterator[Connection]:
        """As `Transport.dial`; the connection's `local_addr` is empty where the byte stream does not know it."""
        connect = self.byte_transport.dial if punch is None else self.byte_transport.punch
        relayed = peer is not None and is_relayed(addr)
        # A way through a relay has connections of its own to make; whoever dials bounds the whole.
        seconds = self.config.total_seconds if relayed else self.config.connect_seconds
        with trio.move_on_after(seconds) as scope:
            stream = await connect(with_peer(addr, peer) if relayed and peer is not None else addr)
        if scope.cancelled_caught:
            raise DialError(f"{addr}: no connection within {seconds:g} s")
        attempt = _Attempt(self, stream, punch or Role.DIALER, peer, budget)
        async with attempt.connection(_local_addr(stream, _UNKNOWN_ADDR), addr) as connection:
            yield connection

    async def listen(self, addr: Multiaddr) -> _Listener:
        """As `Transport.listen`."""
        return _Listener(self, await self.byte_transport.listen(addr))


class _Attempt:
    """One upgrade of one stream, which it closes when it fails and when the connection ends."""

    def __init__(
        self, upgrade: Upgrade, stream: trio.abc.Stream, role: Role, expected: PeerId | None, budget: Budget | None
    ) -> None:
        self._upgrade = upgrade
        self._stream = stream
        self._role = role
        self._expected = expected
        self._budget = budget
        self._security: ProtocolId = ""

    @asynccontextmanager
    async def connection(self, local_addr: Multiaddr, remote_addr: Multiaddr) -> AsyncIterator[Connection]:
        config = self._upgrade.config
        inbound = self._role is Role.LISTENER
        started = trio.current_time()
        try:
            with trio.CancelScope() as scope:
                scope.deadline = started + (config.authenticate_seconds if inbound else config.total_seconds)
                channel = await self._authenticate()
                scope.deadline = started + config.total_seconds
                muxer, carrier = await self._agree_on_muxer(channel)
                async with muxer.open(carrier, self._role, budget=self._budget) as muxed:
                    scope.deadline = math.inf
                    yield _Upgraded(
                        muxed,
                        local_peer=self._upgrade.local_peer,
                        channel=channel,
                        role=self._role,
                        local_addr=local_addr,
                        remote_addr=remote_addr,
                        layers=(self._security, muxer.protocol_id),
                    )
            if scope.cancelled_caught:
                seconds = trio.current_time() - started
                raise HandshakeError(f"no connection after {seconds:g} s of handshake") from trio.TooSlowError()
        finally:
            # Shielded, or a cancellation from outside would take the place of what is being raised: a Ctrl-C even.
            with trio.move_on_after(CLOSE_SECONDS, shield=True):
                await trio.aclose_forcefully(self._stream)

    async def _authenticate(self) -> SecureChannel:
        """Security, and the budget's consent to the peer."""
        upgrade = self._upgrade
        unproven = _UnprovenStream(self._stream, upgrade.config.preauth_bytes)
        try:
            with _as_handshake_errors():
                chosen, carrier = await self._agree(unproven, upgrade.security)
                channel = await upgrade.security[chosen].secure(
                    carrier, self._role, self._expected, muxers=tuple(upgrade.muxers)
                )
        except TalosError:
            if unproven.exceeded is not None:
                raise unproven.exceeded from None
            raise
        if self._expected is not None and channel.remote_peer != self._expected:
            raise PeerIdMismatch(self._expected, channel.remote_peer)
        if self._budget is not None:
            self._budget.authenticated(channel.remote_peer)
        unproven.proven()
        self._security = chosen
        return channel

    async def _agree_on_muxer(self, channel: SecureChannel) -> tuple[Muxer, trio.abc.Stream]:
        muxers = self._upgrade.muxers
        chosen, carrier = channel.early_muxer, cast("trio.abc.Stream", channel)
        if chosen is None:
            with _as_handshake_errors():
                chosen, carrier = await self._agree(channel, muxers)
        elif chosen not in muxers:
            raise HandshakeError(f"the handshake chose the muxer {chosen[:80]}, which is none of ours")
        return muxers[chosen], carrier

    async def _agree(
        self, stream: trio.abc.Stream, ours: Mapping[ProtocolId, object]
    ) -> tuple[ProtocolId, trio.abc.Stream]:
        limits = self._upgrade.config.multistream
        if self._role is Role.DIALER:
            chosen, leftover = await select(stream, tuple(ours), limits)
        else:
            chosen, leftover = await answer(stream, ours, limits)
        return chosen, PrefixedStream(stream, leftover) if leftover else stream


@contextmanager
def _as_handshake_errors() -> Iterator[None]:
    """A peer that goes away, or breaks a protocol for which its layer has no better word."""
    try:
        yield
    except NegotiationError as error:
        if isinstance(error.__cause__, EOFError):
            raise HandshakeError(str(error)) from error
        raise
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise HandshakeError("the connection was closed during the handshake") from error
    except RemoteProtocolError as error:
        raise HandshakeError(str(error)) from error


class _Listener:
    """A `Listener` over a byte listener."""

    def __init__(self, upgrade: Upgrade, listener: ByteListener) -> None:
        self._upgrade = upgrade
        self._listener = listener
        self._refused: list[trio.abc.Stream] = []

    @property
    def addr(self) -> Multiaddr:
        return self._listener.addr

    async def accept(self) -> _Inbound:
        await self._close_refused()
        stream, remote_addr = await self._listener.accept()
        return _Inbound(self, self._upgrade, stream, remote_addr)

    async def aclose(self) -> None:
        await self._listener.aclose()
        await self._close_refused()

    def refuse(self, stream: trio.abc.Stream) -> None:
        close = getattr(stream, "close", None)
        if close is not None:
            close()
        else:
            self._refused.append(stream)

    async def _close_refused(self) -> None:
        while self._refused:
            await trio.aclose_forcefully(self._refused.pop())


class _Inbound:
    """An `Inbound` whose bytes are not yet read."""

    def __init__(self, listener: _Listener, upgrade: Upgrade, stream: trio.abc.Stream, remote_addr: Multiaddr) -> None:
        self._listener = listener
        self._upgrade = upgrade
        self._stream = stream
        self.remote_addr = remote_addr

    def open(self, budget: Budget | None = None) -> AbstractAsyncContextManager[Connection]:
        # A relay says who is calling: that is who has to prove it.
        expected = split_peer(self.remote_addr)[1] if is_relayed(self.remote_addr) else None
        attempt = _Attempt(self._upgrade, self._stream, Role.LISTENER, expected, budget)
        return attempt.connection(_local_addr(self._stream, self._listener.addr), self.remote_addr)

    def refuse(self) -> None:
        self._listener.refuse(self._stream)


def _local_addr(stream: trio.abc.Stream, otherwise: Multiaddr) -> Multiaddr:
    """Where our end is: streams of most byte transports know."""
    try:
        addr = getattr(stream, "local_addr", otherwise)
    except OSError:  # closed already; the handshake will find out
        return otherwise
    return addr if isinstance(addr, Multiaddr) else otherwise
