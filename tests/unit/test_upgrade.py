"""The upgrade against peers that stall, flood, leave or lie."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import ByteTransport, ConnectionStats, Role, SecureChannel
from talos.addr import parse
from talos.errors import (
    ConfigError,
    DialError,
    HandshakeError,
    LimitExceeded,
    NegotiationError,
    PeerIdMismatch,
    RefusedByGate,
    RemoteProtocolError,
    TalosError,
)
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.multistream.machine import message
from talos.transport.memory import Memory, MemoryConfig, MemoryNetwork
from talos.upgrade import Upgrade, UpgradeConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from multiaddr import Multiaddr

    from talos.abc import Budget, ByteListener, Inbound, MuxedStream, ProtocolId, Resource

HEADER = message("/multistream/1.0.0")
KEYS = [PrivateKey.from_seed(bytes([n]) * 32) for n in range(3)]
ALICE, BOB, CAROL = (PeerId.from_key(key.public_key) for key in KEYS)


class NameTag(SecureChannel):
    """A channel that is neither secret nor safe: each side says which of KEYS it has."""

    def __init__(self, stream: trio.abc.Stream, who: int, early_muxer: str | None) -> None:
        self.stream = stream
        self.remote_key = KEYS[who].public_key
        self.remote_peer = PeerId.from_key(self.remote_key)
        self.early_muxer = early_muxer

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


class NameTags:
    protocol_id = "/nametag"

    def __init__(self, own: int, early_muxer: str | None = None) -> None:
        self.own = own
        self.early_muxer = early_muxer

    async def secure(
        self, stream: trio.abc.Stream, role: Role, expected: PeerId | None, *, muxers: Sequence[ProtocolId] = ()
    ) -> SecureChannel:
        await stream.send_all(bytes([self.own]))
        said = await stream.receive_some(1)
        while said == b"\xff":  # a peer that has much to say before it gives its name
            said = await stream.receive_some(1)
        if not said:
            raise RemoteProtocolError("no name")
        return NameTag(stream, said[0], self.early_muxer)


class Muxed:
    """A muxed connection without streams: it shows what the upgrade hands down."""

    def __init__(self, channel: trio.abc.Stream, role: Role) -> None:
        self.channel, self.role, self.codes = channel, role, list[int]()
        self.stats = ConnectionStats()

    async def open_stream(self) -> MuxedStream:
        raise LimitExceeded("no streams here")

    async def accept_stream(self) -> MuxedStream:
        raise trio.EndOfChannel

    async def aclose(self, code: int = 0) -> None:
        self.codes.append(code)


class Mux:
    protocol_id = "/mux"

    def __init__(self) -> None:
        self.opened: list[Muxed] = []
        self.hang = False

    @asynccontextmanager
    async def open(self, channel: trio.abc.Stream, role: Role, *, budget: Budget | None = None) -> AsyncIterator[Muxed]:
        if self.hang:
            await trio.sleep_forever()
        self.opened.append(Muxed(channel, role))
        yield self.opened[-1]


class Doorman:
    """A budget that lets nobody in."""

    def reserve(self, kind: Resource, amount: int = 1) -> None:
        raise AssertionError("nothing to reserve here")

    def release(self, kind: Resource, amount: int = 1) -> None:
        raise AssertionError("nothing to release here")

    def authenticated(self, peer: PeerId) -> None:
        raise RefusedByGate(f"{peer} is not welcome")


class World:
    def __init__(self, **limits: Any) -> None:
        self.network = MemoryNetwork(MemoryConfig(buffer_bytes=1 << 20))
        self.mux = Mux()
        self.config = UpgradeConfig(**limits)

    def upgrade(self, own: int = 0, early_muxer: str | None = None, transport: ByteTransport | None = None) -> Upgrade:
        return Upgrade(
            transport or Memory(self.network),
            security=[NameTags(own, early_muxer)],
            muxers=[self.mux],
            local_peer=PeerId.from_key(KEYS[own].public_key),
            config=self.config,
        )

    async def inbound(self) -> tuple[trio.abc.Stream, Inbound]:
        """A raw stream to an upgrade that has accepted it."""
        listener = await self.upgrade().listen(parse("/memory/0"))
        stream = await Memory(self.network).dial(listener.addr)
        return stream, await listener.accept()


async def enter(inbound: Inbound, budget: Budget | None = None) -> None:
    async with inbound.open(budget):
        pass


async def rest_of(stream: trio.abc.Stream) -> bytes:
    received = b""
    while chunk := await stream.receive_some():
        received += chunk
    return received


async def dial_error(
    world: World, peer: Callable[[trio.abc.Stream], Awaitable[object]], who: PeerId | None = None
) -> TalosError:
    """What dialling raises when the listener behaves as `peer` does and then says no more."""
    listener = await Memory(world.network).listen(parse("/memory/0"))

    async def serve() -> None:
        stream, _ = await listener.accept()
        await peer(stream)
        await stream.send_eof()
        await rest_of(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            async with world.upgrade().dial(listener.addr, who):
                raise AssertionError("connected")
        except TalosError as error:
            nursery.cancel_scope.cancel()
            return error


async def silence(_stream: trio.abc.Stream) -> None:
    await trio.sleep_forever()


async def test_facts_of_a_connection() -> None:
    world = World()
    listener = await world.upgrade(1).listen(parse("/memory/0"))

    async def serve() -> None:
        async with (await listener.accept()).open() as connection:
            assert (connection.local_peer, connection.remote_peer) == (BOB, ALICE)
            assert connection.local_addr == listener.addr

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        async with world.upgrade(0).dial(listener.addr, BOB) as connection:
            assert connection.remote_key == KEYS[1].public_key
            assert connection.remote_addr == listener.addr
            assert not connection.limited
            assert connection.stats.bytes_in == 0
            assert str(BOB) in repr(connection)
            with pytest.raises(LimitExceeded):
                await connection.open_stream()
            with pytest.raises(trio.EndOfChannel):
                await connection.accept_stream()
            await connection.aclose(7)
    assert [7] in [muxed.codes for muxed in world.mux.opened]


async def test_early_bytes_are_not_lost() -> None:
    world = World()
    stream, inbound = await world.inbound()
    await stream.send_all(HEADER + message("/nametag") + b"\x01" + HEADER + message("/mux") + b"first data")
    async with inbound.open() as connection:
        assert connection.remote_peer == BOB
        assert await world.mux.opened[0].channel.receive_some() == b"first data"
    assert await rest_of(stream) == HEADER + message("/nametag") + b"\x00" + HEADER + message("/mux")


async def test_silence_and_dripping_end_at_the_same_moment(autojump_clock: trio.testing.MockClock) -> None:
    for drip in (b"", HEADER + message("/nametag") + b"\xff" * 1000):
        world = World()
        stream, inbound = await world.inbound()
        started = trio.current_time()

        async def send_slowly(stream: trio.abc.Stream = stream, drip: bytes = drip) -> None:
            try:
                for byte in drip:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.25)
            except trio.BrokenResourceError:
                pass  # closed on us, as it should be

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_slowly)
            with pytest.raises(HandshakeError) as caught:
                await enter(inbound)
            assert trio.current_time() - started == pytest.approx(10)
            assert isinstance(caught.value.__cause__, trio.TooSlowError)
            await rest_of(stream)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("hang", ["negotiation", "muxer"])
async def test_the_whole_upgrade_has_a_deadline(hang: str, autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    stream, inbound = await world.inbound()
    await stream.send_all(HEADER + message("/nametag") + b"\x01")
    if hang == "muxer":
        world.mux.hang = True
        await stream.send_all(HEADER + message("/mux"))
    with pytest.raises(HandshakeError):
        await enter(inbound)
    assert trio.current_time() == pytest.approx(15)


async def test_an_established_connection_has_no_deadline(autojump_clock: trio.testing.MockClock) -> None:
    world = World()
    stream, inbound = await world.inbound()
    await stream.send_all(HEADER + message("/nametag") + b"\x01" + HEADER + message("/mux"))
    async with inbound.open():
        await trio.sleep(3600)


async def test_a_dialer_waits_for_the_whole_deadline(autojump_clock: trio.testing.MockClock) -> None:
    error = await dial_error(World(), silence)
    assert type(error) is HandshakeError
    assert isinstance(error.__cause__, trio.TooSlowError)
    assert trio.current_time() == pytest.approx(15)


async def test_connecting_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    world = World(connect_seconds=2)
    listener = await Memory(world.network, "island").listen(parse("/memory/0"))
    world.network.partition({"island"})
    with pytest.raises(DialError, match="within 2 s"):
        async with world.upgrade().dial(listener.addr, None):
            pass
    assert trio.current_time() == pytest.approx(2)


async def test_bytes_before_authentication_are_counted() -> None:
    world = World()
    stream, inbound = await world.inbound()
    flood = HEADER + message("/nametag") + b"\xff" * 65_536
    await stream.send_all(flood)
    with pytest.raises(LimitExceeded) as caught:
        await enter(inbound)
    assert (caught.value.kind, caught.value.limit) == ("preauth_bytes", 65_536)
    await rest_of(stream)


async def test_bytes_after_authentication_are_not() -> None:
    world = World(preauth_bytes=256)
    stream, inbound = await world.inbound()
    await stream.send_all(HEADER + message("/nametag") + b"\xff" * 50 + b"\x01")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, HEADER + message("/mux") + b"x" * 10_000)
        async with inbound.open():
            received = 0
            while received < 10_000:
                received += len(await world.mux.opened[0].channel.receive_some())


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (b"", HandshakeError),
        (HEADER, HandshakeError),
        (HEADER + message("/nametag"), HandshakeError),
        (HEADER + message("/nametag") + b"\x01", HandshakeError),
        (b"SSH-2.0-OpenSSH_9.9\r\n", NegotiationError),
        (HEADER + message("na"), NegotiationError),
        (HEADER + message("/nametag") + b"\x01" + HEADER + message("na"), NegotiationError),
    ],
)
async def test_what_a_dialer_says_of_a_peer_that_leaves_or_lies(said: bytes, kind: type[Exception]) -> None:
    error = await dial_error(World(), lambda stream: stream.send_all(said))
    assert type(error) is kind


async def test_another_peer_than_the_one_dialled() -> None:
    said = HEADER + message("/nametag") + b"\x01"
    error = await dial_error(World(), lambda stream: stream.send_all(said), CAROL)
    assert isinstance(error, PeerIdMismatch)
    assert (error.expected, error.actual) == (CAROL, BOB)


async def test_the_budget_refuses_before_the_muxer() -> None:
    world = World()
    stream, inbound = await world.inbound()
    await stream.send_all(HEADER + message("/nametag") + b"\x01" + HEADER + message("/mux"))
    with pytest.raises(RefusedByGate, match=str(BOB)):
        await enter(inbound, Doorman())
    assert world.mux.opened == []
    assert await rest_of(stream) == HEADER + message("/nametag") + b"\x00"


@pytest.mark.parametrize(("early", "kind"), [("/mux", None), ("/other", HandshakeError)])
async def test_early_muxers(early: str, kind: type[Exception] | None) -> None:
    world = World()
    listener = await world.upgrade(1, early).listen(parse("/memory/0"))
    stream = await Memory(world.network).dial(listener.addr)
    await stream.send_all(HEADER + message("/nametag") + b"\x00at once")
    inbound = await listener.accept()
    if kind is None:
        async with inbound.open():
            assert await world.mux.opened[0].channel.receive_some() == b"at once"
    else:
        with pytest.raises(kind, match="none of ours"):
            await enter(inbound)


async def test_cancelling_closes_the_stream() -> None:
    stream, inbound = await World().inbound()
    with trio.CancelScope() as scope:
        scope.cancel()
        await enter(inbound)
    assert await rest_of(stream) == b""


class Plain(ByteTransport):
    """Memory streams that only know what every stream knows."""

    def __init__(self, network: MemoryNetwork) -> None:
        self.memory = Memory(network)
        self.accepted: list[trio.abc.Stream] = []

    def matches(self, addr: Multiaddr) -> bool:
        return self.memory.matches(addr)

    async def dial(self, addr: Multiaddr) -> trio.abc.Stream:
        return NameTag(await self.memory.dial(addr), 0, None)

    async def punch(self, addr: Multiaddr) -> trio.abc.Stream:
        return await self.dial(addr)

    async def listen(self, addr: Multiaddr) -> ByteListener:
        listener = await self.memory.listen(addr)
        accept = listener.accept

        async def accept_plain() -> tuple[trio.abc.Stream, Multiaddr]:
            stream, remote = await accept()
            return NameTag(stream, 0, None), remote

        listener.accept = accept_plain  # type: ignore[method-assign, assignment]
        return listener


async def test_refused_streams_of_any_kind_are_closed() -> None:
    world = World()
    stream, inbound = await world.inbound()
    inbound.refuse()
    assert await rest_of(stream) == b""

    listener = await world.upgrade(transport=Plain(world.network)).listen(parse("/memory/0"))
    streams = [await Memory(world.network).dial(listener.addr) for _ in range(2)]
    (await listener.accept()).refuse()
    (await listener.accept()).refuse()
    assert await rest_of(streams[0]) == b""
    await listener.aclose()
    assert await rest_of(streams[1]) == b""


async def test_punching_chooses_the_role() -> None:
    world = World()
    plain = Plain(world.network)
    raw = await Memory(world.network).listen(parse("/memory/0"))

    async def dialer_above_the_bytes() -> None:
        stream, _ = await raw.accept()
        await stream.send_all(HEADER + message("/nametag") + b"\x02" + HEADER + message("/mux"))
        await rest_of(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dialer_above_the_bytes)
        async with world.upgrade(transport=plain).dial(raw.addr, CAROL, punch=Role.LISTENER) as connection:
            assert connection.role is Role.LISTENER
            assert connection.remote_peer == CAROL
            assert not connection.local_addr.to_bytes()
            assert world.mux.opened[0].role is Role.LISTENER


@pytest.mark.parametrize(
    "limits", [{"connect_seconds": 0}, {"preauth_bytes": 0}, {"total_seconds": -1}, {"authenticate_seconds": 20}]
)
def test_limits_that_make_no_sense(limits: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        UpgradeConfig(**limits)  # type: ignore[arg-type]


def test_an_upgrade_needs_both() -> None:
    for security, muxers in (([], [Mux()]), ([NameTags(0)], [])):
        with pytest.raises(ConfigError):
            Upgrade(Memory(), security=security, muxers=muxers, local_peer=ALICE)
