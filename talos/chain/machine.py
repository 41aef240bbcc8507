"""The chain: what becomes of own entries, of what peers say, and of time. No IO, no clock.

    own entry ─admit─► mempool ─seal─► Mine ─mined─► Persist ─persisted─► Announce, STATUS to all
    STATUS, RESPONSE ─receive─► Following ─work─► Persist | Stage, Replace ─persisted─► …
    REQUEST ─receive─► Serve

Rules:

- What is not durable is never shown: the tip moves with `persisted`, and only then is it announced.
- One Persist or Replace is outstanding at a time; nothing is sealed meanwhile, nor while a better branch is fetched.
- A feed has one author: two blocks of one height freeze it for good. It then serves what it held, and takes nothing.
- An author that meets its own signature on a block of its feed that it does not hold appends nothing more.
- A fault ends the peer's session; what it was asked is asked of others.

Only blocks that keep all rules of `talos.chain.validation` reach the store, and which branch is ours is decided in
`talos.chain.fork_choice`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from talos.chain.block import Draft, Item
from talos.chain.conflict import checkpoint_conflict
from talos.chain.effects import (
    Alarm,
    AlarmKind,
    Announce,
    Answered,
    ChainSource,
    DropStage,
    Effect,
    Evidence,
    Fault,
    Mine,
    Now,
    Peer,
    Persist,
    Replace,
    Send,
    Serve,
    ServeBlock,
    ServeBlocks,
    ServeHeaders,
    ServeProof,
    Stage,
    StopMining,
    Stored,
)
from talos.chain.entry import inspect, leaf_hash
from talos.chain.following import Following
from talos.chain.mempool import Mempool, check_item
from talos.chain.messages import ProofReq, Request, Response, Status
from talos.chain.serving import Serving
from talos.chain.sessions import Session, Sessions, SyncLimits, Wanted
from talos.chain.state import ChainState
from talos.chain.validation import MAX_AHEAD_MS
from talos.errors import ChainFrozen, EntryConflict, LocalProtocolError, ProofInvalid, RollbackSuspected

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.chain.genesis import Params
    from talos.identity.keys import PrivateKey

__all__ = [
    "Admitted",
    "Alarm",
    "AlarmKind",
    "Announce",
    "Answered",
    "ChainMachine",
    "ChainSource",
    "DropStage",
    "Effect",
    "Evidence",
    "Fault",
    "MachineConfig",
    "Mine",
    "Now",
    "Peer",
    "Persist",
    "Replace",
    "Send",
    "Serve",
    "ServeBlock",
    "ServeBlocks",
    "ServeHeaders",
    "ServeProof",
    "Stage",
    "StopMining",
    "Stored",
    "SyncLimits",
]

TURN_SECONDS = 0.5
"""How long each further author of a shared chain lets the one before it seal."""


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


class ChainMachine:
    """One chain on one node. Raises what `AuditLog` raises from `admit`; nothing from what peers send."""

    def __init__(
        self,
        params: Params,
        source: ChainSource,
        config: MachineConfig,
        key: PrivateKey | None = None,
        *,
        frozen_at: int | None = None,
        pending: Iterable[tuple[bytes, bytes]] = (),
    ) -> None:
        """`key` is the audit key of an author; `pending` what waited for a block when the chain was last open."""
        self._author = None if key is None else params.index_of(key.public_key.data)
        if key is not None and self._author is None:
            raise LocalProtocolError("the audit key is not that of an author of this chain")
        if not params.bits_min <= config.bits <= params.bits_max:
            raise LocalProtocolError(f"the chain's blocks have {params.bits_min} to {params.bits_max} bits of work")
        self._state = ChainState(params, source, frozen_at=frozen_at)
        self._config = config
        self._key = key
        self._mempool = Mempool(max_items=config.mempool_items, max_bytes=config.mempool_bytes)
        for entry, sealed in pending:
            self._mempool.put_back(inspect(entry).key24, Item(entry, sealed), 0.0)
        self._sessions = Sessions(params.chain_id, config.sync)
        self._following = Following(self._state, self._sessions, None if key is None else key.public_key.data)
        self._serving = Serving(self._state, self._sessions)
        self._ticket = 0
        self._mining: Mine | None = None
        self._writing: Persist | Replace | None = None
        self.checkpoint = b""
        """The newest signed one, for STATUS."""

    # -- What it is

    @property
    def tip(self) -> Stored:
        """The last durable block."""
        return self._state.tip

    @property
    def frozen(self) -> bool:
        return self._state.frozen_at is not None

    @property
    def final_height(self) -> int:
        """Up to here nothing is ever replaced."""
        return self._state.final_height

    @property
    def waiting(self) -> int:
        """Own entries without a block."""
        return len(self._mempool)

    @property
    def min_height(self) -> int:
        """Below it bodies were pruned."""
        return self._serving.min_height

    @min_height.setter
    def min_height(self, height: int) -> None:
        self._serving.min_height = height

    @property
    def min_index(self) -> int:
        return self._serving.min_index

    @min_index.setter
    def min_index(self, index: int) -> None:
        self._serving.min_index = index

    def status(self, now: Now) -> Status:
        header = self.tip.header
        return Status(
            chain_id=self._state.params.chain_id,
            height=header.height,
            total_work=self.tip.total_work,
            tip_id=self.tip.block_id,
            log_size=header.log_size,
            log_root=header.log_root,
            checkpoint=self.checkpoint,
            min_height=self.min_height,
            min_index=self.min_index,
            now_ms=now.unix_ms,
        )

    # -- Own entries and blocks

    def admit(self, entry: bytes, sealed: bytes, now: Now) -> Admitted:
        """Takes an own entry in; it waits for a block from now on, so write its row next, or `withdraw` it.

        EntryConflict, MempoolFull, ChainFrozen, RollbackSuspected; LocalProtocolError for what no block may hold.
        """
        try:
            key = inspect(entry).key24
        except ProofInvalid as error:
            raise LocalProtocolError(f"this is no entry: {error}") from error
        if self._mempool.holds(key, entry) or self._is_recorded(key, entry):
            return Admitted(key, leaf_hash(entry), duplicate=True)
        if self._author is None:
            raise LocalProtocolError("only its authors write to a chain")
        if self.frozen:
            raise ChainFrozen(f"the chain has two blocks at height {self._state.frozen_at}, and takes nothing more")
        if self._following.rolled_back:
            raise RollbackSuspected("others hold newer blocks of this chain than this copy does")
        item = Item(entry, sealed)
        check_item(self._state.params, item)
        self._mempool.add(key, item, now.seconds)
        return Admitted(key, leaf_hash(entry), duplicate=False)

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
        """These were not made durable."""
        self._mempool.remove(keys)

    def seal(self, now: Now, *, force: bool = False) -> list[Effect]:
        """A draft of what waits, when it is time for it, or with `force` as soon as there is something."""
        due = self._seal_time()
        if due is None or self._blocked or not (force or due <= now.seconds):
            return []
        assert self._key is not None
        state, last = self._state, self.tip.header.time_ms
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

    @property
    def _blocked(self) -> bool:
        """Nothing may be sealed now."""
        stopped = self.frozen or self._following.rolled_back or self._author is None
        return stopped or self._mining is not None or self._writing is not None or self._following.holds_sealing

    def _seal_time(self) -> float | None:
        """When what waits is due; in a shared chain the authors take turns by height."""
        since, config = self._mempool.since, self._config
        if since is None:
            return None
        full = len(self._mempool) >= config.seal_items or self._mempool.size >= config.seal_bytes
        due = since if full else since + config.seal_seconds
        authors = len(self._state.params.authors)
        turn = ((self._author or 0) - (self._state.height + 1)) % authors
        return due + turn * TURN_SECONDS

    def mined(self, ticket: int, nonce: int, _now: Now) -> list[Effect]:
        """The draft's nonce; nothing when the draft has lost its place meanwhile."""
        mining = self._mining
        if mining is None or mining.ticket != ticket:
            return []
        assert self._key is not None
        self._mining = None
        persist = Persist((mining.draft.finish(nonce, self._key),), own=True)
        return self._handed_over([persist])

    def persisted(self, now: Now) -> list[Effect]:
        """What was handed over last is durable: the tip moves, and others may know."""
        writing, self._writing = self._writing, None
        match writing:
            case Persist(blocks, own):
                self._state.adopt(blocks)
                self._mempool.remove(key for block in blocks for key in block.keys)
            case Replace(_, readmit):
                own = False
                self._replaced(readmit, now)
            case None:
                raise LocalProtocolError("nothing was handed over")
        effects: list[Effect] = [*self._stop_mining(), Announce(self.tip)]
        effects += self._following.written(now, own=own)
        return self._settled(effects, now)

    def _replaced(self, readmit: Iterable[tuple[bytes, bytes]], now: Now) -> None:
        """What of ours is in the new branch waits no longer; what has lost its block does."""
        self._state.switch()
        waits = [(inspect(item.entry).key24, item) for item in self._mempool.items()]
        self._mempool.remove(key for key, _ in waits if self._state.source.position(key) is not None)
        for entry, sealed in readmit:
            self._mempool.put_back(inspect(entry).key24, Item(entry, sealed), now.seconds)

    def persist_failed(self) -> list[Effect]:
        """The store refused: own entries wait on, another branch is let go."""
        self._writing = None
        return self._following.drop()

    def _stop_mining(self) -> list[Effect]:
        mining, self._mining = self._mining, None
        return [] if mining is None else [StopMining(mining.ticket)]

    # -- Peers

    def peer_joined(self, peer: Peer, now: Now, *, reader: bool) -> list[Effect]:
        """A stream with a peer is open; `reader` may see everything."""
        session = self._sessions.join(peer, now, reader=reader)
        return [self._tell(session, now)] if reader else []

    def peer_left(self, peer: Peer, now: Now) -> list[Effect]:
        """Its stream ended."""
        session = self._sessions.leave(peer)
        return [] if session is None else self._settled(self._following.left(session, now), now)

    def expects(self, peer: Peer) -> bool:
        """Whether an answer of the peer, which may be long, is awaited."""
        session = self._sessions.get(peer)
        return session is not None and bool(session.open)

    def ask(
        self, peer: Peer, now: Now, *, proof: ProofReq | None = None, block_id: bytes | None = None
    ) -> list[Effect]:
        """Asks for a proof or a block; the answer comes as Answered. LocalProtocolError when it cannot be asked now."""
        session = self._sessions.get(peer)
        if session is None or not self._sessions.can_ask(session, now):
            raise LocalProtocolError("the peer is not there, or is asked too much already")
        return [self._sessions.ask(session, now, Wanted.OTHER, proof=proof, block_id=block_id)]

    def served(self, peer: Peer, n_bytes: int) -> None:
        """A Serve is done with, and took so much of the peer's share."""
        session = self._sessions.get(peer)
        if session is not None:
            self._serving.served(session, n_bytes)

    def receive(self, peer: Peer, message: Status | Request | Response, now: Now) -> list[Effect]:
        """What a peer sent; from one that has left, nothing."""
        session = self._sessions.get(peer)
        if session is None:
            return []
        session.heard = now.seconds
        match message:
            case Status():
                effects = self._heard_status(session, message, now)
            case Request():
                effects = self._serving.requested(session, message, now)
                if any(isinstance(effect, Fault) for effect in effects):
                    effects += self._following.left(session, now)
            case _:
                effects = self._heard_response(session, message, now)
        return self._settled(effects, now)

    def _heard_status(self, session: Session, status: Status, now: Now) -> list[Effect]:
        params, before = self._state.params, session.status
        if status.chain_id != params.chain_id:
            return self._following.blame(session.peer, "DECODE", "STATUS of another chain", now)
        session.status = status
        if before is None or before.tip_id != status.tip_id:
            session.denied = False
        effects: list[Effect] = []
        if status.checkpoint and (before is None or before.checkpoint != status.checkpoint):
            try:
                effects += checkpoint_conflict(self._state, status.checkpoint)
            except ProofInvalid as error:
                return self._following.blame(session.peer, "CHECKPOINT", str(error), now)
        if abs(status.now_ms - now.unix_ms) > MAX_AHEAD_MS and not session.clock_warned:
            session.clock_warned = True
            effects.append(Alarm(AlarmKind.CLOCK, "our clock and a peer's are more than two hours apart"))
        return effects

    def _heard_response(self, session: Session, response: Response, now: Now) -> list[Effect]:
        opened = session.open.pop(response.id, None)
        if opened is None:
            return self._following.blame(session.peer, "UNASKED", "an answer to nothing that was asked", now)
        if opened.wanted is Wanted.OTHER:
            return [Answered(session.peer, response)]
        return self._following.responded(session, opened, response, now)

    @property
    def has_work(self) -> bool:
        """Whether `work` would do something now."""
        return self._following.has_work(writing=self._writing is not None)

    def work(self, now: Now) -> list[Effect]:
        """Up to 4 ms of checking; call it until `has_work` is False, with a pause between."""
        return self._settled(self._following.work(now, writing=self._writing is not None), now)

    # -- Time

    def next_deadline(self) -> float | None:
        """By `Now.seconds`."""
        times = [session.next_deadline(self._config.sync, self.tip.block_id) for session in self._sessions]
        due = self._seal_time()
        if due is not None and not self._blocked:
            times.append(due)
        return min(times, default=None)

    def deadline_passed(self, now: Now) -> list[Effect]:
        """Seals, tells, and gives up on those who are late."""
        effects: list[Effect] = []
        for session in self._sessions:
            if session.heard + self._config.sync.idle_seconds <= now.seconds:
                self._sessions.leave(session.peer)
                effects.append(Fault(session.peer, "IDLE", "nothing was heard of the peer", None))
                effects += self._following.left(session, now)
            elif any(opened.deadline <= now.seconds for opened in session.open.values()):
                effects += self._following.blame(session.peer, "DEADLINE", "an answer is late", now)
            elif session.next_deadline(self._config.sync, self.tip.block_id) <= now.seconds:
                effects.append(self._tell(session, now))
        return self._settled(effects, now) + self.seal(now)

    def _tell(self, session: Session, now: Now) -> Effect:
        session.told_at, session.told_tip = now.seconds, self.tip.block_id
        return Send(session.peer, self.status(now))

    def _settled(self, effects: list[Effect], now: Now) -> list[Effect]:
        """What every call ends with: the next branch, and news for those who did not have any lately."""
        effects = self._handed_over(effects + self._following.consider(now))
        pause = self._config.sync.announce_seconds
        for session in self._sessions:
            told = session.told_tip == self.tip.block_id
            if session.reader and not told and session.told_at + pause <= now.seconds:
                effects.append(self._tell(session, now))
        if self._following.holds_sealing:
            effects += self._stop_mining()
        return effects

    def _handed_over(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Persist | Replace):
                self._writing = effect
        return effects
