"""Conformance of transports: `check_byte_transport` for raw bytes, `check_connection` for whole connections.

Both open real listeners on the address that they are given, so a socket transport needs a real clock.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

import trio
from trio.testing import check_half_closeable_stream, check_two_way_stream, wait_all_tasks_blocked

from talos.abc import Role
from talos.addr import parse
from talos.errors import DialError, LimitExceeded, ListenError, PeerIdMismatch, TalosError
from talos.testing.check_stream import raised, receive_exactly, receive_rest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from multiaddr import Multiaddr

    from talos.abc import ByteListener, ByteTransport, Connection, Listener, Resource, Transport
    from talos.identity.peer_id import PeerId

__all__ = ["check_byte_transport", "check_connection"]

UNRELATED = parse("/ip4/127.0.0.1/udp/9/quic-v1")
SETTLE_SECONDS = 0.03
QUIET_ROUNDS = 4
"""So often in a row nothing must go out before a stream counts as clogged."""
CLOG_BYTES = 64 * 1024
FLOOD_BYTES = 64 * 1024 * 1024
BULK = bytes(range(256)) * 4096
DIALS_AT_ONCE = 32

Pair: TypeAlias = tuple[trio.abc.Stream, trio.abc.Stream]


async def check_byte_transport(
    transport: ByteTransport, addr: Multiaddr, nobody: Multiaddr, *, resumes: bool = True
) -> None:
    """Everything that `ByteTransport` promises; AssertionError when a promise is broken.

    `addr` is to be listened on, with port 0 where the transport has ports; at `nobody` nobody listens. `resumes`:
    whether a stream goes on after a send that was cancelled; without, nothing is tested on streams that are full.
    """
    assert transport.matches(addr), f"{addr} is not matched"
    assert transport.matches(nobody), f"{nobody} is not matched"
    assert not transport.matches(UNRELATED), f"{UNRELATED} is matched"
    await _check_streams(transport, addr, resumes=resumes)
    await _check_carrying(transport, addr)
    await _check_accepting(transport, addr)
    await _check_dialling(transport, addr, nobody)
    await _check_closing(transport, addr)


@asynccontextmanager
async def _listening(transport: ByteTransport, addr: Multiaddr) -> AsyncIterator[ByteListener]:
    listener = await transport.listen(addr)
    try:
        yield listener
    finally:
        await listener.aclose()


async def _pair(transport: ByteTransport, listener: ByteListener) -> Pair:
    """Both ends, ready: a dial may wait until the other end is used."""
    dialled: list[trio.abc.Stream] = []

    async def dial() -> None:
        dialled.append(await transport.dial(listener.addr))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        accepted = await _accept(listener)
    return dialled[0], accepted


async def _accept(listener: ByteListener) -> trio.abc.Stream:
    accepted, remote_addr = await listener.accept()
    assert str(remote_addr), "the accepted stream has no remote address"
    await accepted.wait_send_all_might_not_block()
    return accepted


async def _check_streams(transport: ByteTransport, addr: Multiaddr, *, resumes: bool) -> None:
    """Trio's own suite, on both kinds of ends."""
    async with _listening(transport, addr) as listener:
        assert transport.matches(listener.addr), f"listens on {listener.addr}, which it does not match"

        async def pair() -> Pair:
            return await _pair(transport, listener)

        async def clogged() -> Pair:
            ends = await pair()
            quiet = 0
            while quiet < QUIET_ROUNDS:  # filling one way can make room the other way, and so can the system, later
                if any([await _takes(end, b"x") for end in ends]):
                    quiet = 0
                    for end in ends:
                        await _clog(end)
                else:
                    quiet += 1
            return ends

        ends = await pair()
        half_closeable = all(isinstance(end, trio.abc.HalfCloseableStream) for end in ends)
        await _close(*ends)
        check = check_half_closeable_stream if half_closeable else check_two_way_stream
        await check(pair, clogged if resumes else None)  # type: ignore[arg-type]


async def _clog(stream: trio.abc.Stream) -> None:
    """Fills the way to a reader that reads nothing; AssertionError when that takes more than 64 MiB."""
    chunk = bytes(CLOG_BYTES)
    for _ in range(FLOOD_BYTES // CLOG_BYTES):
        if not await _takes(stream, chunk):
            return
    raise AssertionError(f"{FLOOD_BYTES} bytes were taken although nobody reads")


async def _takes(stream: trio.abc.Stream, data: bytes) -> bool:
    """Whether `data` goes out without anybody reading."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_blocked, scope)
            await stream.send_all(data)
            nursery.cancel_scope.cancel()
    return not scope.cancelled_caught


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked(SETTLE_SECONDS)
    scope.cancel()


async def _check_carrying(transport: ByteTransport, addr: Multiaddr) -> None:
    """A MiB each way at once, whole and in order, then a clean end."""
    async with _listening(transport, addr) as listener:
        ends = await _pair(transport, listener)

        async def send(end: trio.abc.Stream) -> None:
            view = memoryview(bytearray(BULK))
            for start in range(0, len(view), 65_536):
                await end.send_all(view[start : start + 65_536])

        async def receive(end: trio.abc.Stream) -> None:
            assert await receive_exactly(end, len(BULK)) == BULK, "bytes were changed or reordered"

        async with trio.open_nursery() as nursery:
            for end in ends:
                nursery.start_soon(send, end)
                nursery.start_soon(receive, end)
        await ends[0].aclose()
        assert await receive_rest(ends[1]) == b"", "no clean end"
        await ends[1].aclose()


async def _check_accepting(transport: ByteTransport, addr: Multiaddr) -> None:
    """A cancelled accept loses nobody; many dials at once are all served."""
    async with _listening(transport, addr) as listener:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_blocked, scope)
                await listener.accept()
        assert scope.cancelled_caught, "accept returned without a dial"
        streams: list[trio.abc.Stream] = []

        async def dial() -> None:
            streams.append(await transport.dial(listener.addr))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(dial)
            await wait_all_tasks_blocked(SETTLE_SECONDS)
            with trio.CancelScope() as scope:
                scope.cancel()
                await listener.accept()
            assert scope.cancelled_caught, "accept is no checkpoint"
            streams.append(await _accept(listener))
        await _close(*streams)
        streams.clear()
        async with trio.open_nursery() as nursery:
            for _ in range(DIALS_AT_ONCE):
                nursery.start_soon(dial)
            for _ in range(DIALS_AT_ONCE):
                streams.append(await _accept(listener))  # noqa: PERF401
        assert len(streams) == 2 * DIALS_AT_ONCE
        await _close(*streams)


async def _check_dialling(transport: ByteTransport, addr: Multiaddr, nobody: Multiaddr) -> None:
    """Failing to dial and to listen says where; a cancelled dial leaves nothing open."""
    error = await raised(DialError, lambda: transport.dial(nobody))
    assert str(nobody) in str(error), f"the error does not name {nobody}: {error}"
    async with _listening(transport, addr) as listener:
        refusal = await raised(ListenError, lambda: transport.listen(listener.addr))
        assert str(listener.addr) in str(refusal), f"the error does not name {listener.addr}: {refusal}"
        with trio.CancelScope() as scope:
            scope.cancel()
            await transport.dial(listener.addr)
        assert scope.cancelled_caught, "dial is no checkpoint"
        await _close(*await _pair(transport, listener))
    await raised(DialError, lambda: transport.punch(nobody))


async def _check_closing(transport: ByteTransport, addr: Multiaddr) -> None:
    """A closed listener leaves its streams, wakes its acceptor, frees its address."""
    listener = await transport.listen(addr)
    ends = await _pair(transport, listener)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(raised, trio.ClosedResourceError, listener.accept)
        await wait_all_tasks_blocked(SETTLE_SECONDS)
        await listener.aclose()
    await listener.aclose()
    await raised(trio.ClosedResourceError, listener.accept)
    await raised(DialError, lambda: transport.dial(listener.addr))
    await ends[0].send_all(b"still")
    assert await receive_exactly(ends[1], 5) == b"still", "a stream died with its listener"
    async with _listening(transport, listener.addr) as again:
        assert again.addr == listener.addr, "the address was not free again"
    await ends[0].aclose()
    await raised(trio.BrokenResourceError, lambda: _send_for_ever(ends[1]))
    await ends[1].aclose()


async def _send_for_ever(stream: trio.abc.Stream) -> None:
    while True:
        await stream.send_all(bytes(65_536))


async def _close(*streams: trio.abc.Stream) -> None:
    for stream in streams:
        await trio.aclose_forcefully(stream)


class _Door:
    """A `Budget` that notes who was authenticated, and refuses when told to."""

    def __init__(self, *, open_: bool = True) -> None:
        self.open = open_
        self.seen: list[PeerId] = []

    def reserve(self, kind: Resource, amount: int = 1) -> None:
        """Agrees."""

    def release(self, kind: Resource, amount: int = 1) -> None:
        """Agrees."""

    def authenticated(self, peer: PeerId) -> None:
        self.seen.append(peer)
        if not self.open:
            raise LimitExceeded("the door is closed", limit=0, scope="test", kind="connections")


async def check_connection(
    dialer: Transport, listener: Transport, addr: Multiaddr, peers: tuple[PeerId, PeerId], stranger: PeerId
) -> None:
    """Everything that `Transport` promises; AssertionError when a promise is broken.

    The two transports belong to nodes of other identities: `peers`, the dialer's first. `stranger` is a third peer.
    """
    open_door = await listener.listen(addr)
    try:
        await _check_both_ends(dialer, open_door, peers)
        await _check_strangers(dialer, open_door, stranger)
        await _check_budgets(dialer, open_door, peers)
        await _check_refusal(dialer, open_door)
        await _check_cancelling(dialer, open_door)
    finally:
        await open_door.aclose()
    await raised(trio.ClosedResourceError, open_door.accept)
    await raised(DialError, lambda: _enter(dialer, open_door.addr))


async def _enter(dialer: Transport, addr: Multiaddr, peer: PeerId | None = None, budget: _Door | None = None) -> None:
    async with dialer.dial(addr, peer, budget=budget):
        raise AssertionError("there is a connection although there must not be one")


async def _check_both_ends(dialer: Transport, listener: Listener, peers: tuple[PeerId, PeerId]) -> None:
    """Who, where, streams both ways, and an end that the other side notices."""
    served = trio.Event()

    async def serve() -> None:
        inbound = await listener.accept()
        async with inbound.open() as connection:
            assert (connection.local_peer, connection.remote_peer) == peers[::-1], "wrong peers inbound"
            assert connection.role is Role.LISTENER, "wrong role inbound"
            assert connection.remote_addr == inbound.remote_addr, "the remote address changed"
            stream = await connection.accept_stream()
            await stream.send_all(await receive_rest(stream))
            await stream.aclose()
            back = await connection.open_stream()
            await back.send_all(b"back")
            await back.aclose()
            await raised(trio.EndOfChannel, connection.accept_stream)
        served.set()

    async def dial() -> None:
        async with dialer.dial(listener.addr, peers[1]) as connection:
            _check_facts(connection, listener, peers)
            stream = await connection.open_stream()
            await stream.send_all(b"echo this")
            await stream.send_eof()
            assert await receive_rest(stream) == b"echo this", "no echo"
            await stream.aclose()
            back = await connection.accept_stream()
            assert await receive_rest(back) == b"back", "nothing came back"
            await back.aclose()
            await connection.aclose()
            await connection.aclose()
            await raised(trio.EndOfChannel, connection.accept_stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await dial()
        await wait_all_tasks_blocked(SETTLE_SECONDS)


def _check_facts(connection: Connection, listener: Listener, peers: tuple[PeerId, PeerId]) -> None:
    assert (connection.local_peer, connection.remote_peer) == peers, "wrong peers outbound"
    assert connection.role is Role.DIALER, "wrong role outbound"
    assert connection.remote_addr == listener.addr, "wrong remote address"
    assert not connection.limited, "a direct connection is limited"
    assert connection.stats.bytes_in >= 0, "no counters"


async def _quietly(listener: Listener, budget: _Door | None = None) -> None:
    """Serves one connection until it ends; a failed handshake is a TalosError and no group."""
    inbound = await listener.accept()
    try:
        async with inbound.open(budget) as connection:
            await raised(trio.EndOfChannel, lambda: _close_streams(connection))
    except TalosError:
        pass


async def _close_streams(connection: Connection) -> None:
    while True:
        await (await connection.accept_stream()).aclose()


async def _against(server: Callable[[], Awaitable[object]], client: Callable[[], Awaitable[object]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        await client()


async def _check_strangers(dialer: Transport, listener: Listener, stranger: PeerId) -> None:
    """Another identity than the one dialled is never a connection."""

    async def dial() -> None:
        error = await raised(PeerIdMismatch, lambda: _enter(dialer, listener.addr, stranger))
        assert error.expected == stranger, "the error names another peer than the expected one"

    await _against(lambda: _quietly(listener), dial)


async def _check_budgets(dialer: Transport, listener: Listener, peers: tuple[PeerId, PeerId]) -> None:
    """Each side's budget is asked once, with the other's identity, and its refusal is the error."""
    ours, theirs = _Door(), _Door()

    async def visit() -> None:
        async with dialer.dial(listener.addr, None, budget=ours) as connection:
            await (await connection.open_stream()).aclose()

    await _against(lambda: _quietly(listener, theirs), visit)
    assert (ours.seen, theirs.seen) == ([peers[1]], [peers[0]]), "budgets were asked for others, or not once"

    async def refuse() -> None:
        await raised(LimitExceeded, lambda: _enter(dialer, listener.addr, None, _Door(open_=False)))

    await _against(lambda: _quietly(listener), refuse)


async def _check_refusal(dialer: Transport, listener: Listener) -> None:
    """Refused unread: the dialer gets one TalosError, and the next one is served."""

    async def refuse() -> None:
        (await listener.accept()).refuse()

    await _against(refuse, lambda: raised(TalosError, lambda: _enter(dialer, listener.addr)))


async def _check_cancelling(dialer: Transport, listener: Listener) -> None:
    """A dial cancelled in the handshake ends it for the other side too."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_blocked, scope)
            await _enter(dialer, listener.addr)
    assert scope.cancelled_caught, "a dial without an answer was not cancelled"
    await _quietly(listener)
