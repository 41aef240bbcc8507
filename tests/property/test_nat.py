"""Relays, hole punching and AutoNAT: whatever comes, in whatever order."""

from __future__ import annotations

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from fuzz import nat
from talos.addr import parse
from talos.autonat.machine import Reachabilities
from talos.dcutr.machine import HolePunchMachine, Punch, Send, Side
from talos.dcutr.wire import decode, encode
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.relay.machine import RelayLimits, RelayMachine
from talos.relay.wire import (
    HopMessage,
    HopType,
    Limit,
    Reservation,
    Status,
    decode_hop,
    encode_hop,
)
from talos.wire.length_prefix import LengthPrefixDecoder, frame

PEERS = [PeerId.from_key(PrivateKey.generate().public_key) for _ in range(6)]
peers = st.sampled_from(PEERS)
ips = st.sampled_from([None, *(IPv4Address(f"5.5.{n}.1") for n in range(3)), IPv4Address("7.7.7.7")])
LIMITS = RelayLimits(
    reservations=3,
    reservations_per_ip=1,
    reservations_per_group=2,
    reservation_seconds=50,
    circuits_per_peer=2,
    circuits=3,
    requests_per_peer=1000,
    requests_per_ip=1000,
)


class Relaying(RuleBasedStateMachine):
    """A relay beside the plainest model of one."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = RelayMachine(LIMITS)
        self.now = 0.0
        self.until: dict[PeerId, float] = {}
        self.open: list[tuple[PeerId, PeerId]] = []

    @rule(seconds=st.floats(0, 60))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(peer=peers, ip=ips, limited=st.booleans())
    def reserve(self, peer: PeerId, ip: IPv4Address | None, *, limited: bool) -> None:
        status = self.relay.reserve(peer, ip, limited=limited, now=self.now)
        if status is Status.OK:
            assert not limited
            self.until[peer] = self.now + 50

    @rule(source=peers, called=peers, ip=ips)
    def connect(self, source: PeerId, called: PeerId, ip: IPv4Address | None) -> None:
        status = self.relay.connect(source, called, ip, limited=False, now=self.now)
        if status is Status.OK:
            assert source != called
            assert self.now < self.until[called]
            self.open.append((source, called))

    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        if self.open:
            self.relay.ended(*self.open.pop(data.draw(st.integers(0, len(self.open) - 1))))

    @rule(peer=peers)
    def leave(self, peer: PeerId) -> None:
        self.relay.disconnected(peer)
        self.until.pop(peer, None)

    @invariant()
    def limits_hold(self) -> None:
        assert self.relay.reservations <= LIMITS.reservations
        assert self.relay.circuits == len(self.open) <= LIMITS.circuits
        for peer in PEERS:
            assert sum(peer in ends for ends in self.open) <= LIMITS.circuits_per_peer
            assert self.relay.holds(peer, self.now) == (self.now < self.until.get(peer, 0.0))


TestRelaying = Relaying.TestCase

messages = st.builds(
    HopMessage,
    type=st.sampled_from(HopType),
    peer=st.none() | peers,
    reservation=st.none()
    | st.builds(
        Reservation, st.integers(0, 1 << 62), st.lists(st.binary(max_size=40), max_size=16).map(tuple), st.none()
    ),
    limit=st.none() | st.builds(Limit, st.integers(0, 1 << 31), st.integers(0, 1 << 62)),
    status=st.integers(0, 500),
)


@given(st.lists(messages, max_size=4), st.data())
def test_messages_in_any_pieces(sent: list[HopMessage], data: st.DataObject) -> None:
    stream = b"".join(frame(encode_hop(message)) for message in sent)
    decoder = LengthPrefixDecoder(4096)
    got: list[HopMessage] = []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        got += [decode_hop(each) for each in decoder.receive_data(stream[:size])]
        stream = stream[size:]
    assert got == sent


@given(st.binary(max_size=200))
def test_anything_is_a_message_or_refused(data: bytes) -> None:
    nat.target(data)


@given(st.floats(0, 10), st.lists(st.integers(1, 65_535), min_size=1, max_size=30))
def test_hole_punching_meets(rtt: float, ports: list[int]) -> None:
    """B's SYN takes half a round trip, which is how long B waits."""
    addrs = [parse(f"/ip4/1.2.3.4/tcp/{port}") for port in ports]
    a, b = HolePunchMachine(Side.A, addrs), HolePunchMachine(Side.B, addrs)
    (answer,) = a.receive(decode(encode(b.begin(0.0).message)), rtt / 2)
    assert isinstance(answer, Send)
    sync, punch = b.receive(decode(encode(answer.message)), rtt)
    assert isinstance(sync, Send)
    assert isinstance(punch, Punch)
    assert abs(rtt + punch.seconds - (rtt + rtt / 2)) < 1e-9
    assert 0 < len(punch.addrs) <= 16


@given(st.lists(st.tuples(peers, st.booleans()), max_size=40), st.integers(1, 4))
def test_an_address_is_confirmed_by_the_majority_only(answers: list[tuple[PeerId, bool]], needed: int) -> None:
    addr = parse("/ip4/1.2.3.4/tcp/1")
    known = Reachabilities(needed)
    known.watch([addr])
    latest: dict[PeerId, bool] = {}
    for server, reached in answers:
        latest.pop(server, None)
        latest[server] = reached
        latest = dict(list(latest.items())[-2 * needed :])
        if known.answered(addr, server, reached=reached, servers=len(PEERS)):
            votes = list(latest.values())
            assert votes.count(reached) >= needed
            assert votes.count(reached) > votes.count(not reached)
