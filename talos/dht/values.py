"""Values that are kept for others: bounded in number, in bytes and for each peer that put them.

Times are Unix seconds: they outlive the process.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.dht.key import kad_id
from talos.errors import RecordRejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.dht.config import DhtLimits

__all__ = ["StoredValue", "ValueTable"]


@dataclass(frozen=True, slots=True)
class StoredValue:
    """A value as it was put. `source` is who did, as the bytes of its id."""

    key: bytes
    value: bytes
    received: float
    source: bytes

    @property
    def size(self) -> int:
        return len(self.key) + len(self.value)


class ValueTable:
    """The values by key. `own` is our kad id: when the table is full, the keys farthest from it give way."""

    def __init__(self, own: int, limits: DhtLimits, lifetime: float) -> None:
        self._own = own
        self._limits = limits
        self._lifetime = lifetime
        self._values: dict[bytes, StoredValue] = {}
        self._sources: Counter[bytes] = Counter()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[StoredValue]:
        return iter(tuple(self._values.values()))

    def get(self, key: bytes, now: float) -> StoredValue | None:
        """The value under `key`, unless it is too old, or from the future: a clock was set back since."""
        stored = self._values.get(key)
        return stored if stored is not None and self._is_fresh(stored, now) else None

    def put(self, new: StoredValue) -> list[bytes]:
        """Keeps a value, in place of the one under its key. The keys that gave way for it.

        RecordRejected, with nothing changed, when its peer has put too many, or when the table is full of keys
        nearer to us.
        """
        limits = self._limits
        old = self._values.get(new.key)
        if (old is None or old.source != new.source) and self._sources[new.source] >= limits.values_per_peer:
            raise RecordRejected(f"one peer put {limits.values_per_peer} values")
        leaving = self._make_room(new, old)
        for key in leaving:
            self.remove(key)
        if old is not None:
            self.remove(new.key)
        self._values[new.key] = new
        self._sources[new.source] += 1
        self.bytes += new.size
        return leaving

    def remove(self, key: bytes) -> None:
        """Forgets the value under `key`, if there is one."""
        stored = self._values.pop(key, None)
        if stored is None:
            return
        self.bytes -= stored.size
        self._sources[stored.source] -= 1
        if not self._sources[stored.source]:
            del self._sources[stored.source]

    def expire(self, now: float) -> list[bytes]:
        """Forgets what is too old; the keys."""
        gone = [stored.key for stored in self if not self._is_fresh(stored, now)]
        for key in gone:
            self.remove(key)
        return gone

    def _is_fresh(self, stored: StoredValue, now: float) -> bool:
        return abs(now - stored.received) < self._lifetime

    def _make_room(self, new: StoredValue, old: StoredValue | None) -> list[bytes]:
        """Which keys have to leave."""
        limits = self._limits
        count = len(self._values) + (old is None)
        size = self.bytes + new.size - (0 if old is None else old.size)
        if count <= limits.values and size <= limits.values_bytes:
            return []
        own, distance = self._own, self._own ^ kad_id(new.key)
        farther = sorted(
            (stored for stored in self._values.values() if stored is not old and own ^ kad_id(stored.key) > distance),
            key=lambda stored: own ^ kad_id(stored.key),
        )
        leaving: list[bytes] = []
        while count > limits.values or size > limits.values_bytes:
            if not farther:
                raise RecordRejected("the value store is full of keys that are nearer to this node")
            farthest = farther.pop()
            leaving.append(farthest.key)
            count -= 1
            size -= farthest.size
        return leaving
