"""Own entries that wait for a block: a FIFO with limits, whose rows the store keeps durable."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from talos.chain.block import ITEM_OVERHEAD, SIGNED_HEADER_BYTES, Item, Prepared
from talos.errors import EntryConflict, LocalProtocolError, MempoolFull

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.chain.genesis import Params

__all__ = ["Mempool"]


class _Waiting(NamedTuple):
    prepared: Prepared
    since: float


class Mempool:
    """Entries by message key, oldest first. MempoolFull at either limit; nothing is ever dropped."""

    __slots__ = ("_entries", "_max_bytes", "_max_items", "size")

    def __init__(self, *, max_items: int, max_bytes: int) -> None:
        self._entries: dict[bytes, _Waiting] = {}
        self._max_items = max_items
        self._max_bytes = max_bytes
        self.size = 0
        """What its items take in blocks."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def since(self) -> float | None:
        """Since when the oldest waits."""
        return next(iter(self._entries.values())).since if self._entries else None

    def keys(self) -> list[bytes]:
        """Of all of them, oldest first."""
        return list(self._entries)

    def holds(self, key: bytes, entry: bytes) -> bool:
        """Whether this very entry waits. EntryConflict when another of the same key does."""
        found = self._entries.get(key)
        if found is None:
            return False
        if found.prepared.item.entry != entry:
            raise EntryConflict("an entry for this message with other content waits already")
        return True

    def add(self, prepared: Prepared, since: float) -> None:
        size = prepared.item.size
        if len(self._entries) >= self._max_items or self.size + size > self._max_bytes:
            raise MempoolFull(
                f"{len(self._entries)} entries of {self.size} bytes wait; {self._max_items} entries"
                f" of {self._max_bytes} bytes may"
            )
        self._entries[prepared.key] = _Waiting(prepared, since)
        self.size += size

    def put_back(self, prepared: Prepared, since: float) -> None:
        """What has lost its block: it was admitted once, so no limit refuses it now."""
        if prepared.key not in self._entries:
            self._entries[prepared.key] = _Waiting(prepared, since)
            self.size += prepared.item.size

    def remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if (found := self._entries.pop(key, None)) is not None:
                self.size -= found.prepared.item.size

    def next_items(self, params: Params) -> list[Prepared]:
        """As many of the oldest as one block holds."""
        chosen: list[Prepared] = []
        room = params.max_block - SIGNED_HEADER_BYTES
        for waiting in self._entries.values():
            room -= waiting.prepared.item.size
            if room < 0 or len(chosen) == params.max_items:
                break
            chosen.append(waiting.prepared)
        return chosen


def check_item(params: Params, item: Item) -> None:
    """LocalProtocolError for what no block of this chain may hold."""
    if len(item.entry) > params.max_entry:
        raise LocalProtocolError(f"an entry of {len(item.entry)} bytes is over {params.max_entry}")
    if item.size - ITEM_OVERHEAD > params.max_item or item.size > params.max_block - SIGNED_HEADER_BYTES:
        raise LocalProtocolError(f"an item of {item.size} bytes is over {params.max_item}")
