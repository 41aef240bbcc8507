"""When we believe where others see us."""

from __future__ import annotations

import pytest
from multiaddr import Multiaddr

from talos.identify.observed import ObservedAddrs
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

US = Multiaddr("/ip4/9.9.9.9/tcp/4001")
RELAY = PeerId.from_key(PrivateKey.from_seed(bytes(32)).public_key)


def reporter(group: int, host: int = 1) -> Multiaddr:
    return Multiaddr(f"/ip4/5.{group}.0.{host}/tcp/1")


def test_four_groups_have_to_agree() -> None:
    observed = ObservedAddrs(groups_needed=4, max_addrs=8)
    assert not any(observed.report(US, reporter(1, host)) for host in range(1, 50))
    assert [observed.report(US, reporter(group)) for group in (2, 3, 4, 5)] == [False, False, True, False]
    assert observed.candidates == (US,)


@pytest.mark.parametrize(
    "seen", ["/ip4/127.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/1", "/memory/1", f"/ip4/5.5.5.5/tcp/1/p2p/{RELAY}/p2p-circuit"]
)
def test_only_public_addresses_count(seen: str) -> None:
    observed = ObservedAddrs(groups_needed=1, max_addrs=8)
    assert not observed.report(Multiaddr(seen), reporter(1))


@pytest.mark.parametrize("who", ["/memory/1", f"/ip4/5.5.5.5/tcp/1/p2p/{RELAY}/p2p-circuit"])
def test_only_reporters_with_an_ip_count(who: str) -> None:
    observed = ObservedAddrs(groups_needed=1, max_addrs=8)
    assert not observed.report(US, Multiaddr(who))


def test_the_addresses_are_bounded() -> None:
    observed = ObservedAddrs(groups_needed=2, max_addrs=2)
    for port in (1, 2, 3):
        observed.report(Multiaddr(f"/ip4/9.9.9.9/tcp/{port}"), reporter(1))
    assert not observed.report(Multiaddr("/ip4/9.9.9.9/tcp/1"), reporter(2))
    assert observed.report(Multiaddr("/ip4/9.9.9.9/tcp/3"), reporter(2))
