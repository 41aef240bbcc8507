"""The iterative lookup (kad-dht, lookups), over any way to send a request.

A candidate is heard of, asked, and has answered or failed; who failed is dropped. Candidates are held by their
distance to the target, so that the nearest are the first of a sorted list.

| purpose | paths | ends when |
|---|---|---|
| FIND_PEER | 1 | the target was found with addresses, or the k nearest have answered |
| GET (values, providers) | disjoint | the quorum is full, or on each path the β nearest have answered |
| STORE (put, provide) | disjoint | as GET, and then the k nearest of all paths together have answered |
| REFRESH | 1 | the β nearest have answered |

Three liars nearest to a peer would hide it if its search ended with them; so it goes on to k, which costs requests only
where nobody knows the peer.

On a single path α requests are under way at once. On disjoint paths (S/Kademlia) it is one each: the seeds are dealt
out, what a peer tells counts on its own path, and a peer is asked on one path only, so that a liar spoils one.

Answers are hearsay. Ourselves, the asked peer, peers without addresses, and what is past the limits of an answer are
not taken. Distances are always computed here. A peer whose suggestions fail one after the other is not believed: it no
longer counts as having answered, and who was known only through it is not asked.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from enum import Enum
from heapq import nsmallest
from typing import TYPE_CHECKING

from talos.dht.key import common_prefix, kad_id
from talos.dht.peer import PeerInfo
from talos.errors import ConfigError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from multiaddr import Multiaddr

    from talos.identity.peer_id import PeerId

__all__ = ["Lookup", "LookupConfig", "Purpose", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupConfig:
    """How wide and how long a lookup searches. It knows at most `max_requests` * `max_peers` peers and the seeds."""

    k: int = 20
    """Replication: how many peers hold a record."""
    alpha: int = 10
    """Requests under way at once."""
    beta: int = 3
    """So many of the nearest have answered when a lookup for reading ends."""
    disjoint_paths: int = 10
    """Paths of GET and STORE; 1 for none."""
    max_peers: int = 20
    """Taken from one answer."""
    max_addrs: int = 16
    """Taken of one peer."""
    max_requests: int = 256
    """In all; then the lookup ends with what it has."""
    max_false: int = 5
    """Suggestions of one peer that fail, for each that answered and one more, before it is no longer believed."""

    def __post_init__(self) -> None:
        if min(self.k, self.alpha, self.beta, self.disjoint_paths, self.max_peers, self.max_addrs) < 1:
            raise ConfigError("a lookup needs k, alpha, beta, paths, peers and addresses of at least 1")
        if self.max_requests < 1 or self.max_false < 1:
            raise ConfigError("a lookup needs a request and a failure at least")
        if self.beta > self.k:
            raise ConfigError("beta is at most k")


class Purpose(Enum):
    """What a lookup is for: decides its paths and its end."""

    FIND_PEER = "find-peer"
    GET = "get"
    STORE = "store"
    REFRESH = "refresh"


@dataclass(slots=True)
class Step:
    """What one request has brought: a line of a trace."""

    path: int
    hop: int
    """1 for those that the lookup began with, else one more than who told of the peer."""
    peer: PeerId
    shared_bits: int
    """How much of the peer's kad id is that of the target."""
    answered: bool
    offered: int
    """Peers in the answer."""
    taken: int
    """Those of them that are new and usable."""


_HEARD, _WAITING, _ANSWERED, _FAILED = range(4)


class _Candidate:
    __slots__ = ("addrs", "bad", "good", "hop", "path", "peer", "source", "state", "told_twice")

    def __init__(self, peer: PeerId, addrs: tuple[Multiaddr, ...], source: _Candidate | None) -> None:
        self.peer = peer
        self.addrs = addrs
        self.source = source
        self.hop: int = 1 if source is None else source.hop + 1
        self.state = _HEARD
        self.path: _Path | None = None
        self.told_twice = source is None
        self.good = self.bad = 0


class _Path:
    __slots__ = ("need", "number", "order", "waiting", "width")

    def __init__(self, number: int, order: list[int], *, need: int, width: int) -> None:
        self.number = number
        self.order = order
        """Distances of candidates that may be asked here or were, and have not failed; nearest first."""
        self.need = need
        """So many of the nearest have to answer."""
        self.width = width
        """Requests at once."""
        self.waiting = 0

    def add(self, distance: int) -> None:
        at = bisect_left(self.order, distance)
        if at == len(self.order) or self.order[at] != distance:
            self.order.insert(at, distance)

    def drop(self, distance: int) -> None:
        at = bisect_left(self.order, distance)
        if at < len(self.order) and self.order[at] == distance:
            del self.order[at]


class Lookup:
    """One search for the peers nearest to `key`.

    Send each of `to_ask()` a request with `key` and tell what came by `answered` or `failed` (also for a timeout: the
    clock is the driver's), until `done`. Requests that are under way then may be given up; telling of them is no error.
    """

    def __init__(
        self,
        key: bytes,
        seeds: Iterable[PeerId],
        *,
        own: PeerId,
        purpose: Purpose = Purpose.REFRESH,
        quorum: int = 0,
        config: LookupConfig | None = None,
    ) -> None:
        self.key = key
        self.target = kad_id(key)
        self.purpose = purpose
        self.done = False
        self.found: PeerInfo | None = None
        """FIND_PEER: the target and where it is said to be."""
        self.asked = 0
        """Requests until now."""
        self._config = config = config or LookupConfig()
        self._own_raw = own.raw
        self._quorum = quorum
        self._hits = 0
        self._found_hop = 0
        self._refuted: set[Multiaddr] = set()
        target = self.target
        self._known = {kad_id(peer.raw) ^ target: _Candidate(peer, (), None) for peer in seeds if peer.raw != own.raw}
        self._to_k = purpose in (Purpose.STORE, Purpose.FIND_PEER)
        """Whether the k nearest of all paths are still to be asked."""
        self._paths = self._dealt(sorted(self._known), config)
        self._advance()

    # ------------------------------------------------------------------------------------ the search

    def to_ask(self) -> list[PeerId]:
        """Peers to send a request now, each once in a lookup. None: wait for an answer, unless it is `done`."""
        peers: list[PeerId] = []
        if self.done:
            return peers
        for path in self._paths:
            if path.waiting < path.width:
                self._fill(path, peers)
        return peers

    def answered(self, peer: PeerId, closer: Sequence[PeerInfo], hits: int = 0) -> Step:
        """Takes an answer with its closer peers, and how many valid records or new providers it brought."""
        distance, candidate, path = self._awaited(peer)
        candidate.state = _ANSWERED
        if candidate.source is not None:
            candidate.source.good += 1
        if distance == 0 and self.purpose is Purpose.FIND_PEER:
            self._find(PeerInfo(peer, candidate.addrs), candidate.hop)
        taken = self._take(candidate, path, closer)
        self._hits += hits
        if 0 < self._quorum <= self._hits:
            self.done = True
        self._advance()
        return self._step(distance, candidate, path, len(closer), taken)

    def failed(self, peer: PeerId) -> Step:
        """Drops a peer that did not answer, could not be reached, or broke the protocol."""
        distance, candidate, path = self._awaited(peer)
        candidate.state = _FAILED
        path.drop(distance)
        source = candidate.source
        if source is not None:
            source.bad += 1
            if source.state == _ANSWERED and source.bad >= self._config.max_false * (source.good + 1):
                self._disbelieve(source)
        self._advance()
        return self._step(distance, candidate, path, 0, 0)

    def finish(self) -> None:
        """The caller has what it wants."""
        self.done = True

    def refute(self) -> None:
        """The addresses that were `found` lead nowhere: searches on for others."""
        if self.found is not None:
            self._refuted.update(self.found.addrs)
            self.found, self.done = None, False
            self._advance()

    # ------------------------------------------------------------------------------------ what it has

    @property
    def waiting(self) -> int:
        """Requests under way."""
        return sum(path.waiting for path in self._paths)

    @property
    def hops(self) -> int:
        """How many requests one after the other led to what was found, else to the nearest peer that answered."""
        if self.found is not None:
            return self._found_hop
        nearest = min((d for d, candidate in self._known.items() if candidate.state == _ANSWERED), default=None)
        return 0 if nearest is None else self._known[nearest].hop

    def closest(self, count: int | None = None) -> list[PeerId]:
        """The `count` (k by default) nearest peers of those that answered, nearest first."""
        wanted = self._config.k if count is None else count
        known = self._known
        answered = (distance for distance, candidate in known.items() if candidate.state == _ANSWERED)
        return [known[distance].peer for distance in nsmallest(wanted, answered)]

    def reachable(self) -> list[PeerInfo]:
        """All peers that were heard of and have not failed, whether they were asked or not; nearest first."""
        usable = sorted((d, candidate) for d, candidate in self._known.items() if candidate.state != _FAILED)
        return [PeerInfo(candidate.peer, candidate.addrs) for _, candidate in usable]

    def addrs(self, peer: PeerId) -> tuple[Multiaddr, ...]:
        """Where answers say that `peer` is; nothing for those that the lookup began with."""
        candidate = self._known.get(kad_id(peer.raw) ^ self.target)
        return () if candidate is None else candidate.addrs

    # ------------------------------------------------------------------------------------ inside

    def _dealt(self, seeds: list[int], config: LookupConfig) -> list[_Path]:
        disjoint = self.purpose in (Purpose.GET, Purpose.STORE)
        count = min(config.disjoint_paths, len(seeds)) if disjoint else 1
        if count > 1:
            return [_Path(n, seeds[n::count], need=config.beta, width=1) for n in range(count)]
        return [self._whole(0, seeds)]

    def _whole(self, number: int, order: list[int]) -> _Path:
        """A path over everything; the last of a lookup."""
        need = self._config.k if self._to_k else self._config.beta
        self._to_k = False
        return _Path(number, order, need=need, width=self._config.alpha)

    def _fill(self, path: _Path, peers: list[PeerId]) -> None:
        """Adds to `peers` whom `path` asks next."""
        known = self._known
        for distance in path.order[: self._config.k]:
            if path.waiting == path.width or self.asked == self._config.max_requests:
                return
            candidate = known[distance]
            if candidate.state == _HEARD:
                candidate.state, candidate.path = _WAITING, path
                path.waiting += 1
                self.asked += 1
                peers.append(candidate.peer)
                for other in self._paths:
                    if other is not path:
                        other.drop(distance)

    def _awaited(self, peer: PeerId) -> tuple[int, _Candidate, _Path]:
        distance = kad_id(peer.raw) ^ self.target
        candidate = self._known.get(distance)
        if candidate is None or candidate.state != _WAITING or candidate.path is None:
            raise LocalProtocolError(f"peer {peer} was not asked, or has been told of already")
        candidate.path.waiting -= 1
        return distance, candidate, candidate.path

    def _take(self, asked: _Candidate, path: _Path, closer: Sequence[PeerInfo]) -> int:
        """Takes what is usable of an answer; how many peers of it are new."""
        config, known, target = self._config, self._known, self.target
        asked_raw, own_raw = asked.peer.raw, self._own_raw
        find = self.purpose is Purpose.FIND_PEER
        taken = 0
        for info in closer[: config.max_peers]:
            peer, addrs = info
            raw = peer.raw
            if not addrs or raw in (own_raw, asked_raw):
                continue
            distance = kad_id(raw) ^ target
            if len(addrs) > config.max_addrs:
                addrs = addrs[: config.max_addrs]
            if find and distance == 0:
                self._find(PeerInfo(peer, addrs), asked.hop)
                continue
            candidate = known.get(distance)
            if candidate is None:
                known[distance] = _Candidate(peer, addrs, asked)
                insort(path.order, distance)
                taken += 1
            elif candidate.state == _HEARD:
                candidate.told_twice = True
                self._merge(candidate, addrs)
                path.add(distance)
        return taken

    def _merge(self, candidate: _Candidate, addrs: tuple[Multiaddr, ...]) -> None:
        """A liar may have been the first to tell where an honest peer is."""
        room = self._config.max_addrs - len(candidate.addrs)
        if room and candidate.addrs is not addrs and candidate.addrs != addrs:
            candidate.addrs += tuple(addr for addr in addrs if addr not in candidate.addrs)[:room]

    def _find(self, info: PeerInfo, hop: int) -> None:
        fresh = tuple(addr for addr in info.addrs if addr not in self._refuted) if self._refuted else info.addrs
        if self.found is None and (fresh or not info.addrs):
            self.found, self._found_hop, self.done = PeerInfo(info.peer, fresh), hop, True

    def _disbelieve(self, liar: _Candidate) -> None:
        """Drops a peer whose suggestions fail, and who is known only through it."""
        gone = [
            (distance, candidate)
            for distance, candidate in self._known.items()
            if candidate is liar
            or (candidate.source is liar and candidate.state == _HEARD and not candidate.told_twice)
        ]
        for distance, candidate in gone:
            candidate.state = _FAILED
            for path in self._paths:
                path.drop(distance)

    def _advance(self) -> None:
        """Ends the search, or a store's first part, when every path has ended."""
        while not self.done and all(self._has_ended(path) for path in self._paths):
            if not self._to_k:
                self.done = True
                return
            rest = sorted(d for d, candidate in self._known.items() if candidate.state != _FAILED)
            whole = self._whole(len(self._paths), rest)
            for candidate in self._known.values():
                if candidate.state == _WAITING:  # a path that has ended may have asked farther peers
                    candidate.path = whole
                    whole.waiting += 1
            self._paths = [whole]

    def _has_ended(self, path: _Path) -> bool:
        if self.asked == self._config.max_requests and not path.waiting:
            return True
        known = self._known
        return all(known[distance].state == _ANSWERED for distance in path.order[: path.need])

    def _step(self, distance: int, candidate: _Candidate, path: _Path, offered: int, taken: int) -> Step:
        answered = candidate.state == _ANSWERED
        return Step(path.number, candidate.hop, candidate.peer, common_prefix(distance, 0), answered, offered, taken)
