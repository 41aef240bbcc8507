"""Scopes: who is charged, refused, evicted, and that everything comes back."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field, replace
from itertools import count

import pytest
import trio
from multiaddr import Multiaddr

from talos.abc import Event, GateStep, HandlerFailed, Resource, ServiceFault
from talos.errors import (
    BadSignature,
    ConfigError,
    HandshakeError,
    LimitExceeded,
    LocalProtocolError,
    RefusedByGate,
)
from talos.host import limit_tables
from talos.host.limits import (
    ConnectionScope,
    IpLimits,
    Limits,
    LimitsConfig,
    ManagerLimits,
    Rate,
    ScopeLimits,
    ServiceLimits,
)
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

MIB = 1 << 20
FAST = Rate(per_second=1e6, burst=1e6)
EVERY_SOURCE = IpLimits(
    half_open=10_000,
    half_open_wide=10_000,
    authenticated=10_000,
    authenticated_wide=10_000,
    rate=FAST,
    rate_wide=FAST,
)


def peer(number: int) -> PeerId:
    return PeerId.from_key(PrivateKey.from_seed(number.to_bytes(32, "big")).public_key)


PEERS = [peer(number) for number in range(12)]
NUMBERS = count(1)


def public(number: int | None = None) -> Multiaddr:
    """A public IPv4 address; another one each time, or the one of `number`."""
    number = next(NUMBERS) if number is None else number
    return Multiaddr(f"/ip4/5.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}/tcp/1000")


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Door:
    """A gate that refuses at one step, and remembers what it was asked."""

    closed: GateStep | None = None
    asked: list[tuple[GateStep, PeerId | None]] = field(default_factory=list)

    def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:
        self.asked.append((step, peer))
        return step is not self.closed


def make(**changes: object) -> Limits:
    """Limits with a clock that stands, without limits on sources unless told."""
    changes = {"ip": EVERY_SOURCE, **changes}
    return Limits(replace(LimitsConfig(), **changes), clock=Clock())  # type: ignore[arg-type]


def idle(limits: Limits) -> bool:
    return not any(limits.snapshot().values()) and limits.leaked == 0


def connect(limits: Limits, who: PeerId, *, inbound: bool = True) -> ConnectionScope:
    scope = limits.inbound(public()) if inbound else limits.outbound(public())
    scope.authenticated(who)
    return scope


# ----------------------------------------------------------------------------------- the chain


def test_a_connection_is_transient_then_its_peers_then_nothing() -> None:
    limits = make()
    with limits.inbound(public()) as scope:
        assert scope.peer is None
        held = limits.snapshot()
        assert held["system: connections in"] == held["transient: connections in"] == held["sources"] == 1
        scope.authenticated(PEERS[0])
        assert scope.peer == PEERS[0]
        held = limits.snapshot()
        assert held["system: connections in"] == held["system: descriptors"] == held["peers"] == 1
        assert held["transient: connections in"] == held["transient: descriptors"] == 0
    assert idle(limits)


def test_a_connection_that_we_dial_counts_as_one() -> None:
    limits = make()
    with limits.outbound(public(), descriptors=0) as scope:
        scope.authenticated(PEERS[0])
        held = limits.snapshot()
        assert held["system: connections out"] == held["system: connections"] == 1
        assert held["system: connections in"] == held["system: descriptors"] == held["sources"] == 0
    assert idle(limits)


@pytest.mark.parametrize("name", ["connection", "peer", "system"])
@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (Resource.STREAM_IN, ScopeLimits(streams_in=2)),
        (Resource.STREAM_OUT, ScopeLimits(streams_out=2)),
        (Resource.STREAM_IN, ScopeLimits(streams=2)),
        (Resource.STREAM_OUT, ScopeLimits(streams=2)),
        (Resource.MEMORY, ScopeLimits(memory=2)),
        (Resource.FD, ScopeLimits(descriptors=3)),
    ],
)
def test_each_scope_of_the_chain_refuses_and_charges_nothing(name: str, kind: Resource, limit: ScopeLimits) -> None:
    limits = make(**{"connection": ScopeLimits(), name: limit})
    with connect(limits, PEERS[0]) as scope:
        scope.reserve(kind, 2)
        before = limits.snapshot()
        with pytest.raises(LimitExceeded) as caught:
            scope.reserve(kind)
        assert caught.value.scope == name
        assert caught.value.limit in (2, 3)
        assert caught.value.kind
        assert limits.snapshot() == before
        scope.release(kind, 2)
        scope.reserve(kind)
        scope.release(kind)
    assert limits.refused[f"{name}: {caught.value.kind}"] == 1
    assert idle(limits)


@pytest.mark.parametrize(("inbound", "limit"), [(True, "connections_in"), (False, "connections_out")])
@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", ["system", "peer"])
def test_connections_are_refused_by_system_and_peer(*, inbound: bool, limit: str, both: bool, name: str) -> None:
    limits = make(**{name: ScopeLimits(**{"connections" if both else limit: 1})})
    with connect(limits, PEERS[0], inbound=inbound):
        with pytest.raises(LimitExceeded, match="limit of 1 connections") as caught:
            connect(limits, PEERS[0], inbound=inbound).__enter__()
        assert caught.value.scope == name


def test_a_refused_peer_leaves_the_connection_transient() -> None:
    limits = make(peer=ScopeLimits(connections=1))
    with connect(limits, PEERS[0]), limits.inbound(public()) as second:
        with pytest.raises(LimitExceeded):
            second.authenticated(PEERS[0])
        held = limits.snapshot()
        assert held["transient: connections in"] == 1
        assert held["system: connections in"] == 2
    assert idle(limits)


def test_what_is_left_behind_is_given_back_and_counted() -> None:
    limits = make()
    with connect(limits, PEERS[0]) as scope:
        scope.reserve(Resource.MEMORY, 100)
        scope.reserve(Resource.STREAM_IN)
    assert not any(limits.snapshot().values())
    assert limits.leaked == 101


def test_nobody_gives_back_what_he_has_not_got() -> None:
    limits = make()
    with connect(limits, PEERS[0]) as scope:
        scope.reserve(Resource.MEMORY, 5)
        with pytest.raises(LocalProtocolError, match="cannot release 6"):
            scope.release(Resource.MEMORY, 6)
        with pytest.raises(LocalProtocolError):
            scope.release(Resource.MEMORY, -1)
        with pytest.raises(LocalProtocolError):
            scope.reserve(Resource.MEMORY, -1)
        scope.release(Resource.MEMORY, 5)
        with pytest.raises(LocalProtocolError, match="already"):
            scope.authenticated(PEERS[1])


def test_half_of_the_process_descriptors_bound_the_system() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard))
    try:
        limits = make(connection=ScopeLimits())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with connect(limits, PEERS[0]) as scope, pytest.raises(LimitExceeded) as caught:
        scope.reserve(Resource.FD, 100)
    assert caught.value.scope == "peer" or caught.value.limit == 64


# ----------------------------------------------------------------------------------- fair shares


def test_above_three_quarters_nobody_takes_more_than_a_share() -> None:
    limits = make(system=ScopeLimits(streams_in=100), peer=ScopeLimits(), connection=ScopeLimits())
    with connect(limits, PEERS[0]) as greedy, connect(limits, PEERS[1]) as modest:
        greedy.reserve(Resource.STREAM_IN, 75)
        with pytest.raises(LimitExceeded) as caught:
            greedy.reserve(Resource.STREAM_IN)
        assert caught.value.scope == "system"
        for _ in range(50):
            modest.reserve(Resource.STREAM_IN)
        with pytest.raises(LimitExceeded):
            modest.reserve(Resource.STREAM_IN)
        greedy.release(Resource.STREAM_IN, 75)
        modest.release(Resource.STREAM_IN, 50)
    assert idle(limits)


def test_eight_sybils_cannot_lock_out_a_newcomer() -> None:
    limits = make()
    sybils = [connect(limits, who) for who in PEERS[:8]]
    taken: list[ConnectionScope] = []
    for sybil in sybils:
        try:
            while True:
                sybil.reserve(Resource.STREAM_IN)
                taken.append(sybil)
        except LimitExceeded:
            pass
    assert limits.snapshot()["system: streams in"] > 768
    with connect(limits, PEERS[8]) as honest:
        for _ in range(50):
            honest.reserve(Resource.STREAM_IN)
        honest.release(Resource.STREAM_IN, 50)
    for sybil in taken:
        sybil.release(Resource.STREAM_IN)
    for sybil in sybils:
        sybil.__exit__(None, None, None)
    assert idle(limits)


def test_the_shares_together_have_a_ceiling_and_descriptors_none() -> None:
    limits = make(
        system=ScopeLimits(streams_in=4, descriptors=12),
        peer=ScopeLimits(),
        connection=ScopeLimits(),
        transient=ScopeLimits(),
    )
    scopes = [connect(limits, who) for who in PEERS[:9]]
    for scope in scopes[:8]:
        scope.reserve(Resource.STREAM_IN)
    with pytest.raises(LimitExceeded):
        scopes[8].reserve(Resource.STREAM_IN)
    for scope in scopes[:3]:
        with pytest.raises(LimitExceeded):
            scope.reserve(Resource.FD, 1)
    for scope in scopes:
        if scope is not scopes[8]:
            scope.release(Resource.STREAM_IN)
        scope.__exit__(None, None, None)
    assert idle(limits)


# ----------------------------------------------------------------------------------- transient, eviction


def test_a_full_transient_scope_evicts_the_oldest_of_the_crowd() -> None:
    limits = make(transient=ScopeLimits(connections_in=4))
    gone: list[str] = []
    crowd = [limits.inbound(public(7), lambda n=n: gone.append(f"crowd {n}")) for n in range(3)]  # type: ignore[misc]
    loner = limits.inbound(public(8), lambda: gone.append("loner"))
    with limits.inbound(public(9)) as newcomer:
        assert gone == ["crowd 0"]
        assert crowd[0].evicted
        assert limits.evicted["half-open"] == 1
        with pytest.raises(LimitExceeded, match="make room"):
            crowd[0].reserve(Resource.MEMORY)
        crowd[0].release(Resource.MEMORY, 1)
        with pytest.raises(LimitExceeded, match="make room"):
            crowd[0].authenticated(PEERS[0])
        with crowd[0]:
            pass
        newcomer.authenticated(PEERS[0])
    for scope in (*crowd[1:], loner):
        with scope:
            pass
    assert idle(limits)


def test_a_full_transient_scope_without_a_crowd_refuses() -> None:
    limits = make(transient=ScopeLimits(connections_out=1, descriptors=0))
    with pytest.raises(LimitExceeded, match="transient"):
        limits.inbound(public())
    limits = make(transient=ScopeLimits(connections_out=1))
    with limits.outbound(public()), pytest.raises(LimitExceeded, match="transient"):
        limits.outbound(public())
    assert idle(limits)


def test_memory_before_authentication_is_transient() -> None:
    limits = make(transient=ScopeLimits(memory=100))
    with limits.inbound(public()) as scope:
        scope.reserve(Resource.MEMORY, 100)
        with pytest.raises(LimitExceeded, match="transient"):
            scope.reserve(Resource.MEMORY, 1)
        scope.authenticated(PEERS[0])
        scope.reserve(Resource.MEMORY, 1000)
        scope.release(Resource.MEMORY, 1100)
    assert idle(limits)


def test_one_more_connection_of_a_peer_closes_its_oldest_that_is_not_in_use() -> None:
    limits = make(connections_per_peer=2)
    gone: list[int] = []
    first, second = (limits.inbound(public(), lambda n=n: gone.append(n)) for n in range(2))  # type: ignore[misc]
    first.authenticated(PEERS[0])
    second.authenticated(PEERS[0])
    with first.stream(inbound=True) as stream:
        stream.negotiated("/echo/1.0.0")
        assert [first.in_use, second.in_use] == [True, False]
        third = connect(limits, PEERS[0])
        assert gone == [1]
        assert limits.evicted["supplanted"] == 1
        with third.stream(inbound=False) as busy:
            busy.negotiated("/echo/1.0.0")
            with limits.inbound(public()) as fourth, pytest.raises(LimitExceeded, match="in use") as caught:
                fourth.authenticated(PEERS[0])
            assert caught.value.limit == 2
    assert not first.in_use
    for scope in (first, second, third):
        with scope:
            pass
    assert idle(limits)


def test_identify_and_ping_do_not_keep_a_connection() -> None:
    limits = make(connections_per_peer=1)
    with connect(limits, PEERS[0]) as first, first.stream(inbound=True) as stream:
        stream.negotiated("/ipfs/ping/1.0.0")
        with connect(limits, PEERS[0]):
            assert first.evicted
    assert idle(limits)


def test_a_peer_that_reconnects_quickly_is_always_served() -> None:
    limits = make()
    scopes = [connect(limits, PEERS[0]) for _ in range(100)]
    assert sum(not scope.evicted for scope in scopes) == 8
    for scope in scopes:
        with scope:
            pass
    assert idle(limits)


# ----------------------------------------------------------------------------------- sources


@pytest.mark.parametrize("addr", ["/ip4/5.5.5.5/tcp/1", "/ip6/2a00:1:2:300::1/tcp/1"])
def test_half_open_connections_of_one_source(addr: str) -> None:
    limits = make(ip=replace(EVERY_SOURCE, half_open=2))
    with limits.inbound(Multiaddr(addr)) as first, limits.inbound(Multiaddr(addr)):
        with pytest.raises(LimitExceeded, match="half-open"):
            limits.inbound(Multiaddr(addr))
        first.authenticated(PEERS[0])
        with limits.inbound(Multiaddr(addr)), limits.inbound(public()):
            pass
    assert idle(limits)


def test_half_open_and_authenticated_connections_of_a_wide_source() -> None:
    limits = make(ip=replace(EVERY_SOURCE, half_open_wide=2, authenticated_wide=2))
    addrs = [Multiaddr(f"/ip6/2a00:1:2:{n}00::1/tcp/1") for n in range(1, 6)]
    with limits.inbound(addrs[0]) as first, limits.inbound(addrs[1]) as second:
        with pytest.raises(LimitExceeded, match="half-open"):
            limits.inbound(addrs[2])
        first.authenticated(PEERS[0])
        second.authenticated(PEERS[1])
        with limits.inbound(addrs[3]) as third, pytest.raises(LimitExceeded, match="authenticated"):
            third.authenticated(PEERS[2])
    assert idle(limits)


def test_authenticated_connections_of_one_source() -> None:
    limits = make(ip=replace(EVERY_SOURCE, authenticated=1))
    with limits.inbound(public(3)) as first, limits.inbound(public(3)) as second:
        first.authenticated(PEERS[0])
        with pytest.raises(LimitExceeded, match="authenticated"):
            second.authenticated(PEERS[1])
    assert idle(limits)


@pytest.mark.parametrize(
    ("addr", "burst"),
    [
        ("/ip4/5.5.5.5/tcp/1", 2),
        ("/ip6/2a00:1:2:300::1/tcp/1", 2),
        ("/ip4/10.0.0.1/tcp/1", 4),
        ("/ip6/fd00::1/tcp/1", 4),
    ],
)
def test_new_connections_have_a_rate(addr: str, burst: int) -> None:
    clock = Clock()
    ip = replace(
        EVERY_SOURCE,
        rate=Rate(per_second=0.5, burst=2),
        rate_private=Rate(per_second=0.5, burst=4),
    )
    limits = Limits(LimitsConfig(ip=ip), clock=clock)
    for _ in range(burst):
        with limits.inbound(Multiaddr(addr)):
            pass
    with pytest.raises(LimitExceeded, match="connection rate"):
        limits.inbound(Multiaddr(addr))
    clock.now = 2.0
    with limits.inbound(Multiaddr(addr)):
        pass
    with pytest.raises(LimitExceeded):
        limits.inbound(Multiaddr(addr))
    assert limits.refused["source: connection rate"] == 2


def test_wide_sources_have_a_rate() -> None:
    limits = make(ip=replace(EVERY_SOURCE, rate_wide=Rate(per_second=1, burst=2)))
    for n in (1, 2):
        with limits.inbound(Multiaddr(f"/ip6/2a00:1:2:{n}00::1/tcp/1")):
            pass
    with pytest.raises(LimitExceeded, match="rate"):
        limits.inbound(Multiaddr("/ip6/2a00:1:2:300::1/tcp/1"))


def test_the_seventeenth_connection_in_a_moment_is_refused_by_default() -> None:
    limits = Limits(clock=Clock())
    for _ in range(16):
        with limits.inbound(public(1)):
            pass
    with pytest.raises(LimitExceeded):
        limits.inbound(public(1))


def test_only_so_many_sources_are_remembered() -> None:
    limits = make(ip=replace(EVERY_SOURCE, rate=Rate(per_second=0.001, burst=1), buckets=2))
    for number in (1, 2, 3):
        with limits.inbound(public(number)):
            pass
    with limits.inbound(public(1)):
        pass  # forgotten, so fresh
    with pytest.raises(LimitExceeded):
        limits.inbound(public(3))


@pytest.mark.parametrize("addr", ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/1"])
def test_loopback_is_exempt_unless_told_otherwise(addr: str) -> None:
    limits = Limits(clock=Clock())
    scopes = [limits.inbound(Multiaddr(addr)) for _ in range(30)]
    for scope in scopes:
        scope.authenticated(PEERS[0])
        scope.__exit__(None, None, None)
    limits = make(ip=replace(EVERY_SOURCE, exempt_loopback=False, half_open=1))
    with limits.inbound(Multiaddr(addr)), pytest.raises(LimitExceeded):
        limits.inbound(Multiaddr(addr))


@pytest.mark.parametrize("addr", ["/memory/1", "/unix/tmp%2fx", f"/ip4/5.5.5.5/tcp/1/p2p/{PEERS[0]}/p2p-circuit"])
def test_addresses_without_an_ip_of_their_own_have_no_rate(addr: str) -> None:
    limits = Limits(clock=Clock())
    for _ in range(50):
        with limits.inbound(Multiaddr(addr), descriptors=0) as scope:
            scope.authenticated(PEERS[0])
    assert idle(limits)


# ----------------------------------------------------------------------------------- allow-lists


def test_an_allowed_prefix_has_a_budget_of_its_own_and_no_rate() -> None:
    ip = replace(EVERY_SOURCE, rate=Rate(per_second=0.1, burst=1))
    limits = make(system=ScopeLimits(connections=1), ip=ip, allowed_prefixes=("5.1.0.0/16",))
    friend = Multiaddr("/ip4/5.1.2.3/tcp/1")
    with connect(limits, PEERS[0]):
        with limits.inbound(friend):
            assert limits.snapshot()["system (allow-listed): connections"] == 1
        with limits.inbound(friend):
            pass
        with pytest.raises(LimitExceeded):
            limits.inbound(public())
    assert idle(limits)


def test_an_allowed_peer_moves_to_the_second_budget_and_gets_its_token_back() -> None:
    ip = replace(EVERY_SOURCE, rate=Rate(per_second=0.1, burst=2))
    limits = make(ip=ip, allowed_peers=frozenset({PEERS[1]}))
    for _ in range(5):
        with limits.inbound(public(4)) as scope:
            scope.authenticated(PEERS[1])
            assert limits.snapshot()["system (allow-listed): connections"] == 1
            assert limits.snapshot()["system: connections"] == 0
    assert idle(limits)


# ----------------------------------------------------------------------------------- gate


def test_the_gate_is_asked_in_order() -> None:
    door = Door()
    limits = Limits(gate=door, clock=Clock())
    with limits.inbound(public()) as scope:
        scope.authenticated(PEERS[0])
    with limits.outbound(public()) as scope:
        scope.authenticated(PEERS[1])
    assert door.asked == [
        (GateStep.ACCEPT, None),
        (GateStep.SECURED_IN, PEERS[0]),
        (GateStep.SECURED_OUT, PEERS[1]),
    ]


@pytest.mark.parametrize("step", [GateStep.ACCEPT, GateStep.SECURED_IN])
def test_a_closed_gate_charges_nothing(step: GateStep) -> None:
    limits = Limits(gate=Door(step), clock=Clock())
    with pytest.raises(RefusedByGate, match=step.value), limits.inbound(public()) as scope:
        scope.authenticated(PEERS[0])
    assert idle(limits)


def test_a_gate_that_raises_says_no_and_is_told_of() -> None:
    class Broken:
        def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:
            raise ValueError("broken")

    told: list[Event] = []
    limits = Limits(gate=Broken(), clock=Clock(), emit=told.append)
    with pytest.raises(RefusedByGate):
        limits.inbound(public())
    assert isinstance(told[0], ServiceFault | HandlerFailed)
    assert idle(limits)


# ----------------------------------------------------------------------------------- streams


def test_a_stream_is_transient_until_its_protocol_is_agreed() -> None:
    limits = make()
    with connect(limits, PEERS[0]) as scope:
        with scope.stream(inbound=True) as stream:
            assert limits.snapshot()["transient: streams in"] == 1
            stream.negotiated("/ipfs/ping/1.0.0")
            held = limits.snapshot()
            assert held["transient: streams in"] == 0
            assert held["protocol /ipfs/ping/1.0.0: streams in"] == held["service ping: streams in"] == 1
            with pytest.raises(LocalProtocolError, match="already"):
                stream.negotiated("/echo")
        with scope.stream(inbound=False):
            assert limits.snapshot()["transient: streams out"] == 1
    assert idle(limits)


def test_streams_that_negotiate_are_bounded() -> None:
    limits = make(transient=ScopeLimits(streams_in=1))
    with connect(limits, PEERS[0]) as scope, scope.stream(inbound=True), pytest.raises(LimitExceeded):
        scope.stream(inbound=True)
    assert idle(limits)


def test_there_are_no_streams_before_authentication() -> None:
    limits = make()
    with limits.inbound(public()) as scope, pytest.raises(LimitExceeded):
        scope.stream(inbound=True)


@pytest.mark.parametrize(
    ("changes", "scope_name"),
    [
        ({"protocol": ScopeLimits(streams_in=1)}, "protocol"),
        ({"protocol_peer": ScopeLimits(streams_in=1)}, "protocol-peer"),
        ({"service": ScopeLimits(streams_in=1), "service_of": {"/x": "unlisted"}}, "service"),
        ({"service_peer": ScopeLimits(streams_in=1), "service_of": {"/x": "unlisted"}}, "service-peer"),
        (
            {
                "services": {"s": ServiceLimits(all=ScopeLimits(), per_peer=ScopeLimits(streams=1))},
                "service_of": {"/x": "s", "/y": "s"},
            },
            "service-peer",
        ),
    ],
)
def test_streams_of_a_protocol_and_service_are_bounded(changes: dict[str, object], scope_name: str) -> None:
    limits = make(**changes)
    other = "/y" if "services" in changes else "/x"
    with connect(limits, PEERS[0]) as scope, scope.stream(inbound=True) as first:
        first.negotiated("/x")
        with scope.stream(inbound=True) as second, pytest.raises(LimitExceeded) as caught:
            second.negotiated(other)
        assert caught.value.scope == scope_name
        with scope.stream(inbound=False) as outbound:
            outbound.negotiated("/z")
    assert idle(limits)


def test_protocols_without_a_stream_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limit_tables, "MAX_PROTOCOLS", 3)
    limits = make(protocol=ScopeLimits(streams_in=1))
    with connect(limits, PEERS[0]) as scope, scope.stream(inbound=True) as busy:
        busy.negotiated("/busy")
        for number in range(10):
            with scope.stream(inbound=True) as stream:
                stream.negotiated(f"/{number}")
        assert len(limits.peers.protocols) <= 3
        with scope.stream(inbound=True) as stream, pytest.raises(LimitExceeded, match="/busy"):
            stream.negotiated("/busy")
    assert idle(limits)


def test_memory_of_a_stream_counts_everywhere() -> None:
    limits = make(stream=ScopeLimits(memory=100), protocol=ScopeLimits(memory=150))
    with connect(limits, PEERS[0]) as scope, scope.stream(inbound=True) as one, scope.stream(inbound=True) as two:
        one.reserve(Resource.MEMORY, 60)
        one.negotiated("/x")
        one.reserve(Resource.MEMORY, 40)
        assert limits.snapshot()["system: memory"] == limits.snapshot()["protocol /x: memory"] == 100
        with pytest.raises(LimitExceeded, match="stream"):
            one.reserve(Resource.MEMORY, 1)
        two.negotiated("/x")
        with pytest.raises(LimitExceeded, match="protocol"):
            two.reserve(Resource.MEMORY, 51)
        with pytest.raises(LocalProtocolError):
            two.release(Resource.MEMORY, 1)
        with pytest.raises(LocalProtocolError, match="memory only"):
            two.reserve(Resource.FD, 1)
        with pytest.raises(LocalProtocolError):
            two.authenticated(PEERS[0])
        one.release(Resource.MEMORY, 100)
    assert idle(limits)


def test_a_stream_that_leaves_memory_behind_leaks() -> None:
    limits = make()
    with connect(limits, PEERS[0]) as scope, scope.stream(inbound=True) as stream:
        stream.negotiated("/x")
        stream.reserve(Resource.MEMORY, 7)
    assert not any(limits.snapshot().values())
    assert limits.leaked == 7


def test_a_stream_of_an_evicted_connection_leaks_nothing() -> None:
    limits = make()
    with connect(limits, PEERS[0]) as scope, scope.stream(inbound=True) as stream:
        stream.reserve(Resource.MEMORY, 7)
        scope.evict("test")
        with pytest.raises(LimitExceeded):
            scope.stream(inbound=True)
    assert idle(limits)


# ----------------------------------------------------------------------------------- configuration


def test_defaults_are_those_of_the_design() -> None:
    config = LimitsConfig()
    assert (config.system.connections_in, config.system.connections) == (256, 384)
    assert (config.system.memory, config.system.descriptors) == (512 * MIB, 1024)
    assert config.services["ping"].per_peer.streams_in == 2
    assert config.services["mcp"].per_peer.memory == 128 * MIB
    assert config.service_of["/ipfs/id/push/1.0.0"] == "identify"


def test_scaled_adds_for_each_gibibyte_and_shrinks_memory_below() -> None:
    big = LimitsConfig.scaled((512 + 2048) * MIB, 4096)
    assert big.system.connections_in == 256 + 2048
    assert big.system.streams == 2048 + 4096
    assert (big.system.memory, big.system.descriptors) == (2560 * MIB, 4096)
    assert (big.transient.connections, big.transient.memory) == (128 + 64, 32 * MIB)
    assert (big.peer.streams_in, big.peer.memory, big.peer.connections) == (512, 192 * MIB, 12)
    assert (big.protocol.memory, big.protocol_peer.memory) == (192 * MIB, 16 * MIB)
    assert big.services["ping"].all.memory == 192 * MIB
    small = LimitsConfig.scaled(64 * MIB, 256)
    assert (small.system.memory, small.peer.memory, small.system.connections_in) == (64 * MIB, 8 * MIB, 256)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: ScopeLimits(streams=-1),
        lambda: Rate(per_second=0, burst=1),
        lambda: Rate(per_second=float("nan"), burst=1),
        lambda: ManagerLimits(low=3, high=2),
        lambda: LimitsConfig(connections_per_peer=0),
        lambda: LimitsConfig(event_queue=0),
        lambda: LimitsConfig(allowed_prefixes=("10.0.0.1/8",)),
        lambda: LimitsConfig.scaled(1, 1024),
    ],
)
def test_contradictory_configurations_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigError):
        wrong()  # type: ignore[operator]


def test_inbound_connections_that_came_to_nothing_are_counted_by_reason() -> None:
    limits = Limits(clock=Clock())
    too_slow = HandshakeError("no connection after 10 s of handshake")
    too_slow.__cause__ = trio.TooSlowError()
    for error in (
        too_slow,
        HandshakeError("broken"),
        BadSignature("of somebody else"),
        LimitExceeded("too much", scope="connection", kind="preauth_bytes"),
        LimitExceeded("too many", scope="source", kind="authenticated connections"),
    ):
        limits.count_failure(error)
    assert limits.failed == {
        "handshake_timeout": 1,
        "handshake_error": 1,
        "bad_signature": 1,
        "preauth_bytes": 1,
        "authenticated_connections": 1,
    }
