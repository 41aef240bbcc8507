"""`Chain`: the audit log of a node, each entry durable before `record` returns and in a block a second later."""

from __future__ import annotations

import itertools
import logging
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import trio

from talos.abc import AuditReceipt, EntryKind
from talos.chain import old_log as old_log_file
from talos.chain import proving
from talos.chain.block import Item, Prepared
from talos.chain.checkpoint import verifiers_of
from talos.chain.core import Core
from talos.chain.entry import Committer, Entry
from talos.chain.noting import note_evidence
from talos.chain.opening import open_store
from talos.chain.receipt import Receipt, check_receipt, sign_receipt
from talos.chain.replicas import Replicas, SyncResult, open_replicas
from talos.errors import AuditError, ChainInUse, LocalProtocolError
from talos.host.block import background
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from talos.abc import AuditEntry, Host, SignedReceipt
    from talos.chain.config import ChainConfig, ChainKeys
    from talos.chain.effects import Effect, Stored
    from talos.chain.entry import Committed, Kind
    from talos.chain.genesis import Mode
    from talos.chain.opening import OpenChain
    from talos.chain.proof import LogProof

__all__ = ["Chain", "open_chain", "open_slot"]

TUNNEL_KINDS = frozenset({EntryKind.MCP_CALL, EntryKind.MCP_RESULT})
"""Their blobs are lines in the clear: kept in our boxes, never in a block, which replicas read."""
SEAL_AT_CLOSE_SECONDS = 2.0
TAKE_OVER_ENTRIES = 256

_log = logging.getLogger(__name__)


class Chain:
    """An `AuditLog`; made by `open_chain`. Tasks may call it at the same time.

    A cancelled `record` may still become durable. A full disk fails what was waiting (StoreFull), later entries may
    work again; a failed write or sync is final (StoreFailed), for nobody knows any more what is on the disk.
    """

    def __init__(self, opened: OpenChain, config: ChainConfig, keys: ChainKeys) -> None:
        assert opened.boxes is not None
        self._opened = opened
        self._store = opened.store
        self._reading = opened.store.reading
        self._config = config
        self._keys = keys
        self._box = opened.boxes
        self._me = PeerId.from_key(keys.identity.public_key).to_bytes()
        self._commit = Committer(opened.boxes.k_priv).commit
        self.core = Core(opened, config)
        self.machine, self.driver = self.core.machine, self.core.driver
        self._recorder, self._writer = self.core.recorder, self.core.writer
        self._replicas: Replicas | None = None

    # -- What it is

    @property
    def directory(self) -> Path:
        return self._store.directory

    @property
    def chain_id(self) -> bytes:
        return self._opened.params.chain_id

    @property
    def mode(self) -> Mode:
        """As its genesis says."""
        return self._opened.params.mode

    @property
    def origin(self) -> str:
        """How checkpoints name this chain."""
        return self._opened.params.origin

    @property
    def frozen(self) -> bool:
        """Its author signed two blocks for one height."""
        return self.machine.frozen

    @property
    def count(self) -> int:
        """Entries that are durable or about to be, the chain's own included."""
        return self.machine.tip.header.log_size + self.machine.waiting + self._recorder.waiting

    @property
    def queued(self) -> int:
        """Entries that wait for the disk."""
        return self._recorder.waiting

    def header(self, which: bytes | int) -> Stored | None:
        """By id or height, checked; None when there is no such block."""
        return self._reading.header_of(which) if isinstance(which, bytes) else self._reading.header_at(which)

    def find(self, msg_id: bytes) -> list[int]:
        """The numbers in the log of all entries of a message."""
        return [self._reading.index_of(position) for position in self._reading.positions(msg_id)]

    def status(self) -> dict[str, object]:
        """Plain values, for people and for JSON."""
        tip, params = self.machine.tip, self._opened.params
        return {
            "chain_id": params.chain_id.hex(),
            "origin": params.origin,
            "mode": params.mode.name.lower(),
            "height": tip.header.height,
            "tip": tip.block_id.hex(),
            "log_size": tip.header.log_size,
            "log_root": tip.header.log_root.hex(),
            "total_work": str(tip.total_work),
            "mempool": self.machine.waiting,
            "min_index": self.machine.min_index,
            "frozen": self.frozen,
            "failed": None if self._writer.stopped is None else str(self._writer.stopped),
            "vkeys": [verifier.vkey for verifier in verifiers_of(params)],
        }

    # -- Recording

    async def record(self, entry: AuditEntry) -> AuditReceipt:
        await trio.lowlevel.checkpoint_if_cancelled()
        made = self._commit(entry)
        prepared, box = self._prepare(entry, made)
        (duplicate,) = await self._recorder.record((prepared,), (box,))
        return AuditReceipt(made.leaf, duplicate, self._promise(entry, made))

    async def record_many(self, entries: Sequence[AuditEntry]) -> Sequence[AuditReceipt]:
        await trio.lowlevel.checkpoint_if_cancelled()
        made = [self._commit(entry) for entry in entries]
        prepared = [self._prepare(entry, item) for entry, item in zip(entries, made, strict=True)]
        duplicates = await self._recorder.record([one for one, _ in prepared], [box for _, box in prepared])
        return [
            AuditReceipt(item.leaf, duplicate, self._promise(entry, item))
            for item, entry, duplicate in zip(made, entries, duplicates, strict=True)
        ]

    def check_receipt(
        self, receipt: SignedReceipt, *, msg_id: bytes, sealed_hash: bytes, sender: PeerId, receiver: PeerId
    ) -> None:
        check_receipt(receipt, msg_id=msg_id, sealed_hash=sealed_hash, sender=sender, receiver=receiver)

    async def seal(self) -> None:
        """Everything that was recorded is in a block on return."""
        await self.driver.sealed()

    async def note(self, kind: Kind, fields: tuple[bytes, ...]) -> None:
        """Records something of the chain itself; in a block on return."""
        entry = Entry(kind, time.time_ns() // 1_000_000, fields).encode()
        await self._recorder.record((Prepared.of(Item(entry)),), (b"",))
        await self.seal()

    async def sync(self, peer: PeerId | None = None) -> SyncResult:
        """Compares with everybody who keeps this chain, or takes over and follows the peer's own.

        RemoteProtocolError, LocalProtocolError: the peer shows no chain, or one that breaks the rules.
        """
        return await self._with_others().sync(peer)

    async def bring_back(self, peer: PeerId, chain_id: bytes) -> Path:
        """Copies an earlier chain of ours from a peer who keeps it. Errors as of `sync`.

        The directory of the copy, which is all on the disk once this chain is closed.
        """
        return await self._with_others().bring_back(peer, chain_id)

    async def events(self) -> trio.MemoryReceiveChannel[Effect]:
        """What happens to the chain: announcements, alarms, faults. A slow reader misses some; close it."""
        await trio.lowlevel.checkpoint()
        return self.core.listen()

    async def prove(self, ident: bytes | int) -> LogProof:
        """The proof of one entry, by its number in the log or its message id, under a checkpoint of now.

        ProofInvalid when there is no such entry, or several of that id.
        """
        await self.seal()
        return proving.log_proof(self._reading, self._opened.params, ident, key=self._opened.key)

    def _with_others(self) -> Replicas:
        if self._replicas is None:
            raise LocalProtocolError("a chain without a node has nobody to compare with")
        return self._replicas

    def _prepare(self, facts: AuditEntry, made: Committed) -> tuple[Prepared, bytes]:
        """The item for the block, and the box that opens it."""
        sealed, extra = self._kept(facts)
        box = self._box.seal(made.entry, made.leaf, made.meta, extra) if made.meta or extra else b""
        return Prepared(made.key, Item(made.entry, sealed), made.leaf, made.sealed_hash or None), box

    def _kept(self, facts: AuditEntry) -> tuple[bytes, bytes]:
        """The blob for the block, and what goes into our box."""
        if facts.receipt is not None:
            return b"", facts.receipt.body + facts.receipt.sig
        if facts.kind in TUNNEL_KINDS:
            return b"", facts.sealed
        return (facts.sealed if self._config.store_sealed else b""), b""

    def _promise(self, entry: AuditEntry, item: Committed) -> SignedReceipt | None:
        if entry.kind is not EntryKind.RECEIVED:
            return None
        receipt = Receipt(
            msg_id=entry.msg_id,
            sealed_hash=item.sealed_hash,
            sender=entry.sender,
            receiver=self._me,
            origin=self.origin.encode(),
            log_size_hint=self.machine.tip.header.log_size,
            received_ms=entry.time_ms,
            max_merge_seconds=self._config.max_merge_seconds,
        )
        return sign_receipt(receipt, self._keys.identity)


@asynccontextmanager
async def open_chain(
    node: Host | None,
    config: ChainConfig,
    keys: ChainKeys,
    *,
    directory: Path,
    old_log: Path | None = None,
) -> AsyncIterator[Chain]:
    """The chain in `directory`, which is made where it is missing. Without a node nobody is told of it.

    ChainInUse: another process has it. RollbackSuspected, StoreCorrupt: it is not what was signed. StoreFull,
    StoreFailed.
    """
    opened = await trio.to_thread.run_sync(open_store, directory, config, keys)
    async with _running(opened, config, keys, node) as chain:
        await _take_over(chain, old_log, keys)
        yield chain


@asynccontextmanager
async def open_slot(base: Path, server: str, *, config: ChainConfig, keys: ChainKeys) -> AsyncIterator[Chain]:
    """The lowest chain `<base>/<server>-<n>` that no other process has: several clients share one identity.

    `default` stands for no server's name. Errors as of `open_chain`.
    """
    name = server or "default"
    for number in range(1, config.slots + 1):
        try:
            opened = await trio.to_thread.run_sync(open_store, base / f"{name}-{number}", config, keys)
        except ChainInUse:
            continue
        async with _running(opened, config, keys, None) as chain:
            await _take_over(chain, base / f"{name}-{number}", keys)
            yield chain
        return
    raise ChainInUse(f"all {config.slots} chains of {name!r} in {base} are in use by other processes")


async def _take_over(chain: Chain, old_log: Path | None, keys: ChainKeys) -> None:
    """Records what a log of an earlier version holds; begun anew after a crash, it records nothing twice."""
    if old_log is None or not old_log_file.is_there(old_log):
        return
    count = 0
    facts = old_log_file.read(old_log, keys.k_priv, PeerId.from_key(keys.identity.public_key).to_bytes())
    while group := list(itertools.islice(facts, TAKE_OVER_ENTRIES)):
        await chain.record_many(group)
        count += len(group)
    await chain.seal()
    old_log_file.put_away(old_log)
    _log.warning("%d entries of the log in %s are in the chain now", count, old_log)


@asynccontextmanager
async def _running(opened: OpenChain, config: ChainConfig, keys: ChainKeys, node: Host | None) -> AsyncIterator[Chain]:
    try:
        chain = Chain(opened, config, keys)
    except BaseException:
        opened.store.close()
        raise
    try:
        async with background() as nursery:
            nursery.start_soon(chain.core.run)
            nursery.start_soon(note_evidence, chain.core.listen(), chain.note)
            if node is None:
                yield chain
            else:
                async with open_replicas(node, config, chain.core) as chain._replicas:  # noqa: SLF001 - its other half
                    yield chain
            with trio.CancelScope(shield=True), trio.move_on_after(SEAL_AT_CLOSE_SECONDS), suppress(AuditError):
                await chain.driver.finish()
    finally:
        chain.core.close()
