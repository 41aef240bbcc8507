"""Where our chain stands: its tip, and what the next block is measured by."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from talos.chain.effects import Stored
from talos.chain.fork_choice import Branch, final_height
from talos.chain.merkle import Frontier, Tiles
from talos.chain.validation import Trail
from talos.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.chain.block import Checked, Item
    from talos.chain.effects import ChainSource
    from talos.chain.genesis import Params

__all__ = ["ChainState"]

POSITION_BITS = 12
MAX_LOCATOR = 64
MAX_REFUSED = 1024


class ChainState:
    """Follows the store: `adopt` and `switch` are called once a block is durable."""

    def __init__(self, params: Params, source: ChainSource, *, frozen_at: int | None) -> None:
        tip = source.tip()
        if tip is None:
            raise LocalProtocolError("a chain's machine begins with its genesis")
        self.params = params
        self.source = source
        self.frozen_at = frozen_at
        """The height at which a feed has two blocks."""
        self.rolled_back = False
        """Somebody holds a block of our own feed that we do not."""
        self._tiles = Tiles(source)
        self._refused: OrderedDict[bytes, str] = OrderedDict()
        self._set_tip(tip)

    def _set_tip(self, tip: Stored) -> None:
        self.tip = tip
        self.trail = Trail.at(self.params, self.source, tip)
        self.frontier = self._tiles.frontier(tip.header.log_size)

    @property
    def height(self) -> int:
        return self.trail.height

    @property
    def branch(self) -> Branch:
        return Branch(self.trail.height, self.trail.total_work, self.trail.block_id)

    @property
    def final_height(self) -> int:
        return final_height(self.params, self.height)

    def adopt(self, blocks: Iterable[Checked]) -> None:
        """Blocks that follow the tip."""
        for block in blocks:
            self.trail.advance(block)
            self.frontier.extend(block.leaves)
            self.tip = Stored(block.raw, block.sig, block.block_id, block.total_work)

    def switch(self) -> None:
        """The store has another branch now."""
        tip = self.source.tip()
        assert tip is not None
        self._tiles.forget()
        self._set_tip(tip)

    def frontier_at(self, stored: Stored) -> Frontier:
        """The tree behind a block of ours."""
        if stored.block_id == self.tip.block_id:
            return self.frontier.copy()
        self._tiles.forget()
        return self._tiles.frontier(stored.header.log_size)

    def height_of(self, block_id: bytes) -> int | None:
        found = self.source.header_of(block_id)
        return None if found is None else found.header.height

    def has_below(self, key: bytes, height: int) -> bool:
        """Whether an entry with this message key is in our chain up to this height."""
        position = self.source.position(key)
        return position is not None and position >> POSITION_BITS <= height

    def own_entries_above(self, fork: int, author_pk: bytes | None) -> list[Item]:
        """What this author wrote in the blocks behind a fork."""
        found: list[Item] = []
        for height in range(fork + 1, self.height + 1):
            stored = self.source.header_at(height)
            assert stored is not None
            if stored.header.author_pk == author_pk:
                found += self.source.items_at(height)
        return found

    def locator(self) -> tuple[bytes, ...]:
        """Ids of ours from the tip back, ever farther apart, the genesis last."""
        found: list[bytes] = []
        height, step = self.height, 1
        while height > 0 and len(found) < MAX_LOCATOR - 1:
            stored = self.source.header_at(height)
            assert stored is not None
            found.append(stored.block_id)
            if len(found) >= 10:
                step *= 2
            height -= step
        genesis = self.source.header_at(0)
        assert genesis is not None
        return (*found, genesis.block_id)

    def refuse(self, block_id: bytes, reason: str) -> None:
        """This block is never asked for again."""
        self._refused[block_id] = reason
        if len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)

    def refused(self, block_id: bytes) -> str | None:
        return self._refused.get(block_id)
