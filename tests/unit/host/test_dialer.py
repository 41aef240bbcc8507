"""Dialling by a scripted network and a virtual clock: who is tried when, and what is remembered."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import ByteTransport, GateStep, HandlerFailed, ServiceFault
from talos.addr import host_port, parse, split_peer
from talos.errors import DialError, LimitExceeded, PeerIdMismatch, PeerNotFound, RefusedByGate
from talos.host.config import NodeConfig, Stack
from talos.host.dial_machine import AddressGroup, Rank
from talos.host.dialer import rank
from talos.host.limits import DialLimits, LimitsConfig
from talos.host.node import Node, open_node
from talos.host.trace import TraceComplete, TraceFailed
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.transport import Memory
from talos.transport.resolve import Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

STRANGER = PeerId.from_key(PrivateKey.from_seed(b"\x07" * 32).public_key)


def public(number: int) -> Multiaddr:
    return parse(f"/ip4/1.1.1.1/tcp/{number}")


def private(number: int) -> Multiaddr:
    return parse(f"/ip4/10.0.0.1/tcp/{number}")


class Script(ByteTransport):
    """A network where the port says what happens: 1–99 hang, 100–999 refuse at once, 1000– reach the server.

    1000 + n takes n ms.
    """

    def __init__(self) -> None:
        self.server: Multiaddr | None = None
        self.started: list[tuple[float, int]] = []
        self.cancelled: list[int] = []
        self.down = False
        self.parallel = 0
        self.most_parallel = 0
        self._memory = Memory()

    def matches(self, addr: Multiaddr) -> bool:
        return any(part.name in ("tcp", "memory") for part in addr.protocols())

    async def listen(self, addr: Multiaddr) -> Any:
        return await self._memory.listen(addr)

    async def dial(self, addr: Multiaddr) -> trio.abc.Stream:
        port = host_port(addr)[1]
        self.started.append((round(trio.current_time() - START, 3), port))
        self.parallel += 1
        self.most_parallel = max(self.most_parallel, self.parallel)
        try:
            if port < 100:
                await trio.sleep_forever()
            if port < 1000 or self.down:
                raise DialError("refused")
            await trio.sleep((port - 1000) / 1000)
            assert self.server is not None
            return await self._memory.dial(self.server)
        except trio.Cancelled:
            self.cancelled.append(port)
            raise
        finally:
            self.parallel -= 1


START = 0.0


@asynccontextmanager
async def client(**changes: Any) -> AsyncIterator[tuple[Node, Script, Node]]:
    """A node on the scripted network, the script, and the server behind it; nothing is left behind."""
    global START  # noqa: PLW0603 - the clock of one test
    script = Script()
    stack = Stack(transports=(script,))
    async with (
        open_node(NodeConfig(stack=Stack(transports=(Memory(),)), listen=(parse("/memory/0"),))) as server,
        open_node(NodeConfig(stack=stack, **changes)) as node,
    ):
        script.server = split_peer(server.addrs[0])[0]
        START = trio.current_time()
        yield node, script, server
    for each in (server, node):
        assert not any(each.limits.snapshot().values())
        assert each.limits.leaked == 0


def elapsed() -> float:
    return round(trio.current_time() - START, 3)


async def test_the_first_success_cancels_the_rest_at_once(autojump_clock: Any) -> None:
    async with client() as (node, script, server):
        await node.connect(server.peer_id, [public(1), public(1010), public(2000)])
        assert script.started == [(0.0, 1), (0.25, 1010)]
        assert elapsed() == 0.26
        await trio.testing.wait_all_tasks_blocked()
        assert script.cancelled == [1]


async def test_an_address_that_answers_is_never_waited_for(autojump_clock: Any) -> None:
    async with client() as (node, _script, server):
        await node.connect(server.peer_id, [public(1000)])
        assert elapsed() == 0


async def test_one_good_address_among_dead_ones_costs_no_stagger(autojump_clock: Any) -> None:
    async with client() as (node, script, server):
        await node.connect(server.peer_id, [*map(public, range(100, 124)), public(1000)])
        assert len(script.started) == 25
        assert elapsed() == 0


async def test_private_addresses_follow_each_other_quickly(autojump_clock: Any) -> None:
    async with client() as (node, script, server):
        await node.connect(server.peer_id, [private(1), private(2), private(1001)])
        assert script.started == [(0.0, 1), (0.03, 2), (0.06, 1001)]


async def test_no_more_than_25_addresses_are_tried_8_at_once(autojump_clock: Any) -> None:
    async with client() as (node, script, _server):
        with pytest.raises(DialError) as failure:
            await node.connect(STRANGER, [parse(f"/ip4/10.0.{n // 250}.{n % 250}/tcp/5") for n in range(1000)])
        assert script.most_parallel == 8
        assert len(script.started) <= 25
        assert len(failure.value.causes) <= 25
        script.started.clear()
        other = PeerId.from_key(PrivateKey.generate().public_key)
        with pytest.raises(DialError):
            await node.connect(other, [private(port) for port in range(100, 900)])
        assert len(script.started) == 25


async def test_one_address_has_5_seconds_and_the_whole_dial_15(autojump_clock: Any) -> None:
    async with client() as (node, _script, _server):
        with pytest.raises(DialError, match="5 s"):
            await node.connect(STRANGER, [public(1)])
        assert elapsed() == 5
        other = PeerId.from_key(PrivateKey.generate().public_key)
        with pytest.raises(DialError, match="15 s") as failure:
            await node.connect(other, [private(port) for port in range(1, 99)])
        assert elapsed() == 20
        assert len(failure.value.causes) >= 24


async def test_a_failed_address_rests_and_success_clears_that(autojump_clock: Any) -> None:
    async with client() as (node, script, server):

        async def dial() -> None:
            await (await node.connect(server.peer_id, [public(1000)])).aclose()

        async def fails_and_rests(seconds: float) -> None:
            with pytest.raises(DialError, match="refused"):
                await dial()
            before = elapsed()
            with pytest.raises(DialError, match="backoff"):
                await dial()
            assert elapsed() == before
            await trio.sleep(seconds * 0.89)
            with pytest.raises(DialError, match="backoff"):
                await dial()
            await trio.sleep(seconds * 0.22)

        script.down = True
        await fails_and_rests(5)
        await fails_and_rests(6)
        script.down = False
        await dial()
        script.down = True
        await fails_and_rests(5)
        assert len(script.started) == 4


async def test_another_identity_puts_the_address_out_for_an_hour(autojump_clock: Any) -> None:
    async with client() as (node, _script, server):
        node.peerstore.add_addrs(STRANGER, [public(1000)])
        with pytest.raises(DialError) as failure:
            await node.connect(STRANGER)
        (cause,) = failure.value.causes.values()
        assert isinstance(cause, PeerIdMismatch)
        assert cause.actual == server.peer_id
        assert node.peerstore.addrs(STRANGER) == ()
        await trio.sleep(3590)
        with pytest.raises(DialError, match="backoff"):
            await node.connect(STRANGER, [public(1000)])
        await trio.sleep(20)
        with pytest.raises(DialError, match="expected peer"):
            await node.connect(STRANGER, [public(1000)])
        assert node.connections == []


async def test_a_node_does_not_dial_itself(autojump_clock: Any) -> None:
    async with client(listen=(parse("/memory/0"),)) as (node, script, _server):
        with pytest.raises(DialError, match="itself"):
            await node.connect(node.peer_id, [public(1000)])
        own = split_peer(node.addrs[0])[0]
        with pytest.raises(DialError, match="itself"):
            await node.connect(STRANGER, [own])
        script.server = own
        with pytest.raises(DialError, match="itself"):
            await node.connect(None, [public(1000)])
        assert node.connections == []


async def test_whoever_answers_will_do_when_nobody_is_named(autojump_clock: Any) -> None:
    async with client() as (node, _script, server):
        connection = await node.connect(None, [public(1000)])
        assert connection.remote_peer == server.peer_id
        with pytest.raises(DialError):
            await node.connect(None, [public(100)])
        with pytest.raises(DialError, match="refused"):  # nothing was kept against it
            await node.connect(None, [public(100)])


async def test_a_peer_named_in_the_address_is_the_one_that_is_wanted(autojump_clock: Any) -> None:
    async with client() as (node, script, server):
        with pytest.raises(DialError, match="expected peer"):
            await node.connect(None, [parse(f"{public(1000)}/p2p/{STRANGER}")])
        with pytest.raises(DialError, match="expected peer"):
            await node.connect(server.peer_id, [parse(f"{public(1001)}/p2p/{STRANGER}")])
        assert len(script.started) == 1


async def test_an_address_without_transport_is_told(autojump_clock: Any) -> None:
    async with client() as (node, _script, _server):
        with pytest.raises(DialError, match="no transport"):
            await node.connect(STRANGER, [parse("/ip4/1.1.1.1/udp/1/quic-v1")])


async def test_a_later_caller_has_its_own_addresses_tried_too(autojump_clock: Any) -> None:
    async with client() as (node, _script, server), trio.open_nursery() as nursery:
        errors = []

        @nursery.start_soon
        async def first() -> None:
            try:
                await node.connect(server.peer_id, [public(1)])
            except DialError as error:
                errors.append(error)

        await trio.testing.wait_all_tasks_blocked()
        connection = await node.connect(server.peer_id, [public(1000)])
        assert connection.remote_peer == server.peer_id
        assert len(errors) == 1
        assert elapsed() == 5


async def test_callers_with_the_same_addresses_fail_together(autojump_clock: Any) -> None:
    async with client() as (node, script, _server):
        errors = []

        async def dial() -> None:
            with pytest.raises(DialError) as failure:
                await node.connect(STRANGER, [public(1)])
            errors.append(failure.value)

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(dial)
        assert len(script.started) == 1
        assert len({id(error) for error in errors}) == 3


async def test_a_dial_that_nobody_waits_for_is_given_up(autojump_clock: Any) -> None:
    async with client() as (node, script, _server):
        with trio.move_on_after(1):
            await node.connect(STRANGER, [public(1)])
        await trio.testing.wait_all_tasks_blocked()
        assert script.cancelled == [1]
        with pytest.raises(DialError, match="5 s"):  # and no back-off: it did not fail
            await node.connect(STRANGER, [public(1)])


async def test_one_impatient_caller_does_not_end_the_dial_of_the_others(autojump_clock: Any) -> None:
    async with client() as (node, _script, server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def impatient() -> None:
            with trio.move_on_after(0.1):
                await node.connect(server.peer_id, [public(1500)])

        await node.connect(server.peer_id, [public(1500)])
        assert elapsed() == 0.5


def limits(**dialing: int) -> LimitsConfig:
    return LimitsConfig(dialing=DialLimits(**dialing))


async def test_dials_past_the_queue_are_refused(autojump_clock: Any) -> None:
    async with client(limits=limits(parallel=1, queued=1)) as (node, script, _server):
        peers = [PeerId.from_key(PrivateKey.generate().public_key) for _ in range(3)]

        async def dial(peer: PeerId) -> None:
            with pytest.raises(DialError):
                await node.connect(peer, [public(1)])

        async with trio.open_nursery() as nursery:
            for peer in peers[:2]:
                nursery.start_soon(dial, peer)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(LimitExceeded):
                await node.connect(peers[2], [public(1)])
        assert script.most_parallel == 1
        assert script.started == [(0.0, 1), (5.0, 1)]


async def test_addresses_of_all_peers_share_the_parallel_dials(autojump_clock: Any) -> None:
    async with client(limits=limits(parallel=3)) as (node, script, _server):
        with pytest.raises(DialError):
            await node.connect(STRANGER, [private(port) for port in range(1, 7)])
        assert script.most_parallel == 3
        assert len(script.started) == 6


class Routing:
    """Finds what it is given, or raises it."""

    def __init__(self, found: list[Multiaddr] | Exception) -> None:
        self.found = found
        self.asked = 0

    async def find_peer(self, peer: PeerId) -> list[Multiaddr]:
        self.asked += 1
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


async def test_routing_is_asked_only_when_no_address_is_known(autojump_clock: Any) -> None:
    async with client() as (node, _script, server):
        ignorant, knowing = Routing(PeerNotFound("nobody")), Routing([public(1000)])
        with node.using(ignorant), node.using(knowing):
            with pytest.raises(DialError, match="refused"):
                await node.connect(server.peer_id, [public(100)])
            assert ignorant.asked == knowing.asked == 0
            await node.connect(server.peer_id)
            assert ignorant.asked == knowing.asked == 1
        with node.using(ignorant), pytest.raises(DialError, match="no address"):
            await node.connect(STRANGER)
        with pytest.raises(DialError, match="no address"):
            await node.connect(STRANGER)
        assert ignorant.asked == 2


async def test_routing_is_asked_for_a_peer_that_is_not_where_it_was(autojump_clock: Any) -> None:
    """Nobody answers at what is remembered, so routing says where the peer is by now; once, and not for those who name
    addresses."""
    async with client() as (node, _script, server):
        routing = Routing([public(100), public(1000)])
        node.peerstore.add_addrs(server.peer_id, [public(100)])
        with node.using(routing):
            await node.connect(server.peer_id)
            assert routing.asked == 1
        nothing_new = Routing([public(100)])
        node.peerstore.add_addrs(STRANGER, [public(100)])
        with node.using(nothing_new), pytest.raises(DialError, match="refused"):
            await node.connect(STRANGER)
        assert nothing_new.asked == 1
        with node.using(Routing(PeerNotFound("nobody"))), pytest.raises(DialError) as caught:
            await node.connect(STRANGER)
        assert "no address is known" not in str(caught.value)


async def test_who_asks_for_routing_does_not_wait_for_it(autojump_clock: Any) -> None:
    """A search that meets the peer that is searched for, and knows no more of it than the dial does."""
    async with client() as (node, _script, _server):

        class Searching:
            async def find_peer(self, peer: PeerId) -> list[Multiaddr]:
                with pytest.raises(DialError):
                    await node.connect(peer, [public(100)])
                return []

        node.peerstore.add_addrs(STRANGER, [public(100)])
        with node.using(Searching()), trio.fail_after(1), pytest.raises(DialError, match="refused"):
            await node.connect(STRANGER)


async def test_a_routing_that_waits_for_its_own_dial_is_not_waited_for(autojump_clock: Any) -> None:
    """A lookup for a peer asks that peer too, once somebody has told its address."""

    class Asking:
        async def find_peer(self, peer: PeerId) -> list[Multiaddr]:
            await node.connect(peer, [public(1000)])
            raise AssertionError("the dial waited for it")

    async with client() as (node, _script, server):
        with node.using(Asking()):
            await node.connect(server.peer_id)
            assert elapsed() == 0


async def test_a_routing_with_a_bug_fails_the_dial_and_nothing_else(autojump_clock: Any) -> None:
    async with client() as (node, _script, server):
        seen: list[object] = []
        with node.using(Routing(ValueError("bug"))), node.observe(seen.append), pytest.raises(DialError):
            await node.connect(STRANGER)
        assert [str(event.exception) for event in seen if isinstance(event, HandlerFailed)] == ["bug"]
        await node.connect(server.peer_id, [public(1000)])


async def test_a_transport_with_a_bug_fails_its_address_alone(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with client() as (node, script, server):
        dial = script.dial

        async def broken(addr: Multiaddr) -> trio.abc.Stream:
            if host_port(addr)[1] == 100:
                raise KeyError("bug")
            return await dial(addr)

        monkeypatch.setattr(script, "dial", broken)
        await node.connect(server.peer_id, [public(100), public(1000)])
        assert elapsed() == 0


class RefusingGate:
    """Refuses one step, and remembers what it was asked."""

    def __init__(self, step: GateStep, error: Exception | None = None) -> None:
        self.step = step
        self.error = error
        self.asked: list[GateStep] = []

    def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:
        self.asked.append(step)
        if step is self.step and self.error is not None:
            raise self.error
        return step is not self.step


OUTBOUND = [GateStep.DIAL_PEER, GateStep.DIAL_ADDR, GateStep.SECURED_OUT, GateStep.UPGRADED_OUT]


@pytest.mark.parametrize("step", OUTBOUND)
@pytest.mark.parametrize("error", [None, ValueError("bug")], ids=["no", "raises"])
async def test_a_gate_that_says_no_or_raises_refuses_at_its_step(
    autojump_clock: Any, step: GateStep, error: Exception | None
) -> None:
    gate = RefusingGate(step, error)
    async with client(gates=(gate,)) as (node, script, server):
        with pytest.raises((RefusedByGate, DialError)) as failure:
            await node.connect(server.peer_id, [public(1000)])
        if isinstance(failure.value, DialError):
            assert isinstance(failure.value.causes[public(1000)], RefusedByGate)
        assert gate.asked == OUTBOUND[: OUTBOUND.index(step) + 1]
        assert node.connections == []
        assert bool(script.started) == (step in OUTBOUND[2:])
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == []


async def test_names_are_resolved_and_staggered_like_addresses() -> None:
    async with client() as (node, _script, server):
        answers = {"two.example": [("1.1.1.2", 0), ("1.1.1.1", 0)]}

        def look_up(name: str, family: int) -> Any:
            if name not in answers:
                raise OSError("no such name")
            return answers[name]

        node._dialer._resolver = Resolver(look_up_host=look_up)
        await node.connect(server.peer_id, [parse("/dns4/two.example/tcp/1000")])
        with pytest.raises(DialError, match="no such name"):
            await node.connect(STRANGER, [parse("/dns4/other.example/tcp/1000")])


async def test_names_past_the_limit_are_left_out() -> None:
    async with client(limits=limits(names=2)) as (node, _script, _server):
        asked = []

        def look_up(name: str, family: int) -> Any:
            asked.append(name)
            raise OSError("no such name")

        node._dialer._resolver = Resolver(look_up_host=look_up)
        with pytest.raises(DialError):
            await node.connect(STRANGER, [parse(f"/dns4/n{number}.example/tcp/1") for number in range(5)])
        assert asked == ["n0.example", "n1.example"]


async def test_a_transport_that_leaves_meanwhile_is_told(autojump_clock: Any) -> None:
    async with client() as (node, script, _server), trio.open_nursery() as nursery:

        @nursery.start_soon
        async def leave() -> None:
            await trio.sleep(0.1)
            node._transports.clear()

        with pytest.raises(DialError, match="no transport"):
            await node.connect(STRANGER, [public(1), public(1000)])
        assert script.started == [(0.0, 1)]


async def test_dials_are_traced(autojump_clock: Any) -> None:
    async with client() as (node, _script, server):
        seen: list[object] = []
        with node.observe(seen.append):
            await node.connect(server.peer_id, [public(1000)])
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(DialError):
                await node.connect(STRANGER, [public(100)])
        assert [type(event) for event in seen if isinstance(event, TraceComplete | TraceFailed)] == [
            TraceComplete,
            TraceFailed,
        ]
        assert not [event for event in seen if isinstance(event, ServiceFault | HandlerFailed)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/1.1.1.1/tcp/5", Rank(AddressGroup.PUBLIC, port=5)),
        ("/ip6/2606:4700::1111/udp/5/quic-v1", Rank(AddressGroup.PUBLIC, ipv6=True, quic=True, port=5)),
        ("/ip4/127.0.0.1/tcp/5", Rank(AddressGroup.PRIVATE, port=5)),
        ("/memory/5", Rank(AddressGroup.PRIVATE)),
        (f"/ip4/1.1.1.1/tcp/5/p2p/{STRANGER}/p2p-circuit", Rank(AddressGroup.RELAYED)),
    ],
)
def test_rank(text: str, expected: Rank) -> None:
    assert rank(parse(text)) == expected
