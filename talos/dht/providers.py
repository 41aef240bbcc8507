"""Who provides what: provider records, bounded by key, by address group, by peer and in all.

Times are Unix seconds: they outlive the process.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from talos.dht.key import kad_id
from talos.errors import RecordRejected

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.addr import IpBlock
    from talos.dht.config import DhtLimits

__all__ = ["ProviderTable", "StoredProvider"]

Row: TypeAlias = tuple[bytes, bytes]
"""Key, and peer id in bytes."""


@dataclass(frozen=True, slots=True)
class StoredProvider:
    """One peer that provides one key. Both ids and addresses are bytes; `group` is where it was connected from."""

    key: bytes
    peer: bytes
    addrs: tuple[bytes, ...]
    added: float
    group: IpBlock | None = None

    @property
    def row(self) -> Row:
        return self.key, self.peer


class ProviderTable:
    """Provider records by key; `own` as in `ValueTable`."""

    def __init__(self, own: int, limits: DhtLimits, lifetime: float) -> None:
        self._own = own
        self._limits = limits
        self._lifetime = lifetime
        self._keys: dict[bytes, dict[bytes, StoredProvider]] = {}
        self._groups: Counter[tuple[bytes, IpBlock]] = Counter()
        self._peers: Counter[bytes] = Counter()
        self._rows = 0
        self._farthest: list[tuple[int, bytes]] = []
        """Keys by distance as of the last sorting, some of which may have gone since; the farthest is last."""

    def __len__(self) -> int:
        """All records."""
        return self._rows

    def __iter__(self) -> Iterator[StoredProvider]:
        return iter([provider for those in self._keys.values() for provider in those.values()])

    @property
    def keys(self) -> int:
        """How many keys somebody provides."""
        return len(self._keys)

    def get(self, key: bytes, now: float) -> list[StoredProvider]:
        """The providers of `key` that are not too old, those added first first."""
        return [provider for provider in self._keys.get(key, {}).values() if self._is_fresh(provider, now)]

    def add(self, new: StoredProvider) -> list[Row]:
        """Keeps a record, in place of the same peer's for the same key. The rows that gave way for it.

        RecordRejected, with nothing changed, when a limit of its peer, its address group or its key refuses, or when
        the table is full of keys nearer to us.
        """
        those = self._keys.get(new.key, {})
        if new.peer in those:
            self._remove(*new.row)
            self._insert(new)
            return []
        limits = self._limits
        if self._peers[new.peer] >= limits.provider_rows_per_peer:
            raise RecordRejected(f"one peer provides {limits.provider_rows_per_peer} keys")
        if new.group is not None and self._groups[new.key, new.group] >= limits.providers_per_group:
            raise RecordRejected(f"{limits.providers_per_group} providers of one key in one address group")
        if len(those) >= limits.providers_per_key:
            raise RecordRejected(f"one key has {limits.providers_per_key} providers")
        leaving: list[Row] = []
        if self._rows >= limits.provider_rows or (not those and len(self._keys) >= limits.provider_keys):
            leaving = self._drop_farthest(new.key)
        self._insert(new)
        return leaving

    def expire(self, now: float) -> list[Row]:
        """Forgets what is too old; the rows."""
        gone = [provider.row for provider in self if not self._is_fresh(provider, now)]
        for row in gone:
            self._remove(*row)
        return gone

    def _is_fresh(self, provider: StoredProvider, now: float) -> bool:
        return abs(now - provider.added) < self._lifetime

    def _insert(self, new: StoredProvider) -> None:
        self._keys.setdefault(new.key, {})[new.peer] = new
        self._peers[new.peer] += 1
        if new.group is not None:
            self._groups[new.key, new.group] += 1
        self._rows += 1

    def _remove(self, key: bytes, peer: bytes) -> None:
        those = self._keys[key]
        gone = those.pop(peer)
        if not those:
            del self._keys[key]
        self._rows -= 1
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]
        if gone.group is not None:
            self._groups[key, gone.group] -= 1
            if not self._groups[key, gone.group]:
                del self._groups[key, gone.group]

    def _drop_farthest(self, key: bytes) -> list[Row]:
        """Forgets all of the farthest key; RecordRejected when `key` would be that."""
        farthest = self._farthest_key()
        if farthest is None or self._own ^ kad_id(farthest) <= self._own ^ kad_id(key):
            raise RecordRejected("the provider store is full of keys that are nearer to this node")
        rows = [provider.row for provider in self._keys[farthest].values()]
        for row in rows:
            self._remove(*row)
        return rows

    def _farthest_key(self) -> bytes | None:
        """Kept between calls, since a full table stays full: keys that came later are met at the next sorting."""
        while self._farthest and self._farthest[-1][1] not in self._keys:
            self._farthest.pop()
        if not self._farthest:
            self._farthest = sorted((self._own ^ kad_id(key), key) for key in self._keys)
        return self._farthest[-1][1] if self._farthest else None
