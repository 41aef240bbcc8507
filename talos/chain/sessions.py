"""Peers of a chain: what each has said, what is asked of it and by when, and how much it may ask."""

from __future__ import annotations

import enum
import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from talos.chain.effects import Fault, Send
from talos.chain.messages import MAX_OPEN_REQUESTS, Request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.chain.effects import Now, Peer
    from talos.chain.messages import ProofReq, Range, Status

__all__ = ["Open", "Session", "Sessions", "SyncLimits", "Wanted"]

MAX_FAULTY = 1024
MINUTE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncLimits:
    """How long peers are waited for, and how much they may ask."""

    heartbeat_seconds: float = 30.0
    announce_seconds: float = 0.5
    """At least this between two STATUS."""
    idle_seconds: float = 90.0
    """Without a frame the stream is given up."""
    first_seconds: float = 15.0
    """For the frame that says which chain a stream is about."""
    frame_seconds: float = 10.0
    """A frame that takes longer brings at least 4 KiB a second."""
    guard_seconds: float = 2.0
    """After a start, how long a feed that others keep signs no block before one of them was heard."""
    header_seconds: float = 15.0
    body_seconds: float = 30.0
    busy_seconds: float = 5.0
    """Until a busy peer is asked again."""
    requests_per_second: float = 16.0
    requests_burst: int = 64
    bytes_per_minute: int = 64 * 1024 * 1024
    faults: int = 3
    fault_seconds: float = 600.0
    ban_seconds: float = 3600.0
    staged_headers: int = 65_536
    """Of a branch that does not win yet; 19 MB."""


class Wanted(enum.Enum):
    """What a request of ours is for."""

    HEADERS = "headers"
    LOCATED = "headers after a locator"
    BLOCKS = "blocks"
    CONFLICT = "the header at a height where ours is another"
    OTHER = "what our driver asked"


@dataclass(frozen=True, slots=True)
class Open:
    """A request of ours that is not answered yet."""

    id: int
    wanted: Wanted
    start: int
    end: int
    deadline: float
    tag: int = 0
    """Which of the branches that were fetched it is for."""


@dataclass(slots=True, eq=False)
class Session:
    """One peer's stream."""

    peer: Peer
    reader: bool
    heard: float
    tokens: float
    tokens_at: float
    status: Status | None = None
    open: dict[int, Open] = field(default_factory=dict)
    serving: int = 0
    minute_began: float = 0.0
    minute_bytes: int = 0
    asked_after: float = 0.0
    """Busy until then."""
    denied: bool = False
    """It lets us read nothing, or has not what we need."""
    told_at: float = -1e9
    told_tip: bytes = b""
    next_id: int = 1
    clock_warned: bool = False

    def next_deadline(self, limits: SyncLimits, tip: bytes) -> float:
        """When it is to be told again, was heard of too long ago, or is late."""
        pause = limits.heartbeat_seconds if self.told_tip == tip else limits.announce_seconds
        return min(
            self.heard + limits.idle_seconds,
            self.told_at + pause if self.reader else math.inf,
            *(request.deadline for request in self.open.values()),
        )


class Sessions:
    """All of them, and who misbehaved of late."""

    def __init__(self, chain_id: bytes, limits: SyncLimits) -> None:
        self._chain_id = chain_id
        self.limits = limits
        self._sessions: dict[Peer, Session] = {}
        self._faults: OrderedDict[Peer, deque[float]] = OrderedDict()

    def __iter__(self) -> Iterator[Session]:
        return iter(list(self._sessions.values()))

    def get(self, peer: Peer) -> Session | None:
        return self._sessions.get(peer)

    def join(self, peer: Peer, now: Now, *, reader: bool) -> Session:
        session = Session(peer, reader, now.seconds, float(self.limits.requests_burst), now.seconds)
        session.minute_began = now.seconds
        self._sessions[peer] = session
        return session

    def leave(self, peer: Peer) -> Session | None:
        return self._sessions.pop(peer, None)

    def fault(self, peer: Peer, reason: str, text: str, now: Now) -> Fault:
        """The session ends; the third one within ten minutes closes chain streams to the peer for an hour."""
        self._sessions.pop(peer, None)
        times = self._faults.setdefault(peer, deque(maxlen=self.limits.faults))
        self._faults.move_to_end(peer)
        if len(self._faults) > MAX_FAULTY:
            self._faults.popitem(last=False)
        times.append(now.seconds)
        banned = len(times) == self.limits.faults and times[0] > now.seconds - self.limits.fault_seconds
        return Fault(peer, reason, text, now.seconds + self.limits.ban_seconds if banned else None)

    # -- What we ask

    def can_ask(self, session: Session, now: Now) -> bool:
        return not session.denied and len(session.open) < MAX_OPEN_REQUESTS and session.asked_after <= now.seconds

    def ask(
        self,
        session: Session,
        now: Now,
        wanted: Wanted,
        *,
        headers: Range | None = None,
        blocks: Range | None = None,
        block_id: bytes | None = None,
        proof: ProofReq | None = None,
        locator: tuple[bytes, ...] = (),
        tag: int = 0,
    ) -> Send:
        pause = self.limits.body_seconds if blocks is not None or block_id else self.limits.header_seconds
        span = headers or blocks or (0, 0)
        request = Request(
            chain_id=self._chain_id, id=session.next_id, headers=headers, blocks=blocks, block_id=block_id,
            proof=proof, locator=locator,
        )  # fmt: skip
        session.open[request.id] = Open(request.id, wanted, *span, now.seconds + pause, tag)
        session.next_id += 1
        return Send(session.peer, request)

    # -- What they ask

    def may_ask(self, session: Session, now: Now) -> bool:
        """Takes one from its share of requests; False when there is none, or too much is on its way."""
        limits = self.limits
        gained = (now.seconds - session.tokens_at) * limits.requests_per_second
        session.tokens = min(limits.requests_burst, session.tokens + gained)
        session.tokens_at = now.seconds
        if now.seconds - session.minute_began >= MINUTE:
            session.minute_began, session.minute_bytes = now.seconds, 0
        if session.tokens < 1 or session.minute_bytes >= limits.bytes_per_minute:
            return False
        session.tokens -= 1
        return session.serving < MAX_OPEN_REQUESTS
