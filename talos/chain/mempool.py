"""Own entries that wait for a block: a FIFO with limits, whose rows the store keeps durable."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from talos.chain.block import ITEM_OVERHEAD, SIGNED_HEADER_BYTES, Item
from talos.errors import EntryConflict, LocalProtocolError, MempoolFull

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.chain.genesis import Params

__all__ = ["Mempool"]


class _Waiting(NamedTuple):
    item: Item
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

    def items(self) -> list[Item]:
        """All of them, oldest first."""
        return [waiting.item for waiting in self._entries.values()]

    def holds(self, key: bytes, entry: bytes) -> bool:
        """Whether this very entry waits. EntryConflict when another of the same key does."""
        found = self._entries.get(key)
        if found is None:
            return False
        if found.item.entry != entry:
            raise EntryConflict("an entry for this message with other content waits already")
        return True

    def add(self, key: bytes, item: Item, since: float) -> None:
        if len(self._entries) >= self._max_items or self.size + item.size > self._max_bytes:
            raise MempoolFull(
                f"{len(self._entries)} entries of {self.size} bytes wait; {self._max_items} entries"
                f" of {self._max_bytes} bytes may"
            )
        self.put_back(key, item, since)

    def put_back(self, key: bytes, item: Item, since: float) -> None:
        """What has lost its block: it was admitted once, so no limit refuses it now."""
        if key not in self._entries:
            self._entries[key] = _Waiting(item, since)
            self.size += item.size

    def remove(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if (found := self._entries.pop(key, None)) is not None:
                self.size -= found.item.size

    def next_items(self, params: Params) -> list[Item]:
        """As many of the oldest as one block holds."""
        chosen: list[Item] = []
        room = params.max_block - SIGNED_HEADER_BYTES
        for waiting in self._entries.values():
            room -= waiting.item.size
            if room < 0 or len(chosen) == params.max_items:
                break
            chosen.append(waiting.item)
        return chosen


def check_item(params: Params, item: Item) -> None:
    """LocalProtocolError for what no block of this chain may hold."""
    if len(item.entry) > params.max_entry:
        raise LocalProtocolError(f"an entry of {len(item.entry)} bytes is over {params.max_entry}")
    if item.size - ITEM_OVERHEAD > params.max_item or item.size > params.max_block - SIGNED_HEADER_BYTES:
        raise LocalProtocolError(f"an item of {item.size} bytes is over {params.max_item}")
