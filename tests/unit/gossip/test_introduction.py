from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
import trio.testing

from talos.addr import parse
from talos.errors import DialError
from talos.gossip.driver_config import DriverConfig
from talos.gossip.event import Candidate
from talos.gossip.introduction import Introductions
from talos.host.block import background
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiaddr import Multiaddr

    from talos.abc import Event, Host

PUBLIC, PRIVATE = parse("/ip4/8.8.8.8/tcp/4001"), parse("/ip4/192.168.1.7/tcp/4001")


def peer() -> PeerId:
    return PeerId.from_key(PrivateKey.generate().public_key)


class Dials:
    """A host that only notes whom it is to dial, and how many at once."""

    def __init__(self) -> None:
        self.peer_id = peer()
        self.dialled: list[tuple[PeerId, tuple[Multiaddr, ...]]] = []
        self.now = self.most = 0
        self.events: list[Event] = []

    async def connect(self, to: PeerId, addrs: Sequence[Multiaddr] = ()) -> None:
        self.dialled.append((to, tuple(addrs)))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await trio.sleep(100 if not addrs else 1)
            raise DialError(f"nobody at {to}")
        finally:
            self.now -= 1

    def emit(self, event: Event) -> None:
        self.events.append(event)


def introductions(host: Dials, nursery: trio.Nursery, config: DriverConfig | None = None) -> Introductions:
    return Introductions(cast("Host", host), config or DriverConfig(), nursery)


def candidate(*addrs: Multiaddr) -> Candidate:
    return Candidate(peer(), tuple(addr.to_bytes() for addr in addrs))


async def test_sixteen_of_ten_thousand_are_dialled(autojump_clock: trio.testing.MockClock) -> None:
    host = Dials()
    async with background() as nursery:
        known = introductions(host, nursery)
        known.meet([Candidate(peer()) for _ in range(100)] * 100, public_only=False)
        await trio.testing.wait_all_tasks_blocked()
        assert (len(host.dialled), host.most, known.dialled) == (16, 16, 16)
        await trio.sleep(20)  # their time is over
        assert host.now == 0
        known.meet([candidate(PUBLIC)], public_only=False)
        await trio.sleep(2)
    assert len(host.dialled) == 17
    assert not host.events, "a peer that cannot be reached is nobody's fault"


async def test_addresses_are_hints(autojump_clock: trio.testing.MockClock) -> None:
    """Of what a peer on the public network recommends, only public ones; ourselves and malformed ones never."""
    host = Dials()
    async with background() as nursery:
        known = introductions(host, nursery, DriverConfig(dial_addrs=2))
        both = candidate(PRIVATE, PUBLIC)
        known.meet(
            [
                both,
                both,
                candidate(PRIVATE),
                Candidate(host.peer_id, (PUBLIC.to_bytes(),)),
                Candidate(peer(), (b"\xff\xff\xff",)),
            ],
            public_only=True,
        )
        await trio.sleep(5)
        assert host.dialled == [(both.peer, (PUBLIC,))]
        known.meet([both, candidate(PRIVATE, PUBLIC, PUBLIC)], public_only=False)
        await trio.sleep(5)
        assert [addrs for _, addrs in host.dialled[1:]] == [(PRIVATE, PUBLIC)] * 2
