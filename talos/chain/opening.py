"""Opening a chain: making its genesis, or looking whether it is still what was signed.

    lock → modes → database → tip (id, work, signature, body, roots) → HEAD → staging emptied → entries that wait

A chain that is shorter than its HEAD says is never opened.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.chain import files
from talos.chain import pow as proof_of_work
from talos.chain.block import check_signature
from talos.chain.box import Boxes
from talos.chain.checkpoint import Checkpoint, open_checkpoint, verifiers_of
from talos.chain.entry import NO_HASH, leaf_hash
from talos.chain.genesis import Params, bind, genesis_draft, params_of
from talos.chain.merkle import merkle_root
from talos.chain.store import Store
from talos.errors import ProofInvalid, RollbackSuspected, StoreCorrupt
from talos.identity.keys import PrivateKey

if TYPE_CHECKING:
    from pathlib import Path

    from talos.chain.block import Checked
    from talos.chain.config import ChainConfig, ChainKeys
    from talos.chain.effects import Stored
    from talos.chain.reading import Reading

__all__ = ["OpenChain", "begin", "check_head", "check_tip", "open_replica", "open_store", "read_params"]


@dataclass(slots=True, kw_only=True)
class OpenChain:
    """What an opening found."""

    store: Store
    params: Params
    key: PrivateKey | None
    """The audit key, where this wallet is an author."""
    boxes: Boxes | None
    """Its boxes, where the chain is ours."""


def open_store(directory: Path, config: ChainConfig, keys: ChainKeys) -> OpenChain:
    """The chain in `directory`, made where there is none. Blocks on the disk.

    ChainInUse, RollbackSuspected, StoreCorrupt, StoreFull, StoreFailed.
    """
    store = Store(directory)
    try:
        if store.reading.tip() is None:
            begin(store, config, keys)
        params = read_params(store.reading)
        check_tip(store.reading, params)
        check_head(store.reading, params, directory)
        key = PrivateKey.from_seed(keys.audit_seed(params.random))
        mine = params.author(key.public_key.data) is not None
        boxes = Boxes(keys.k_priv(params.random)) if mine else None
    except BaseException:
        store.close()
        raise
    return OpenChain(store=store, params=params, key=key if mine else None, boxes=boxes)


def open_replica(directory: Path, genesis: Checked | None) -> OpenChain:
    """The copy of another's chain in `directory`, begun with its genesis where there is none. As `open_store`."""
    store = Store(directory)
    try:
        if genesis is not None and store.reading.tip() is None:
            store.persist((genesis,), {})
        params = read_params(store.reading)
        check_tip(store.reading, params)
        check_head(store.reading, params, directory)
    except BaseException:
        store.close()
        raise
    return OpenChain(store=store, params=params, key=None, boxes=None)


def read_params(reading: Reading) -> Params:
    """What the genesis says. StoreCorrupt, ProofInvalid."""
    return params_of(reading.entry_at(0))


def check_tip(reading: Reading, params: Params) -> Stored:
    """The last block: id, chain, work, signature, body, roots. StoreCorrupt names what is wrong."""
    tip = reading.tip()
    if tip is None:
        raise reading.corrupt("header", 0, "there is no genesis")
    header = tip.header
    author = params.author(header.author_pk)
    if header.chain_id != params.chain_id or author is None:
        raise reading.corrupt("header", header.height, "it is of another chain")
    if not proof_of_work.meets(tip.block_id, header.pow_bits):
        raise reading.corrupt("header", header.height, "its work is missing")
    try:
        check_signature(author.key, tip.block_id, tip.sig)
    except ProofInvalid as error:
        raise reading.corrupt("header", header.height, "its signature is wrong") from error
    items = reading.items_of(tip)
    if merkle_root([leaf_hash(item.entry) for item in items]) != header.entries_root:
        raise reading.corrupt("body", header.height, "its entries are not those of the header")
    if reading.tiles.root(header.log_size) != header.log_root:
        raise reading.corrupt("tile", header.log_size, "the tree has another root than the tip")
    return tip


def check_head(reading: Reading, params: Params, directory: Path) -> None:
    """RollbackSuspected unless the database covers the checkpoint in HEAD, and agrees with it."""
    note = files.read_head(directory)
    tip = reading.tip()
    assert tip is not None
    if note is None:
        if tip.header.height and reading.checkpoint() is not None:
            raise RollbackSuspected(f"the chain in {directory} has lost its HEAD")
        return
    try:
        head = open_checkpoint(note, verifiers_of(params))
    except ProofInvalid as error:
        raise RollbackSuspected(f"the HEAD of the chain in {directory} is not signed by its author: {error}") from error
    size = tip.header.log_size
    if head.size > size:
        raise RollbackSuspected(f"the chain in {directory} has {size} entries, and once had {head.size}")
    if head.size and reading.tiles.root(head.size) != head.root:
        raise StoreCorrupt(f"chain {directory}: its first {head.size} entries are not those that its HEAD signs")


def begin(store: Store, config: ChainConfig, keys: ChainKeys, *, before: Stored | None = None) -> None:
    """A new chain of this wallet, where there was none; it may continue another one."""
    if files.read_head(store.directory) is not None:
        raise RollbackSuspected(f"the chain in {store.directory} is empty, and its HEAD is not")
    random, created_ms = secrets.token_bytes(16), time.time_ns() // 1_000_000
    key = PrivateKey.from_seed(keys.audit_seed(random))
    author = bind(key.public_key.data, keys.identity, random=random, created_ms=created_ms)
    params = Params(
        mode=config.mode,
        created_ms=created_ms,
        random=random,
        authors=(author,),
        finality_depth=config.finality_depth,
        prev_chain=before.header.chain_id if before is not None else NO_HASH,
        prev_tip=before.block_id if before is not None else NO_HASH,
    )
    draft = genesis_draft(params, bits=config.bits)
    genesis = draft.finish(proof_of_work.solve(draft.header.encode()), key)
    note = Checkpoint(params.origin, genesis.header.log_size, genesis.header.log_root).sign(key)
    store.persist((genesis,), {}, (genesis.header.log_size, note))
    store.write_head(note)
