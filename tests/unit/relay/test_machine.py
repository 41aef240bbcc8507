"""The books of a relay: every limit is reached."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from talos.errors import ConfigError, LocalProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.relay.machine import RelayLimits, RelayMachine
from talos.relay.wire import Limit, Status

PEERS = [PeerId.from_key(PrivateKey.generate().public_key) for _ in range(12)]
A, B, C, D = PEERS[:4]
HERE = ip_address("198.51.100.7")


def machine(**limits: int) -> RelayMachine:
    return RelayMachine(RelayLimits(**limits))


def test_a_reservation_stands_until_its_time_is_over() -> None:
    m = machine(reservation_seconds=60)
    assert m.next_deadline() is None
    assert m.reserve(A, HERE, limited=False, now=0.0) is Status.OK
    assert m.holds(A, 59.9)
    assert not m.holds(A, 60.0)
    assert m.next_deadline() == 60.0
    assert m.expire(59.0) == []
    assert m.expire(60.0) == [A]
    assert m.reservations == 0


def test_a_second_reservation_takes_the_place_of_the_first() -> None:
    m = machine(reservations=1, reservations_per_ip=1, reservations_per_group=1)
    assert m.reserve(A, HERE, limited=False, now=0.0) is Status.OK
    assert m.reserve(A, HERE, limited=False, now=10.0) is Status.OK
    assert m.reservations == 1
    assert m.next_deadline() == 3610.0
    assert m.reserve(B, None, limited=False, now=10.0) is Status.RESERVATION_REFUSED
    m.disconnected(A)
    assert m.reserve(B, HERE, limited=False, now=10.0) is Status.OK


def test_reservations_are_counted_by_address_and_by_group() -> None:
    m = machine(reservations_per_ip=2, reservations_per_group=3)
    assert [m.reserve(peer, HERE, limited=False, now=0.0) for peer in PEERS[:3]] == [
        Status.OK,
        Status.OK,
        Status.RESERVATION_REFUSED,
    ]
    elsewhere = [ip_address(f"198.51.{n}.1") for n in range(2)]
    assert m.reserve(PEERS[3], elsewhere[0], limited=False, now=0.0) is Status.OK
    assert m.reserve(PEERS[4], elsewhere[1], limited=False, now=0.0) is Status.RESERVATION_REFUSED
    assert m.reserve(PEERS[4], ip_address("2001:db8::1"), limited=False, now=0.0) is Status.OK


def test_requests_are_rated_by_peer_and_by_address() -> None:
    m = machine(requests_per_peer=2, requests_per_ip=3)
    assert [m.reserve(A, HERE, limited=False, now=0.0) for _ in range(3)][-1] is Status.RESERVATION_REFUSED
    assert m.reserve(B, HERE, limited=False, now=0.0) is Status.OK
    assert m.connect(C, A, HERE, limited=False, now=0.0) is Status.RESOURCE_LIMIT_EXCEEDED
    assert m.connect(C, A, HERE, limited=False, now=60.0) is Status.OK


def test_a_circuit_needs_a_reservation_of_who_is_called() -> None:
    m = machine()
    assert m.connect(A, B, None, limited=False, now=0.0) is Status.NO_RESERVATION
    m.reserve(B, None, limited=False, now=0.0)
    assert m.connect(A, B, None, limited=False, now=0.0) is Status.OK
    m.disconnected(B)
    assert m.connect(A, B, None, limited=False, now=0.0) is Status.NO_RESERVATION


def test_nothing_leads_to_oneself_and_nothing_is_relayed_twice() -> None:
    m = machine()
    m.reserve(A, None, limited=False, now=0.0)
    assert m.connect(A, A, None, limited=False, now=0.0) is Status.PERMISSION_DENIED
    assert m.connect(B, A, None, limited=True, now=0.0) is Status.PERMISSION_DENIED
    assert m.reserve(B, None, limited=True, now=0.0) is Status.PERMISSION_DENIED


@pytest.mark.parametrize("limits", [{"circuits_per_peer": 2}, {"circuits": 2}])
def test_circuits_are_counted_at_both_ends_and_in_all(limits: dict[str, int]) -> None:
    m = machine(**limits)
    m.reserve(B, None, limited=False, now=0.0)
    assert [m.connect(peer, B, None, limited=False, now=0.0) for peer in (A, C, D)] == [
        Status.OK,
        Status.OK,
        Status.RESOURCE_LIMIT_EXCEEDED,
    ]
    m.ended(A, B)
    assert m.circuits == 1
    assert m.connect(D, B, None, limited=False, now=0.0) is Status.OK
    m.ended(C, B)
    m.ended(D, B)
    with pytest.raises(LocalProtocolError):
        m.ended(D, B)


def test_what_peers_are_told() -> None:
    assert RelayLimits().limit == Limit(120, 131_072)
    assert RelayLimits(circuit_seconds=0, circuit_bytes=0).limit is None
    for wrong in ({"reservations": 0}, {"circuits": 0}, {"circuit_bytes": -1}, {"requests_per_ip": 0}):
        with pytest.raises(ConfigError):
            RelayLimits(**wrong)
