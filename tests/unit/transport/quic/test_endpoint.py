"""A socket and what comes to it: hostile datagrams, floods, Retry, late packets, holes."""

from __future__ import annotations

import secrets
import socket
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from talos.abc import Connection, Role, StreamReset
from talos.addr import parse
from talos.errors import ConfigError, DialError, HandshakeError, ListenError, NotSupported, PeerIdMismatch, TalosError
from talos.testing.check_stream import raised, receive_exactly, receive_rest
from talos.transport.quic import Quic, QuicConfig
from talos.transport.quic.endpoint import Endpoint, Newcomer
from talos.transport.quic.machine import QuicMachine
from talos.transport.quic.packet import read_header
from talos.transport.quic.udp import Received
from tests.unit.transport.quic.pair import CREDENTIALS, KEYS, PEERS, Pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.identity.peer_id import PeerId

ANYWHERE = parse("/ip4/127.0.0.1/udp/0/quic-v1")
CONFIG = QuicConfig()
SECONDS = 30.0


async def echo(connection: Connection) -> None:
    try:
        while True:
            stream = await connection.accept_stream()
            with suppress(StreamReset):
                await stream.send_all(await receive_rest(stream))
            await stream.aclose()
    except trio.EndOfChannel:
        pass


@asynccontextmanager
async def serving(config: QuicConfig = CONFIG) -> AsyncIterator[tuple[Quic, Any]]:
    """A transport that echoes to whoever comes."""
    transport = Quic(KEYS[1], config)
    listener = await transport.listen(ANYWHERE)

    async def serve(inbound: Any) -> None:
        try:
            async with inbound.open() as connection:
                await echo(connection)
        except TalosError:
            pass

    async def accept() -> None:
        while True:
            nursery.start_soon(serve, await listener.accept())

    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            yield transport, listener
            nursery.cancel_scope.cancel()
    await listener.aclose()


async def visit(listener: Any, transport: Quic | None = None) -> None:
    """An honest dialer is served."""
    async with (transport or Quic(KEYS[0])).dial(listener.addr, PEERS[1]) as connection:
        stream = await connection.open_stream()
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await receive_rest(stream) == b"hello"
        await stream.aclose()


class NoSocket:
    address = ("127.0.0.1", 1)


async def test_a_hello_of_several_datagrams_that_come_as_one() -> None:
    ((hello, _),) = Pair().dialer.datagrams_to_send(0, 9)
    endpoint = Endpoint(NoSocket(), CONFIG)  # type: ignore[arg-type]
    came: list[Newcomer] = []
    endpoint.door = lambda newcomer: not came.append(newcomer)  # type: ignore[func-returns-value]
    endpoint._dispatch(Received(hello * 3, len(hello), ("127.0.0.1", 2)))
    (newcomer,) = came
    assert newcomer.datagrams == [(hello, len(hello)), (hello * 2, len(hello))]


class Wire:
    """A UDP socket of an attacker, who also reads what comes back."""

    def __init__(self, listener: Any) -> None:
        self.target = ("127.0.0.1", int(str(listener.addr).split("/")[4]))
        self.reader = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket = trio.socket.from_stdlib_socket(self.reader)
        self.sent = self.received = 0

    async def __aenter__(self) -> Wire:
        await self.socket.bind(("127.0.0.1", 0))
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.socket.close()

    async def send(self, data: bytes) -> None:
        self.sent += len(data)
        await self.socket.sendto(data, self.target)

    async def drain(self) -> list[bytes]:
        """What has come back by now."""
        found = []
        while True:
            try:
                found.append(self.reader.recv(65_536))
            except BlockingIOError:
                break
        self.received += sum(map(len, found))
        return found

    async def answer(self) -> bytes:
        return await self.socket.recv(65_536)


def first_flight(listener: Any) -> bytes:
    """The Initial of a dialer who then says nothing more."""
    machine = QuicMachine(
        CONFIG,
        CREDENTIALS[0],
        dialer=True,
        remote=("127.0.0.1", 1),
        source=secrets.token_bytes(8),
        destination=secrets.token_bytes(8),
        now=0.0,
        wall_clock=datetime.now(UTC),
    )
    ((data, _to),) = machine.datagrams_to_send(0.0, 9)
    return data


async def settled(transport: Quic) -> None:
    """Until the endpoint has read everything that was sent to it."""
    (endpoint,) = [each for each in transport._endpoints if not each.closed]
    before = -1
    while endpoint.udp.receives != before:
        before = endpoint.udp.receives
        await trio.testing.wait_all_tasks_blocked(0.02)


HOSTILE = {
    "a byte": b"\x00",
    "a long byte": b"\xff",
    "a short packet of nobody": b"\x40" + bytes(100),
    "a cut header": bytes.fromhex("c00000000108"),
    "an id of 255 bytes": bytes.fromhex("c000000001ff") + bytes(1300),
    "an id of 7 bytes": bytes.fromhex("c00000000107") + bytes(1300),
    "zeros": bytes(1400),
    "version negotiation to us": bytes.fromhex("c00000000008") + bytes(1300),
    "a Retry to us": bytes.fromhex("f00000000108") + bytes(1300),
    "a small Initial": bytes.fromhex("c00000000108") + bytes(600),
    "an Initial that does not open": bytes.fromhex("c00000000108")
    + b"12345678"
    + bytes.fromhex("0000449e")
    + bytes(1300),
    "the largest datagram": secrets.token_bytes(65_000),
    "a handshake packet of nobody": bytes.fromhex("e00000000108") + bytes(1300),
}


async def test_hostile_datagrams_are_dropped_and_the_honest_are_served() -> None:
    async with serving() as (transport, listener), Wire(listener) as wire:
        for data in HOSTILE.values():
            await wire.send(data)
        for _ in range(200):
            await wire.send(secrets.token_bytes(1 + secrets.randbelow(1400)))
        await settled(transport)
        await wire.drain()
        assert wire.received <= 3 * wire.sent
        await visit(listener)


async def test_an_unknown_version_is_answered_with_ours_and_no_more_than_was_sent() -> None:
    async with serving() as (_transport, listener), Wire(listener) as wire:
        await wire.send(bytes.fromhex("c0babababa08") + b"12345678" + b"\x04abcd" + bytes(1200))
        answer = await wire.answer()
        assert answer[1:5] == bytes(4)
        assert answer.endswith(bytes.fromhex("00000001"))
        assert len(answer) < 64


async def test_half_a_handshake_gets_at_most_three_times_what_it_sent() -> None:
    async with serving() as (transport, listener), Wire(listener) as wire:
        await wire.send(first_flight(listener))
        await wire.answer()
        await settled(transport)
        await wire.drain()
        await trio.sleep(0.3)  # for probes that repeat the answer
        await wire.drain()
        assert 0 < wire.received <= 3 * wire.sent
        await visit(listener)


async def test_a_flood_of_initials_meets_retry_and_the_honest_come_through() -> None:
    config = replace(CONFIG, retry_above=4, half_open_per_ip=64)
    async with serving(config) as (transport, listener), Wire(listener) as wire:
        for _ in range(100):
            await wire.send(first_flight(listener))
            await trio.lowlevel.checkpoint()
        await settled(transport)
        kinds = [header.kind for data in await wire.drain() if (header := read_header(data)) is not None]
        assert kinds.count(3) >= 90
        (endpoint,) = transport._endpoints
        assert endpoint.half_open <= 5
        await visit(listener)


async def test_handshakes_of_one_address_are_bounded() -> None:
    config = replace(CONFIG, retry_above=1000, half_open_per_ip=8, accept_seconds=0.5)
    async with serving(config) as (transport, listener), Wire(listener) as wire:
        for _ in range(50):
            await wire.send(first_flight(listener))
        await settled(transport)
        (endpoint,) = transport._endpoints
        assert endpoint.half_open == 8
        while endpoint.half_open:  # they are given up, and then there is room again
            await trio.lowlevel.checkpoint()
        await visit(listener)


async def test_nobody_accepts_and_the_queue_is_bounded() -> None:
    config = replace(CONFIG, backlog=3, retry_above=1000)
    transport = Quic(KEYS[1], config)
    listener = await transport.listen(ANYWHERE)
    with trio.fail_after(SECONDS):
        async with Wire(listener) as wire:
            for _ in range(10):
                await wire.send(first_flight(listener))
            (endpoint,) = transport._endpoints
            async with trio.open_nursery() as nursery:
                nursery.start_soon(endpoint.pump)
                await settled(transport)
                assert endpoint.half_open == 3
                nursery.cancel_scope.cancel()
            await listener.aclose()
            assert endpoint.half_open == 0
            assert endpoint.closed


async def test_datagrams_of_a_connection_that_is_not_opened_are_bounded() -> None:
    async with serving() as (transport, listener):
        (endpoint,) = transport._endpoints
        waiting = []
        endpoint.door = lambda newcomer: not waiting.append(newcomer)  # type: ignore[func-returns-value]
        async with Wire(listener) as wire:
            data = first_flight(listener)
            for _ in range(50):
                await wire.send(data)
            await settled(transport)
        (newcomer,) = waiting
        assert len(newcomer.datagrams) == CONFIG.pending_datagrams
        endpoint.done_with(newcomer)
        endpoint.done_with(newcomer)
        assert endpoint.half_open == 0


async def test_dialling_where_nobody_listens_is_told_at_once() -> None:
    with trio.fail_after(SECONDS):
        error = await raised(DialError, lambda: enter(Quic(KEYS[0]), parse("/ip4/127.0.0.1/udp/1/quic-v1")))
    assert "refused" in str(error)


async def test_dialling_where_nobody_answers_takes_no_longer_than_its_deadline() -> None:
    silent = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    await silent.bind(("127.0.0.1", 0))
    addr = parse(f"/ip4/127.0.0.1/udp/{silent.getsockname()[1]}/quic-v1")
    with trio.fail_after(SECONDS):
        error = await raised(DialError, lambda: enter(Quic(KEYS[0], replace(CONFIG, connect_seconds=0.2)), addr))
    assert "no answer within 0.2 s" in str(error)
    silent.close()


async def enter(transport: Quic, addr: Any, peer: PeerId | None = None, punch: Role | None = None) -> None:
    async with transport.dial(addr, peer, punch=punch):
        raise AssertionError("there is a connection although there must not be one")


async def test_an_address_that_is_taken() -> None:
    async with serving() as (_transport, listener):
        error = await raised(ListenError, lambda: Quic(KEYS[0]).listen(listener.addr))
        assert str(listener.addr) in str(error)


async def test_names_are_resolved() -> None:
    async with serving() as (_transport, listener):
        port = str(listener.addr).split("/")[4]
        async with Quic(KEYS[0]).dial(parse(f"/dns4/localhost/udp/{port}/quic-v1"), PEERS[1]) as connection:
            assert connection.remote_peer == PEERS[1]


async def test_dials_go_out_from_the_port_that_is_listened_on() -> None:
    async with serving() as (_transport, listener):
        ours = Quic(KEYS[0])
        mine = await ours.listen(ANYWHERE)
        async with ours.dial(listener.addr, PEERS[1]) as connection:
            assert connection.local_addr == mine.addr
        await mine.aclose()
        assert not [endpoint for endpoint in ours._endpoints if not endpoint.closed]


async def test_one_socket_carries_dials_to_several_peers() -> None:
    async with serving() as (_one, first), serving() as (_other, second):
        ours = Quic(KEYS[0])
        async with ours.dial(first.addr, None), ours.dial(second.addr, None):
            assert len(ours._endpoints) == 1
        assert ours._endpoints[0].closed


async def test_a_listener_that_is_closed_leaves_its_connections_and_can_come_back() -> None:
    listening = Quic(KEYS[1])
    listener = await listening.listen(ANYWHERE)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                async with (await listener.accept()).open() as connection:
                    await echo(connection)

            nursery.start_soon(serve)
            async with Quic(KEYS[0]).dial(listener.addr, PEERS[1]) as connection:
                await (await connection.open_stream()).aclose()
                await listener.aclose()
                again = await listening.listen(listener.addr)
                assert again.addr == listener.addr
                stream = await connection.open_stream()
                await stream.send_all(b"still")
                await stream.send_eof()
                assert await receive_exactly(stream, 5) == b"still"
            await again.aclose()


async def test_late_packets_of_a_closed_connection_are_answered_with_its_end() -> None:
    """The dialer does not hear the first farewell; its next packet brings another."""
    async with serving() as (transport, listener):
        (endpoint,) = transport._endpoints
        lost: list[Any] = []
        async with Quic(KEYS[0]).dial(listener.addr, PEERS[1]) as connection:
            stream = await connection.open_stream()
            await stream.send_all(b"x")
            send, endpoint.udp.send = endpoint.udp.send, lose_into(lost)  # type: ignore[method-assign]
            (served,) = {id(one): one for one in endpoint._routes.values()}.values()
            await served.aclose(0x1006)  # type: ignore[attr-defined]
            while not endpoint._lingering:
                await trio.lowlevel.checkpoint()
            endpoint.udp.send = send  # type: ignore[method-assign]
            with trio.CancelScope(shield=True):
                await raised(StreamReset, lambda: send_for_ever(stream))
        assert lost


async def send_for_ever(stream: trio.abc.SendStream) -> None:
    while True:
        await stream.send_all(b"y")
        await trio.sleep(0.01)


def lose_into(lost: list[Any]) -> Any:
    async def lose(datagrams: Any) -> None:
        await trio.lowlevel.checkpoint()
        lost.extend(datagrams)

    return lose


class TestPunching:
    async def test_both_sides_meet_as_dialer_and_listener(self) -> None:
        a, b = Quic(KEYS[0]), Quic(KEYS[1])
        at_a, at_b = await a.listen(ANYWHERE), await b.listen(ANYWHERE)
        met: dict[str, Role] = {}
        done = trio.Event()

        async def dial() -> None:
            async with a.dial(at_b.addr, PEERS[1], punch=Role.DIALER) as connection:
                met["a"] = connection.role
                assert connection.local_addr == at_a.addr
                stream = await connection.open_stream()
                await stream.send_all(b"through")
                await done.wait()

        async def listen() -> None:
            async with b.dial(at_a.addr, PEERS[0], punch=Role.LISTENER) as connection:
                met["b"] = connection.role
                assert await receive_exactly(await connection.accept_stream(), 7) == b"through"
                done.set()

        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                await trio.testing.wait_all_tasks_blocked(0.02)
                nursery.start_soon(dial)
        assert met == {"a": Role.DIALER, "b": Role.LISTENER}
        await at_a.aclose()
        await at_b.aclose()

    async def test_another_peer_comes_through_the_hole(self) -> None:
        a, b = Quic(KEYS[0]), Quic(KEYS[1])
        at_a, at_b = await a.listen(ANYWHERE), await b.listen(ANYWHERE)

        async def punch() -> None:
            await raised(PeerIdMismatch, lambda: enter(b, at_a.addr, PEERS[2], Role.LISTENER))

        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(punch)
                await trio.testing.wait_all_tasks_blocked(0.02)
                with suppress(TalosError):  # it may hear the end before the handshake is confirmed
                    async with a.dial(at_b.addr, None, punch=Role.DIALER):
                        await trio.sleep_forever()
        await at_a.aclose()
        await at_b.aclose()

    @pytest.mark.parametrize("role", Role)
    async def test_without_a_listener_there_is_no_port_to_punch_from(self, role: Role) -> None:
        error = await raised(DialError, lambda: enter(Quic(KEYS[0]), ANYWHERE, None, role))
        assert "no port is listened on" in str(error)

    async def test_nothing_comes_through(self) -> None:
        ours = Quic(KEYS[0], replace(CONFIG, punch_seconds=0.1))
        mine = await ours.listen(ANYWHERE)
        nobody = parse("/ip4/127.0.0.1/udp/9/quic-v1")
        with trio.fail_after(SECONDS):
            error = await raised(DialError, lambda: enter(ours, nobody, None, Role.LISTENER))
        assert "nothing came through" in str(error)
        await mine.aclose()


async def test_a_dialer_that_shows_no_certificate_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    dialer = Quic(KEYS[0])
    dialer._credentials = None  # type: ignore[assignment]
    async with serving() as (_transport, listener):
        error = await raised(HandshakeError, lambda: enter(dialer, listener.addr))
        assert "TLS alert 116" in str(error)
        await visit(listener)


@pytest.mark.parametrize(
    "wrong",
    [
        {"backlog": 0},
        {"idle_seconds": float("inf")},
        {"retry_above": -1},
        {"max_handshake_bytes": 1000},
        {"stream_window": 1000},
        {"connection_window": 1 << 20},
        {"max_inbound_streams": 1 << 61},
    ],
)
def test_config_that_makes_no_sense(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        replace(CONFIG, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("missing", ["aioquic", "qh3"])
def test_without_the_extra_it_says_so(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.split(".")[0] == missing or name.startswith("talos.transport.quic.")
    ]:
        if not name.endswith((".config", ".transport")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    for name in ("connection", "handshake", "machine", "proof"):
        monkeypatch.delattr(f"talos.transport.quic.{name}", raising=False)
    with pytest.raises(NotSupported, match="talos\\[quic\\]"):
        Quic(KEYS[0])
