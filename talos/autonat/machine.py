"""What AutoNAT decides, on either side, without IO or a clock.

Asking (libp2p autonat; libp2p.md 27):

- An address is confirmed, or refuted, once `agreeing` servers say the same of it; where fewer servers are known, once
  all of them do. An answer replaces the one that the same server gave before.
- We are public while an address is confirmed, private when all are refuted, else it is not known.

Serving:

- One address is dialled: the first that is an IP address of a kind that we listen on ourselves, and public.
- At another IP address than the asker's it is dialled only for 30 to 100 kB, so that nobody is made to send more than
  they paid for.
- Requests are rated in all, by peer, and those that cost data once more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from talos.addr import decode_or_skip, ip_of, is_public, is_relayed, names_of, split_peer
from talos.errors import RemoteProtocolError
from talos.host.rate import KeyedRate

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from multiaddr import Multiaddr

    from talos.addr import IP
    from talos.identity.peer_id import PeerId

__all__ = ["Choice", "Rates", "Reachabilities", "choose"]

MAX_RATED_PEERS = 4096


@dataclass(slots=True)
class _Address:
    answers: dict[PeerId, bool] = field(default_factory=dict)
    confirmed: bool | None = None


class Reachabilities:
    """What servers said of our addresses."""

    def __init__(self, agreeing: int) -> None:
        self._agreeing = agreeing
        self._addrs: dict[Multiaddr, _Address] = {}

    @property
    def confirmed(self) -> tuple[Multiaddr, ...]:
        """Addresses that others can dial."""
        return tuple(addr for addr, found in self._addrs.items() if found.confirmed)

    @property
    def public(self) -> bool | None:
        """Of the whole node; None: not known."""
        verdicts = [found.confirmed for found in self._addrs.values()]
        if any(verdicts):
            return True
        return False if verdicts and None not in verdicts else None

    def watch(self, addrs: Collection[Multiaddr]) -> list[Multiaddr]:
        """From now on it is about these; those that were confirmed and are no longer among them."""
        gone = [addr for addr in self.confirmed if addr not in addrs]
        self._addrs = {addr: self._addrs.get(addr, _Address()) for addr in addrs}
        return gone

    def settled(self, addr: Multiaddr) -> bool:
        """Whether it is known of `addr`."""
        return self._addrs[addr].confirmed is not None

    def answered(self, addr: Multiaddr, server: PeerId, *, reached: bool, servers: int) -> bool:
        """A server's answer, of so many that there are; whether what is known of `addr` changed."""
        found = self._addrs.get(addr)
        if found is None:
            return False
        found.answers.pop(server, None)
        found.answers[server] = reached
        while len(found.answers) > 2 * self._agreeing:
            del found.answers[next(iter(found.answers))]
        tally = Counter(found.answers.values())
        needed = max(1, min(self._agreeing, servers))
        if tally[reached] < needed or tally[reached] <= tally[not reached] or found.confirmed is reached:
            return False
        found.confirmed = reached
        return True


@dataclass(frozen=True, slots=True)
class Choice:
    """What a server dials."""

    index: int
    addr: Multiaddr
    elsewhere: bool
    """At another IP address than the asker's: data is asked for first."""


def choose(
    addrs: Sequence[bytes], seen: IP | None, *, kinds: Collection[tuple[str, ...]], allow_private: bool = False
) -> Choice | None:
    """The first of `addrs` that may be dialled for who is seen at `seen`; None when none may."""
    for index, raw in enumerate(addrs):
        try:
            addr = decode_or_skip(raw)
        except RemoteProtocolError:
            continue
        addr = None if addr is None else split_peer(addr)[0]
        if addr is None or is_relayed(addr) or names_of(addr) not in kinds:
            continue
        if not (allow_private or (ip_of(addr) is not None and is_public(addr))):
            continue
        return Choice(index, addr, elsewhere=ip_of(addr) != seen)
    return None


class Rates:
    """Who may ask now."""

    def __init__(self, *, total: int, per_peer: int, with_data: int, at_once: int, seconds: float = 60.0) -> None:
        self._total: KeyedRate[None] = KeyedRate(total, seconds, max_keys=1)
        self._per_peer: KeyedRate[PeerId] = KeyedRate(per_peer, seconds, max_keys=MAX_RATED_PEERS)
        self._with_data: KeyedRate[None] = KeyedRate(with_data, seconds, max_keys=1)
        self._at_once = at_once
        self._running: Counter[PeerId] = Counter()

    def enter(self, peer: PeerId, now: float) -> bool:
        """Whether a request of `peer` is taken; then `leave` follows."""
        if self._running[peer] >= self._at_once or not self._per_peer.take(peer, now):
            return False
        if not self._total.take(None, now):
            return False
        self._running[peer] += 1
        return True

    def leave(self, peer: PeerId) -> None:
        """The request is answered."""
        self._running[peer] -= 1
        if not self._running[peer]:
            del self._running[peer]

    def with_data(self, now: float) -> bool:
        """Whether a request that costs data is taken."""
        return self._with_data.take(None, now)
