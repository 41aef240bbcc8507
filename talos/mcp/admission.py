"""Who gets a session: what serve knows of the peers that ask, and how it judges an Open. No IO."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from talos.mcp.flight import Bucket
from talos.mcp.wire import VERSION, Open, Status

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId
    from talos.mcp.limits import McpLimits
    from talos.mcp.policy import Grant, Policy

__all__ = ["Admission"]

REMEMBERED_PEERS = 1024
"""Granted peers whose rates outlive their sessions; the one not seen for longest leaves."""
MINUTE = 60.0


class Admission:
    """The opening's checks 2 to 7, and the rates that they need."""

    def __init__(self, policy: Policy, limits: McpLimits) -> None:
        self.policy = policy
        self._limits = limits
        self._openings: OrderedDict[PeerId, deque[float]] = OrderedDict()
        self._buckets: OrderedDict[tuple[PeerId, str], tuple[tuple[float | None, int | None], Bucket | None]] = (
            OrderedDict()
        )
        self._refusals: OrderedDict[PeerId, tuple[float, int]] = OrderedDict()
        self._other_refusals = 0

    def judge(self, peer: PeerId, message: Open, sessions: list[PeerId], now: float) -> tuple[Status, Grant | None]:
        """The answer, and with OK the grant; `sessions` has the peer of each session there is.

        RemoteProtocolError when the Open is malformed, which a peer without a grant does not get to know.
        """
        if not self.policy.knows(peer):
            return Status.REFUSED, None
        if message.version < VERSION:
            return Status.VERSION, None
        message.check()
        grant = self.policy.grant_for(peer, message.server)
        if grant is None:
            return Status.REFUSED, None
        if message.resumes:
            return Status.NO_SESSION, None
        if not self._has_room(peer, grant, sessions, now):
            return Status.BUSY, None
        return Status.OK, grant

    def limits(self, grant: Grant) -> McpLimits:
        """Those of a session under `grant`."""
        return self._limits.for_grant(grant.limits)

    def bucket(self, peer: PeerId, grant: Grant, now: float) -> Bucket | None:
        """What the peer's sessions share, so that leaving and coming back buys no calls. None: no rate."""
        limits = self.limits(grant)
        if limits.rate is None:
            return None
        key, rate = (peer, grant.server), (limits.rate, limits.burst)
        known, bucket = self._buckets.pop(key, (rate, None))
        if bucket is None or known != rate:
            bucket = Bucket(limits.rate, limits.burst, now)
        self._buckets[key] = rate, bucket
        if len(self._buckets) > REMEMBERED_PEERS:
            self._buckets.popitem(last=False)
        return bucket

    def refused(self, peer: PeerId, now: float) -> int:
        """How many refusals are to be recorded now: this one and those before it, or none yet."""
        until, unsaid = self._refusals.pop(peer, (now, 0))
        if now < until:
            self._refusals[peer] = (until, unsaid + 1)
            return 0
        self._refusals[peer] = (now + MINUTE / self._limits.refusals_per_minute, 0)
        shared = 0
        if len(self._refusals) > self._limits.refusal_peers:
            self._other_refusals += self._refusals.popitem(last=False)[1][1]
            shared, self._other_refusals = self._other_refusals, 0
        return 1 + unsaid + shared

    def _has_room(self, peer: PeerId, grant: Grant, sessions: list[PeerId], now: float) -> bool:
        limits = self.limits(grant)
        times = self._openings.setdefault(peer, deque())
        self._openings.move_to_end(peer)
        if len(self._openings) > REMEMBERED_PEERS:
            self._openings.popitem(last=False)
        while times and times[0] <= now - MINUTE:
            times.popleft()
        if (
            len(sessions) >= limits.sessions
            or sessions.count(peer) >= limits.sessions_per_peer
            or len(times) >= limits.openings_per_minute
        ):
            return False
        times.append(now)
        return True
