"""The peer store and its bounds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from multiaddr import Multiaddr

from talos.errors import LimitExceeded
from talos.host.limits import PeerstoreLimits
from talos.host.peerstore import MAX_AGENT_CHARACTERS, MemoryPeerstore
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

A, B, C, D = (PeerId.from_key(PrivateKey.from_seed(bytes([n]) * 32).public_key) for n in range(4))


def addr(number: int) -> Multiaddr:
    return Multiaddr(f"/ip4/5.6.7.8/tcp/{number}")


def addrs(*numbers: int) -> list[Multiaddr]:
    return [addr(number) for number in numbers]


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def store(clock: Clock | None = None, **limits: int) -> MemoryPeerstore:
    return MemoryPeerstore(PeerstoreLimits(**limits), clock=clock or Clock())


def test_nothing_is_known_of_strangers() -> None:
    empty = store()
    assert (empty.addrs(A), empty.protocols(A), empty.agent_version(A)) == ((), frozenset(), "")
    assert empty.signed_record(A) is None
    assert empty.record_seq(A) is None
    assert list(empty.peers()) == []
    empty.remove_addr(A, addr(1))
    empty.wrong_peer(A, addr(1), 0)
    empty.disconnected(A)
    empty.unpin(A)
    assert list(empty.peers()) == []


def test_addresses_are_kept_without_the_peer_and_once() -> None:
    peers = store()
    peers.add_addrs(A, [addr(1), Multiaddr(f"/ip4/5.6.7.8/tcp/1/p2p/{A}"), Multiaddr(f"/ip4/5.6.7.8/tcp/2/p2p/{B}")])
    assert peers.addrs(A) == (addr(1),)


def test_a_peer_that_is_not_connected_has_so_many_addresses() -> None:
    peers = store(addrs=3)
    peers.add_addrs(A, addrs(*range(1, 10)))
    assert peers.addrs(A) == tuple(addrs(1, 2, 3))
    peers.add_addrs(A, addrs(9))
    assert peers.addrs(A) == tuple(addrs(2, 3, 9))


def test_a_connected_peer_has_more_and_keeps_some() -> None:
    peers = store(addrs=2, connected_addrs=5, kept_addrs=3)
    peers.connected(A)
    peers.add_addrs(A, addrs(*range(1, 10)))
    assert len(peers.addrs(A)) == 5
    peers.disconnected(A)
    assert peers.addrs(A) == tuple(addrs(3, 4, 5))


def test_addresses_expire_but_not_while_connected() -> None:
    clock = Clock()
    peers = store(clock)
    peers.add_addrs(A, addrs(1))
    peers.add_addrs(B, addrs(2))
    peers.connected(B)
    clock.now = 3600.0
    assert peers.addrs(A) == ()
    assert peers.addrs(B) == (addr(2),)
    peers.expire(clock.now)
    assert list(peers.peers()) == [B]
    peers.disconnected(B)
    clock.now += 86_399
    assert peers.addrs(B) == (addr(2),)
    clock.now += 1
    peers.expire(clock.now)
    assert list(peers.peers()) == []


def test_an_address_of_somebody_else_is_not_learnt_again_for_an_hour() -> None:
    clock = Clock()
    peers = store(clock)
    peers.add_addrs(A, addrs(1, 2))
    peers.wrong_peer(A, addr(1), clock.now)
    peers.add_addrs(A, addrs(1))
    assert peers.addrs(A) == (addr(2),)
    clock.now = 3600.0
    peers.add_addrs(A, addrs(1))
    assert peers.addrs(A) == (addr(1),)


def test_wrong_addresses_are_bounded() -> None:
    peers = store(addrs=2)
    peers.add_addrs(A, addrs(1))
    for number in range(1, 10):
        peers.wrong_peer(A, addr(number), 0.0)
    peers.add_addrs(A, addrs(1, 9))
    assert peers.addrs(A) == (addr(1),)


def test_update_takes_over_what_is_said() -> None:
    peers = store(protocols=2)
    peers.add_addrs(A, addrs(1))
    peers.update(A, addrs=addrs(2), protocols=["/a", "/b", "/c"], agent_version="x" * 1000, record=(b"raw", 5))
    assert peers.addrs(A) == (addr(2),)
    assert peers.protocols(A) == {"/a", "/b"}
    assert peers.agent_version(A) == "x" * MAX_AGENT_CHARACTERS
    assert (peers.signed_record(A), peers.record_seq(A)) == (b"raw", 5)
    peers.update(A)
    assert peers.addrs(A) == (addr(2),)
    peers.remove_addr(A, addr(2))
    assert peers.addrs(A) == ()


def test_a_record_that_is_too_large_is_refused() -> None:
    peers = store(record_bytes=3)
    with pytest.raises(LimitExceeded):
        peers.update(A, record=(b"four", 1))
    assert list(peers.peers()) == []


def test_strangers_leave_before_those_we_met_and_contacts_never() -> None:
    peers = store(peers=2)
    peers.pin(D)
    peers.connected(A)
    peers.add_addrs(A, addrs(1))
    peers.disconnected(A)
    peers.add_addrs(B, addrs(1))
    peers.add_addrs(C, addrs(1))
    assert set(peers.peers()) == {A, C, D}
    peers.connected(B)
    peers.add_addrs(B, addrs(1))
    assert set(peers.peers()) == {A, B, C, D}
    peers.disconnected(B)
    assert set(peers.peers()) == {A, B, D}
    peers.add_addrs(C, addrs(1))
    assert set(peers.peers()) == {B, C, D}
    peers.unpin(D)
    assert set(peers.peers()) == {B, D}
    peers.add_addrs(A, addrs(1))
    assert set(peers.peers()) == {A, D}


def test_a_visitor_that_no_address_leads_to_is_forgotten_when_it_leaves() -> None:
    peers = store()
    for visitor in (A, B, C):
        peers.connected(visitor)
        peers.update(visitor, protocols=["/echo"], agent_version="one of many", record=(b"signed", 1))
    peers.add_addrs(B, addrs(1))
    peers.pin(C)
    for visitor in (A, B, C):
        peers.disconnected(visitor)
    assert set(peers.peers()) == {B, C}


def test_the_last_one_to_come_is_not_the_one_to_go() -> None:
    peers = store(peers=0)
    peers.add_addrs(A, addrs(1))
    assert peers.addrs(A) == (addr(1),)
    peers.add_addrs(B, addrs(1))
    assert list(peers.peers()) == [B]


def test_a_flood_of_strangers_is_bounded() -> None:
    peers = store(peers=8)
    keys = [PeerId(b"\x12\x20" + number.to_bytes(32, "big")) for number in range(1000)]
    for peer in keys:
        peers.add_addrs(peer, addrs(1))
    assert list(peers.peers()) == keys[-8:]
