"""Which address of a peer is tried when: ranking, staggered starts and back-off, without IO.

Rules (libp2p.md 14, security.md 6):

- Addresses stand in three groups: private (and local), public, relayed. Within a group IPv6 comes first, then QUIC
  before TCP, then the lowest port.
- Private ones start 30 ms apart, public ones 250 ms apart, both groups at once; relayed ones follow 500 ms behind the
  first direct one. Alone, a group starts at once.
- A failure pulls the rest of the plan forward, so that the next one starts now. A success ends the plan.
- At most `max_parallel` are in flight; a start that is due waits for one of them to end.
"""

from __future__ import annotations

import enum
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence
    from random import Random

__all__ = ["AddressGroup", "Backoff", "DialMachine", "Rank", "Stagger", "plan"]

A = TypeVar("A", bound="Hashable")


class AddressGroup(enum.Enum):
    """Addresses that are staggered together."""

    PRIVATE = "private"
    PUBLIC = "public"
    RELAYED = "relayed"


@dataclass(frozen=True, slots=True)
class Rank:
    """What the order of one address depends on."""

    group: AddressGroup
    ipv6: bool = False
    quic: bool = False
    port: int = 0

    @property
    def sort_key(self) -> tuple[bool, bool, int]:
        return (not self.ipv6, not self.quic, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stagger:
    """Seconds between the starts of one group, and before the first relayed one."""

    private_seconds: float = 0.03
    public_seconds: float = 0.25
    relayed_seconds: float = 0.5


def plan(addrs: Iterable[A], rank: Callable[[A], Rank], stagger: Stagger) -> list[tuple[float, A]]:
    """Each address once, with the seconds after which it starts, soonest first."""
    groups: dict[AddressGroup, list[tuple[tuple[bool, bool, int], A]]] = {group: [] for group in AddressGroup}
    for addr in dict.fromkeys(addrs):
        place = rank(addr)
        groups[place.group].append((place.sort_key, addr))
    direct = bool(groups[AddressGroup.PRIVATE] or groups[AddressGroup.PUBLIC])
    starts = (
        (AddressGroup.PRIVATE, 0.0, stagger.private_seconds),
        (AddressGroup.PUBLIC, 0.0, stagger.public_seconds),
        (AddressGroup.RELAYED, stagger.relayed_seconds if direct else 0.0, stagger.public_seconds),
    )
    planned = [
        (first + index * step, addr)
        for group, first, step in starts
        for index, (_, addr) in enumerate(sorted(groups[group], key=lambda entry: entry[0]))
    ]
    return sorted(planned, key=lambda entry: entry[0])


class DialMachine(Generic[A]):
    """The attempts of one dial. The driver starts what `deadline_passed` and `failed` return."""

    __slots__ = ("_base", "_max_parallel", "_pending", "in_flight")

    def __init__(self, planned: Sequence[tuple[float, A]], *, max_parallel: int, now: float) -> None:
        self._pending = deque(planned)
        self._max_parallel = max_parallel
        self._base = now
        self.in_flight: set[A] = set()

    @property
    def exhausted(self) -> bool:
        """Nothing runs and nothing is left to start."""
        return not self.in_flight and not self._pending

    def next_deadline(self) -> float | None:
        """When the next start is due; None while only the end of an attempt can bring one."""
        if not self._pending or len(self.in_flight) >= self._max_parallel:
            return None
        return self._base + self._pending[0][0]

    def deadline_passed(self, now: float) -> list[A]:
        """The addresses to start now."""
        starts: list[A] = []
        while (deadline := self.next_deadline()) is not None and deadline <= now:
            _, addr = self._pending.popleft()
            self.in_flight.add(addr)
            starts.append(addr)
        return starts

    def failed(self, addr: A, now: float) -> list[A]:
        """An attempt failed: the addresses to start now, the next one at once."""
        self.in_flight.discard(addr)
        if self._pending:
            self._base = min(self._base, now - self._pending[0][0])
        return self.deadline_passed(now)

    def succeeded(self, addr: A) -> set[A]:
        """An attempt succeeded: nothing starts any more, and these are to be cancelled."""
        self._pending.clear()
        rest = self.in_flight - {addr}
        self.in_flight.clear()
        return rest


@dataclass(slots=True)
class _Entry:
    failures: int
    until: float


class Backoff(Generic[A]):
    """Which keys are not to be tried again yet: base + step × n², capped, with jitter.

    n counts the failures before this one. The table is bounded; the entry that failed longest ago leaves.
    """

    __slots__ = ("_base", "_entries", "_jitter", "_max", "_max_entries", "_random", "_step")

    def __init__(
        self,
        random: Random,
        *,
        base_seconds: float = 5.0,
        step_seconds: float = 1.0,
        max_seconds: float = 300.0,
        jitter: float = 0.1,
        max_entries: int = 8192,
    ) -> None:
        self._random = random
        self._base = base_seconds
        self._step = step_seconds
        self._max = max_seconds
        self._jitter = jitter
        self._max_entries = max_entries
        self._entries: OrderedDict[A, _Entry] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def remaining(self, key: A, now: float) -> float:
        """Seconds until `key` may be tried; 0 when it may be now."""
        entry = self._entries.get(key)
        return max(0.0, entry.until - now) if entry is not None else 0.0

    def failed(self, key: A, now: float) -> None:
        """Longer with each failure; one that lies `max_seconds` behind is forgotten."""
        entry = self._entries.get(key)
        failures = 0 if entry is None or now - entry.until > self._max else entry.failures
        spread = 1.0 + self._jitter * (2.0 * self._random.random() - 1.0)
        seconds = (self._base + self._step * failures * failures) * spread
        self._put(key, _Entry(failures + 1, now + min(seconds, self._max)))

    def banish(self, key: A, until: float) -> None:
        """`key` is not tried before `until`, whatever it did before."""
        self._put(key, _Entry(1, until))

    def succeeded(self, key: A) -> None:
        self._entries.pop(key, None)

    def _put(self, key: A, entry: _Entry) -> None:
        self._entries[key] = entry
        self._entries.move_to_end(key)
        if len(self._entries) > self._max_entries:
            self._entries.popitem(last=False)
