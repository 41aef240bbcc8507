"""Own entries and the blocks that are made of them: admission, sealing by time and size, proof of work handed out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from talos.chain.block import Draft, Item, Prepared
from talos.chain.effects import Alarm, AlarmKind, Mine, StopMining
from talos.chain.entry import inspect
from talos.chain.mempool import Mempool, check_item
from talos.chain.sessions import SyncLimits
from talos.errors import ChainFrozen, EntryConflict, LocalProtocolError, ProofInvalid, RollbackSuspected

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from talos.chain.block import Checked
    from talos.chain.effects import Effect, Now
    from talos.chain.state import ChainState
    from talos.identity.keys import PrivateKey

__all__ = ["Admitted", "MachineConfig", "Sealing"]

TURN_SECONDS = 0.5
"""How long each further author of a shared chain lets the one before it seal."""

GROUP_ENTRIES = 64
"""So many that are written at once are worth a block: then each is written once."""
GROUP_BITS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineConfig:
    """How this node writes its own blocks, and what it bears of peers."""

    bits: int = 8
    seal_seconds: float = 1.0
    """From the first waiting entry to its block."""
    seal_items: int = 1000
    seal_bytes: int = 900_000
    mempool_items: int = 10_000
    mempool_bytes: int = 64_000_000
    sync: SyncLimits = field(default_factory=SyncLimits)


class Admitted(NamedTuple):
    """What became of an entry."""

    key: bytes
    leaf: bytes
    duplicate: bool
    """It is in the chain, or waits, already."""


class Sealing:
    """The machine's part that writes; nothing here knows whether a block may be sealed just now."""

    def __init__(
        self,
        state: ChainState,
        config: MachineConfig,
        key: PrivateKey | None,
        pending: Iterable[tuple[bytes, bytes]],
    ) -> None:
        params = state.params
        self._author = None if key is None else params.index_of(key.public_key.data)
        if key is not None and self._author is None:
            raise LocalProtocolError("the audit key is not that of an author of this chain")
        if not params.bits_min <= config.bits <= params.bits_max:
            raise LocalProtocolError(f"the chain's blocks have {params.bits_min} to {params.bits_max} bits of work")
        self._state = state
        self._config = config
        self._key = key
        self._mempool = Mempool(max_items=config.mempool_items, max_bytes=config.mempool_bytes)
        for entry, sealed in pending:
            self._mempool.put_back(Prepared.of(Item(entry, sealed)), 0.0)
        self._ticket = 0
        self._mining: Mine | None = None

    def __len__(self) -> int:
        return len(self._mempool)

    # -- Entries

    def admit(self, entry: bytes, sealed: bytes, now: Now) -> Admitted:
        """As `ChainMachine.admit`."""
        item = Item(entry, sealed)
        try:
            key = inspect(entry).key24
        except ProofInvalid as error:
            raise LocalProtocolError(f"this is no entry: {error}") from error
        known = () if self._state.source.position(key) is None else (key,)
        check_item(self._state.params, item)
        prepared = Prepared.of(item)
        return Admitted(key, prepared.leaf, *self.admit_all((prepared,), known, now))

    def admit_all(self, entries: Sequence[Prepared], known: Container[bytes], now: Now) -> list[bool]:
        """As `ChainMachine.admit_all`."""
        pool, params = self._mempool, self._state.params
        added: list[bytes] = []
        duplicates = []
        try:
            for prepared in entries:
                key, item, _, _ = prepared
                duplicate = pool.holds(key, item.entry) or (key in known and self._is_recorded(key, item.entry))
                duplicates.append(duplicate)
                if not duplicate:
                    self._check_author()
                    check_item(params, item)
                    pool.add(prepared, now.seconds)
                    added.append(key)
        except BaseException as error:
            pool.remove(added)
            if isinstance(error, EntryConflict):
                error.entry = item.entry
            raise
        return duplicates

    def _check_author(self) -> None:
        if self._author is None:
            raise LocalProtocolError("only its authors write to a chain")
        if self._state.frozen_at is not None:
            raise ChainFrozen(f"the chain has two blocks at height {self._state.frozen_at}, and takes nothing more")
        if self._state.rolled_back:
            raise RollbackSuspected("others hold newer blocks of this chain than this copy does")

    def _is_recorded(self, key: bytes, entry: bytes) -> bool:
        if self._state.source.position(key) is None:
            return False
        try:
            found = self._state.source.entry_of(key)
        except ProofInvalid as error:
            raise EntryConflict(f"an entry for this message was recorded before: {error}") from error
        if found != entry:
            raise EntryConflict("an entry for this message was recorded before with other content")
        return True

    def withdraw(self, keys: Iterable[bytes]) -> None:
        self._mempool.remove(keys)

    # -- Blocks

    @property
    def possible(self) -> bool:
        """We are an author, of a chain that goes on, and try no block yet."""
        stopped = self._state.frozen_at is not None or self._state.rolled_back
        return self._author is not None and not stopped and self._mining is None

    def due(self) -> float | None:
        """When what waits is to be sealed; in a shared chain the authors take turns by height."""
        since, config = self._mempool.since, self._config
        if since is None:
            return None
        return (since if self.full else since + config.seal_seconds) + self._turns * TURN_SECONDS

    @property
    def full(self) -> bool:
        """So much waits that time makes no difference."""
        return len(self._mempool) >= self._config.seal_items or self._mempool.size >= self._config.seal_bytes

    @property
    def _turns(self) -> int:
        """How many authors of a shared chain come before us."""
        return ((self._author or 0) - (self._state.height + 1)) % len(self._state.params.authors)

    def worth_a_block(self, entries: int) -> bool:
        """Whether so many new ones are, whose work is as little as a write's."""
        return entries >= GROUP_ENTRIES and self._config.bits <= GROUP_BITS and not self._turns

    def draft(self, now: Now) -> list[Effect]:
        """The next block, to be mined."""
        assert self._key is not None
        state, last = self._state, self._state.tip.header.time_ms
        self._ticket += 1
        draft = Draft.build(
            self._mempool.next_items(state.params),
            chain_id=state.params.chain_id,
            height=state.height + 1,
            prev_id=state.trail.block_id,
            time_ms=max(last + 1, state.trail.median_ms + 1, now.unix_ms),
            bits=self._config.bits,
            frontier=state.frontier,
            author_pk=self._key.public_key.data,
            parent_work=state.trail.total_work,
        )
        self._mining = Mine(self._ticket, draft)
        if last > now.unix_ms:
            return [self._mining, Alarm(AlarmKind.CLOCK, f"our clock is {last - now.unix_ms} ms behind the last block")]
        return [self._mining]

    def mined(self, ticket: int, nonce: int) -> Checked | None:
        """The block; None when its draft has lost its place meanwhile."""
        mining = self._mining
        if mining is None or mining.ticket != ticket:
            return None
        assert self._key is not None
        self._mining = None
        return mining.draft.finish(nonce, self._key)

    def stop(self) -> list[Effect]:
        """The draft that is mined has lost its place."""
        mining, self._mining = self._mining, None
        return [] if mining is None else [StopMining(mining.ticket)]

    def sealed(self, blocks: Iterable[Checked]) -> None:
        """These are durable; what of ours is in them waits no longer."""
        self._mempool.remove(key for block in blocks for key in block.keys)

    def replaced(self, readmit: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """Another branch is ours: what of ours is in it waits no longer, what has lost its block does."""
        waits = self._mempool.keys()
        self._mempool.remove(key for key in waits if self._state.source.position(key) is not None)
        for entry, sealed in readmit:
            self._mempool.put_back(Prepared.of(Item(entry, sealed)), now.seconds)
