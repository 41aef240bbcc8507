"""Relays, callers and called that do what they should not."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from talos.errors import DialError, ListenError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.relay import HOP, STOP, CircuitConfig, RelayLimits, RelayLost, Status, open_circuit, open_relay
from talos.relay.circuit import Circuit
from talos.relay.wire import (
    HopMessage,
    HopType,
    Reservation,
    StopMessage,
    StopType,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
)
from talos.wire.length_prefix import frame
from talos.wire.message_stream import MessageStream
from tests.unit.relay.test_circuit import through, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from talos.abc import Stream
    from talos.host.config import NodeConfig
    from talos.host.node import Node

    MakeConfig = Callable[..., NodeConfig]

NOBODY = PeerId.from_key(PrivateKey.generate().public_key)


async def hop(node: Node, relay: Node, message: HopMessage | bytes, *, limited_ok: bool = False) -> HopMessage:
    """What the relay answers."""
    to = next(one for one in node.connections if one.remote_peer == relay.peer_id)
    async with await node.open_stream(to, HOP, limited_ok=limited_ok) as stream:
        data = message if isinstance(message, bytes) else encode_hop(message)
        await stream.send_all(frame(data))
        line = MessageStream[HopMessage, HopMessage](stream, decode=decode_hop, encode=encode_hop, max_size=4096)
        return await line.receive()


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\xff", Status.MALFORMED_MESSAGE),
        (HopMessage(type=HopType.CONNECT), Status.MALFORMED_MESSAGE),
        (HopMessage(type=HopType.STATUS, status=100), Status.UNEXPECTED_MESSAGE),
        (HopMessage(type=HopType.CONNECT, peer=NOBODY), Status.NO_RESERVATION),
    ],
)
async def test_a_relay_answers_nonsense(
    memory_config: MakeConfig, open_nodes: Any, request_: HopMessage | bytes, status: Status
) -> None:
    async with open_nodes(memory_config(), memory_config()) as (relay, node), open_relay(relay):
        await node.connect(relay.peer_id, relay.addrs)
        assert (await hop(node, relay, request_)).status == status


async def test_a_relay_refuses_itself_and_the_caller_as_targets(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (relay, node), open_relay(relay):
        await node.connect(relay.peer_id, relay.addrs)
        for target in (relay.peer_id, node.peer_id):
            answer = await hop(node, relay, HopMessage(type=HopType.CONNECT, peer=target))
            assert answer.status == Status.PERMISSION_DENIED


async def test_nothing_is_relayed_twice(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with world(open_nodes, memory_config) as w, open_relay(w.callee):
        await w.caller.connect(w.callee.peer_id, [w.addr])
        for asked in (HopMessage(type=HopType.RESERVE), HopMessage(type=HopType.CONNECT, peer=NOBODY)):
            assert (await hop(w.caller, w.callee, asked, limited_ok=True)).status == Status.PERMISSION_DENIED
        with pytest.raises(DialError, match="exactly one relay"):
            await w.caller.connect(NOBODY, [w.addr.encapsulate(Multiaddr("/p2p-circuit"))])


async def test_a_call_counts_from_a_relay_that_we_reserved_at_only(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (node, other), open_circuit(node):
        connection = await other.connect(node.peer_id, node.addrs)
        for message, status in (
            (StopMessage(type=StopType.CONNECT, peer=NOBODY), Status.PERMISSION_DENIED),
            (StopMessage(type=StopType.CONNECT), Status.MALFORMED_MESSAGE),
            (StopMessage(type=StopType.CONNECT, peer=node.peer_id), Status.MALFORMED_MESSAGE),
            (StopMessage(type=StopType.STATUS, status=100), Status.UNEXPECTED_MESSAGE),
        ):
            async with await other.open_stream(connection, STOP) as stream:
                line = MessageStream[StopMessage, StopMessage](
                    stream, decode=decode_stop, encode=encode_stop, max_size=4096
                )
                await line.send(message)
                assert (await line.receive()).status == status


async def test_who_is_called_may_have_no_room(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with world(open_nodes, memory_config) as w:
        (listener,) = w.circuit._listeners.values()
        listener._backlog = 0
        with pytest.raises(DialError) as failed:
            await w.caller.connect(w.callee.peer_id, [w.addr])
        assert "CONNECTION_FAILED" in str(failed.value)
        assert w.server.circuits == 0


@asynccontextmanager
async def bad_relay(node: Node, answer: HopMessage | bytes) -> AsyncIterator[None]:
    async def serve(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(frame(answer if isinstance(answer, bytes) else encode_hop(answer)))

    with node.mounted(HOP, serve):
        yield


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff",
        HopMessage(type=HopType.STATUS),
        HopMessage(type=HopType.RESERVE, status=Status.OK),
        HopMessage(type=HopType.STATUS, status=Status.OK),
        HopMessage(type=HopType.STATUS, status=Status.OK, reservation=Reservation(1)),
        HopMessage(type=HopType.STATUS, status=999, reservation=Reservation(1 << 40)),
    ],
)
async def test_a_relay_that_answers_a_reservation_wrongly(
    memory_config: MakeConfig, open_nodes: Any, answer: HopMessage | bytes
) -> None:
    async with open_nodes(memory_config(), memory_config()) as (relay, node), bad_relay(relay, answer):
        circuit = Circuit(node, CircuitConfig())
        with pytest.raises(ListenError):
            await circuit.listen(through(relay))
        assert not circuit.relays


async def test_a_relay_that_answers_a_circuit_wrongly(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (relay, node), open_circuit(node):
        for answer in (b"\xff", HopMessage(type=HopType.STATUS), HopMessage(type=HopType.CONNECT)):
            async with bad_relay(relay, answer):
                circuit = Circuit(node, CircuitConfig())
                with pytest.raises(DialError):
                    await circuit.dial(through(relay).encapsulate(Multiaddr(f"/p2p/{NOBODY}")))
        with pytest.raises(DialError, match="names nobody"):
            await circuit.dial(through(relay))


async def test_a_bad_voucher_says_something_of_the_relay_only(memory_config: MakeConfig, open_nodes: Any) -> None:
    granted = Reservation(int(time.time()) + 3600, (), b"no voucher")
    async with open_nodes(memory_config(), memory_config()) as (relay, node):
        answer = HopMessage(type=HopType.STATUS, status=Status.OK, reservation=granted)
        async with bad_relay(relay, answer):
            listener = await Circuit(node, CircuitConfig()).listen(through(relay))
            assert listener.addrs == (through(relay),)
            assert [addr for addr in node.addrs if "p2p-circuit" in str(addr)]
            await listener.aclose()
            assert not [addr for addr in node.addrs if "p2p-circuit" in str(addr)]


async def test_a_reservation_is_renewed_and_is_lost_with_its_connection(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(open_nodes, memory_config, RelayLimits(reservation_seconds=100)) as w:
        async with w.callee.events() as events:
            await trio.sleep(250)  # renewed at 80 % of its time, again and again
            assert w.server.reservations == 1
            (connection,) = [one for one in w.callee.connections if one.remote_peer == w.relay.peer_id]
            await connection.aclose()
            async for event in events:
                if isinstance(event, RelayLost):
                    break
        await trio.testing.wait_all_tasks_blocked()
        assert w.server.reservations == 0


async def test_a_circuit_ends_when_its_time_is_over(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.testing.MockClock
) -> None:
    async with world(open_nodes, memory_config, RelayLimits(circuit_seconds=120)) as w:
        connection = await w.caller.connect(w.callee.peer_id, [w.addr])
        await trio.sleep(119)
        assert connection in w.caller.connections
        await trio.sleep(2)
        assert connection not in w.caller.connections
        assert w.server.circuits == 0
