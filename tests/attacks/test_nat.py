"""NT01 to NT06: relays, those who use them, and AutoNAT, when somebody does not mean well."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from interop import natlab
from interop.adapters import talos_adapter
from interop.nat_cells import cells
from interop.network_cells import Run
from talos.addr import parse
from talos.autonat import AutonatServerConfig
from talos.autonat.client import Answer, DialBacks, probe
from talos.errors import DialError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.ping import ping
from talos.relay import RelayLimits, Status, open_circuit, open_relay
from talos.relay.machine import RelayMachine
from talos.relay.pipe import Pipe
from tests.unit.autonat.test_service import elsewhere, served
from tests.unit.relay.test_circuit import ECHO, echo, through, world

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.abc import Stream
    from talos.host.config import NodeConfig

    MakeConfig = Callable[..., NodeConfig]


def peer() -> PeerId:
    return PeerId.from_key(PrivateKey.generate().public_key)


def test_nt01_reservations_beyond_what_a_relay_gives() -> None:
    relay = RelayMachine(RelayLimits())
    for number in range(128):
        ip = ip_address(f"5.{number % 8}.{number // 8}.1")
        assert relay.reserve(peer(), ip, limited=False, now=0.0) is Status.OK
    assert relay.reserve(peer(), ip_address("9.9.9.9"), limited=False, now=0.0) is Status.RESERVATION_REFUSED

    one_address = RelayMachine(RelayLimits())
    refused = [one_address.reserve(peer(), ip_address("5.5.5.5"), limited=False, now=0.0) for _ in range(9)][-1]
    assert refused is Status.RESERVATION_REFUSED

    one_peer, same = RelayMachine(RelayLimits()), peer()
    for _ in range(2):
        assert one_peer.reserve(same, ip_address("5.5.5.5"), limited=False, now=0.0) is Status.OK
    assert one_peer.reservations == 1


async def test_nt02_a_circuit_beyond_its_bytes_and_its_time(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(open_nodes, memory_config) as w:
        w.callee.handle(ECHO, limited=True)(echo)
        connection = await w.caller.connect(w.callee.peer_id, [w.addr])
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            async with await w.caller.open_stream(connection, ECHO, limited_ok=True) as stream:
                while True:
                    await stream.send_all(bytes(8192))
                    await stream.receive_some()
        assert w.server.bytes_relayed <= 2 * 131_072
        await trio.testing.wait_all_tasks_blocked()
        assert w.server.circuits == 0
        later = await w.caller.connect(w.callee.peer_id, [w.addr])
        await trio.sleep(121)
        assert later not in w.caller.connections


async def test_nt03_circuits_to_nobody_to_oneself_and_nested(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with world(open_nodes, memory_config) as w, open_relay(w.callee):
        way = through(w.relay)
        for target, status in ((w.relay.peer_id, "through itself"), (peer(), "NO_RESERVATION")):
            with pytest.raises(DialError) as failed:
                await w.caller.connect(target, [way])
            assert status in str(failed.value)
        with pytest.raises(DialError, match="exactly one relay"):
            await w.caller.connect(peer(), [w.addr.encapsulate(Multiaddr("/p2p-circuit"))])


async def test_nt04_autonat_pointed_at_a_victim(open_nodes: Any) -> None:
    few = AutonatServerConfig(allow_private=True, longest_wait_seconds=0.0, requests_with_data=2)
    async with served(open_nodes, few) as (server, served_by, asker):
        backs = DialBacks()
        connection = await asker.connect(served_by.peer_id, served_by.addrs)
        before = connection.stats.bytes_out
        answers = [await probe(asker, connection, elsewhere(asker), backs) for _ in range(3)]
        assert answers == [Answer.NOT_REACHED, Answer.NOT_REACHED, Answer.NOTHING]
        assert server.dialled == 2
        assert connection.stats.bytes_out - before >= 2 * 30_000
    async with served(open_nodes, AutonatServerConfig()) as (server, served_by, asker):
        connection = await asker.connect(served_by.peer_id, served_by.addrs)
        assert await probe(asker, connection, parse("/ip4/127.0.0.2/tcp/1"), DialBacks()) is Answer.NOTHING
        assert server.dialled == 0


@pytest.mark.long
async def test_nt05_holes_through_two_nats_and_a_symmetric_pair() -> None:
    reason = natlab.absent()
    if reason is not None:
        pytest.skip(reason)
    ours = [cell for cell in cells() if cell.name.count("talos") == 3]
    assert [(cell.kind, cell.stack) for cell in ours] == [
        ("symmetric", "tcp/noise/yamux"),
        ("punch", "tcp/noise/yamux"),
        ("punch", "quic-v1"),
    ]
    for cell in ours:
        run = Run({"talos": talos_adapter()}, {})
        await cell.run(run)
        assert run.results


class _Tampering:
    """Changes a bit of what a stream gives, once the handshakes are over."""

    def __init__(self, stream: Stream, after: int) -> None:
        self._stream = stream
        self._left = after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytearray(await self._stream.receive_some(max_bytes))
        if 0 <= self._left < len(data):
            data[self._left] ^= 1
        self._left -= len(data)
        return bytes(data)


@pytest.mark.parametrize("after", [200, 1500, 20_000])
async def test_nt06_a_relay_that_alters_what_passes(
    memory_config: MakeConfig, open_nodes: Any, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    honest = Pipe._copy

    async def altering(self: Pipe, source: Any, *rest: Any) -> None:
        await honest(self, _Tampering(source, after), *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Pipe, "_copy", altering)
    async with world(open_nodes, memory_config) as w, open_circuit(w.relay):
        got = bytearray()
        w.callee.handle(ECHO, limited=True)(echo)
        with pytest.raises((DialError, trio.BrokenResourceError)):  # noqa: PT012
            connection = await w.caller.connect(w.callee.peer_id, [w.addr])
            async with await w.caller.open_stream(connection, ECHO, limited_ok=True) as stream:
                while len(got) < 60_000:
                    await stream.send_all(bytes(1000))
                    got += await stream.receive_some()
        assert not any(got), "what was changed was taken for what was sent"
        assert await ping(w.caller, w.relay.peer_id) > 0
