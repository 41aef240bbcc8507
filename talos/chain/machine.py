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

from typing import TYPE_CHECKING

from talos.chain.conflict import checkpoint_conflict, covered
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
    KeepCheckpoint,
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
from talos.chain.following import Following
from talos.chain.guard import Guard
from talos.chain.messages import ProofReq, Request, Response, Status
from talos.chain.sealing import Admitted, MachineConfig, Sealing
from talos.chain.serving import Serving
from talos.chain.sessions import Session, Sessions, SyncLimits, Wanted
from talos.chain.state import ChainState
from talos.chain.validation import MAX_AHEAD_MS
from talos.errors import LocalProtocolError, ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from talos.chain.block import Prepared
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
    "KeepCheckpoint",
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
        self._state = ChainState(params, source, frozen_at=frozen_at)
        self._config = config
        self._sealing = Sealing(self._state, config, key, pending)
        self._sessions = Sessions(params.chain_id, config.sync)
        self._following = Following(self._state, self._sessions, None if key is None else key.public_key.data)
        self._serving = Serving(self._state, self._sessions)
        self._guard = Guard()
        self._writing: Persist | Replace | None = None
        self._copies = key is None
        self._covered = 0
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
    def frozen_at(self) -> int | None:
        """The height at which a feed has two blocks."""
        return self._state.frozen_at

    @property
    def final_height(self) -> int:
        """Up to here nothing is ever replaced."""
        return self._state.final_height

    @property
    def waiting(self) -> int:
        """Own entries without a block."""
        return len(self._sealing)

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
        tip = self._shown
        header = tip.header
        return Status(
            chain_id=self._state.params.chain_id,
            height=header.height,
            total_work=tip.total_work,
            tip_id=tip.block_id,
            log_size=header.log_size,
            log_root=header.log_root,
            checkpoint=self.checkpoint if self._guard.shown is None else self._guard.note,
            min_height=self.min_height,
            min_index=self.min_index,
            now_ms=now.unix_ms,
        )

    @property
    def _shown(self) -> Stored:
        return self._guard.shown or self.tip

    def guard(self, peers: frozenset[Peer], now: Now) -> None:
        """Shows nothing newer than now until one of these peers, who keep this feed, knows no more of it than we do."""
        self._guard.begin(peers, self.tip, self.checkpoint, now.seconds + self._config.sync.guard_seconds)
        self._serving.shown = self.tip.header.height

    # -- Own entries and blocks

    def admit(self, entry: bytes, sealed: bytes, now: Now) -> Admitted:
        """Takes an own entry in; it waits for a block from now on, so write its row next, or `withdraw` it.

        EntryConflict, MempoolFull, ChainFrozen, RollbackSuspected; LocalProtocolError for what no block may hold.
        """
        return self._sealing.admit(entry, sealed, now)

    def admit_all(self, entries: Sequence[Prepared], known: Container[bytes], now: Now) -> list[bool]:
        """As `admit`, all or none, and which are there already; `known` has those whose key the chain holds."""
        return self._sealing.admit_all(entries, known, now)

    def withdraw(self, keys: Iterable[bytes]) -> None:
        """These were not made durable."""
        self._sealing.withdraw(keys)

    def seal(self, now: Now, *, force: bool = False) -> list[Effect]:
        """A draft of what waits, when it is time for it, or with `force` as soon as there is something."""
        due = self._seal_time()
        if due is None or self._guard.forbids_sealing(now):
            return []
        return self._sealing.draft(now) if force or due <= now.seconds else []

    def seal_group(self, new: int, now: Now) -> list[Effect]:
        """A draft of what waits, where so many new entries are worth a block at once; else nothing."""
        may = self._may_seal and not self._guard.forbids_sealing(now)
        return self._sealing.draft(now) if may and self._sealing.worth_a_block(new) else []

    @property
    def _may_seal(self) -> bool:
        return self._writing is None and not self._following.holds_sealing and self._sealing.possible

    def _seal_time(self) -> float | None:
        """None while nothing waits or may be sealed."""
        due = self._sealing.due() if self._may_seal else None
        return None if due is None else self._guard.sealing_time(due)

    @property
    def full(self) -> bool:
        """So much waits that the next block does not wait for its time."""
        return self._sealing.full

    def mined(self, ticket: int, nonce: int, _now: Now) -> list[Effect]:
        """The draft's nonce; nothing when the draft has lost its place meanwhile."""
        block = self._sealing.mined(ticket, nonce)
        return [] if block is None else self._handed_over([Persist((block,), own=True)])

    def persisted(self, now: Now) -> list[Effect]:
        """What was handed over last is durable: the tip moves, and others may know."""
        writing, self._writing = self._writing, None
        if writing is None:
            raise LocalProtocolError("nothing was handed over")
        if isinstance(writing, Persist):
            self._state.adopt(writing.blocks)
            self._sealing.sealed(writing.blocks)
        else:
            self._state.switch()
            self._sealing.replaced(writing.readmit, now)
        effects: list[Effect] = [*self._sealing.stop(), Announce(self.tip)]
        effects += self._following.written(now, own=isinstance(writing, Persist) and writing.own)
        return self._settled(effects + self._cover(), now)

    def persist_failed(self) -> list[Effect]:
        """The store refused: own entries wait on, another branch is let go."""
        self._writing = None
        return self._following.drop()

    # -- Peers

    def peer_joined(self, peer: Peer, now: Now, *, reader: bool) -> list[Effect]:
        """A stream with a peer is open; `reader` may see everything."""
        session = self._sessions.join(peer, now, reader=reader)
        return [self._tell(session, now)] if reader else []

    def peer_left(self, peer: Peer, now: Now) -> list[Effect]:
        """Its stream ended."""
        session = self._sessions.leave(peer)
        return [] if session is None else self._settled(self._following.left(session, now), now)

    @property
    def peers(self) -> list[Peer]:
        """With whom a stream is open."""
        return [session.peer for session in self._sessions]

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
                effects = self._heard_request(session, message, now)
            case _:
                effects = self._heard_response(session, message, now)
        return self._settled(effects, now)

    def _heard_request(self, session: Session, request: Request, now: Now) -> list[Effect]:
        effects = self._serving.requested(session, request, now)
        if any(isinstance(effect, Fault) for effect in effects):
            effects += self._following.left(session, now)
        return effects

    def _heard_status(self, session: Session, status: Status, now: Now) -> list[Effect]:
        params, before = self._state.params, session.status
        if status.chain_id != params.chain_id:
            return self._following.blame(session.peer, "DECODE", "STATUS of another chain", now)
        session.status = status
        if self._guard.heard(session.peer, status.height):
            self._serving.shown = None
        if before is None or before.tip_id != status.tip_id:
            session.denied = False
        effects: list[Effect] = []
        if status.checkpoint and (before is None or before.checkpoint != status.checkpoint):
            try:
                effects += checkpoint_conflict(self._state, status.checkpoint)
            except ProofInvalid as error:
                return self._following.blame(session.peer, "CHECKPOINT", str(error), now)
            effects += self._cover()
        if abs(status.now_ms - now.unix_ms) > MAX_AHEAD_MS and not session.clock_warned:
            session.clock_warned = True
            effects.append(Alarm(AlarmKind.CLOCK, "our clock and a peer's are more than two hours apart"))
        return effects

    def _cover(self) -> list[Effect]:
        """A copy keeps the newest of its author's checkpoints that it has come to cover, and shows it on."""
        if not self._copies or self.frozen:
            return []
        if not self._covered and self.checkpoint:
            self._covered = covered(self._state, self.checkpoint) or 0
        effects: list[Effect] = []
        for note in {session.status.checkpoint for session in self._sessions if session.status is not None} - {b""}:
            size = covered(self._state, note)
            if size is not None and size > self._covered:
                self._covered, self.checkpoint = size, note
                effects.append(KeepCheckpoint(size, note))
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
        times = [session.next_deadline(self._config.sync, self._shown.block_id) for session in self._sessions]
        if (due := self._seal_time()) is not None:
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
            elif session.next_deadline(self._config.sync, self._shown.block_id) <= now.seconds:
                effects.append(self._tell(session, now))
        return self._settled(effects, now) + self.seal(now)

    def _tell(self, session: Session, now: Now) -> Effect:
        session.told_at, session.told_tip = now.seconds, self._shown.block_id
        return Send(session.peer, self.status(now))

    def _settled(self, effects: list[Effect], now: Now) -> list[Effect]:
        """What every call ends with: the next branch, and news for those who did not have any lately."""
        effects = self._handed_over(effects + self._following.consider(now))
        pause = self._config.sync.announce_seconds
        for session in self._sessions:
            told = session.told_tip == self._shown.block_id
            if session.reader and not told and session.told_at + pause <= now.seconds:
                effects.append(self._tell(session, now))
        if self._following.holds_sealing:
            effects += self._sealing.stop()
        return effects

    def _handed_over(self, effects: list[Effect]) -> list[Effect]:
        for effect in effects:
            if isinstance(effect, Persist | Replace):
                self._writing = effect
        return effects
