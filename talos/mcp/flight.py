"""Requests that wait for their answer, and the errors that the tunnel itself gives (docs/protocols/mcp.md, errors)."""

from __future__ import annotations

import enum
import json
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.mcp.line_info import Kind

if TYPE_CHECKING:
    from talos.mcp.limits import McpLimits
    from talos.mcp.line_info import IdKey, LineInfo

__all__ = ["Answer", "Bucket", "Code", "Flight", "OpenRequest", "Reason", "cancel_line", "error_line"]

SUBSCRIBE = "subscriptions/listen"


class Code(enum.IntEnum):
    """Of errors that the tunnel originates: outside of what JSON-RPC and MCP keep for themselves."""

    DENIED = 4031
    TIMEOUT = 4081
    TOO_LARGE = 4131
    LIMIT = 4291
    AUDIT = 5001
    LOST = 5021
    UNREACHABLE = 5031


class Reason(enum.StrEnum):
    """What `data.reason` of an error says."""

    TIMEOUT = "timeout"
    TOO_LARGE = "too-large"
    RATE = "rate"
    IN_FLIGHT = "in-flight"
    SUBSCRIPTIONS = "subscriptions"
    AUDIT = "audit"
    CONNECTION_LOST = "connection-lost"
    SERVER_EXITED = "server-exited"
    GOING_AWAY = "going-away"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    BUSY = "busy"
    FAILED = "failed"


_MESSAGES = {
    Code.DENIED: "denied by the tunnel's policy",
    Code.TIMEOUT: "the server did not answer in time",
    Code.TOO_LARGE: "the message is too large for the tunnel",
    Code.LIMIT: "a limit of the tunnel is reached",
    Code.AUDIT: "the audit log cannot record",
    Code.LOST: "the session was lost",
    Code.UNREACHABLE: "no session with the server",
}


def error_line(code: Code, reason: str, id_raw: bytes | None = None, **data: object) -> bytes:
    """The response to the request that spells its id `id_raw`; without an id where that could not be read."""
    details: dict[str, object] = {"source": "talos", "reason": reason}
    if code is Code.LOST:
        details["executed"] = "unknown"
    error = {"code": code.value, "message": _MESSAGES[code], "data": details | data}
    identity = b"" if id_raw is None else b'"id":' + id_raw + b","
    return b'{"jsonrpc":"2.0",' + identity + b'"error":' + json.dumps(error, separators=(",", ":")).encode() + b"}"


def cancel_line(id_raw: bytes, reason: str = "timeout") -> bytes:
    """Tells the server that nobody waits for this request any more."""
    return (
        b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":'
        + id_raw
        + b',"reason":'
        + json.dumps(reason).encode()
        + b"}}"
    )


@dataclass(slots=True)
class OpenRequest:
    """A request that went on and was not answered yet."""

    id_raw: bytes
    id_key: IdKey
    method: str
    seq: int
    since: float
    """Seconds, by the caller's clock."""
    cancelled: bool = False

    @property
    def subscribes(self) -> bool:
        """Open as long as the subscription: neither in flight nor bound to a time."""
        return self.method == SUBSCRIBE


@dataclass(frozen=True, slots=True)
class Answer:
    """What a response answers."""

    request: OpenRequest | None
    """None: nothing that is known."""
    waited: float = 0.0
    """Seconds that it took."""
    late: bool = False
    """The tunnel has answered that request itself: drop the response."""


class Flight:
    """The open requests of one direction of a session. An id used again while open: the newer request counts.

    Holds as many requests as `admit` lets through; where it is not asked, the oldest goes at twice the limits.
    """

    def __init__(self, limits: McpLimits) -> None:
        self.limits = limits
        self._requests: OrderedDict[IdKey, OpenRequest] = OrderedDict()
        self._answered: OrderedDict[IdKey, None] = OrderedDict()
        self._in_flight = 0
        self._subscriptions = 0

    @property
    def open(self) -> int:
        """Requests that are owed an answer: all but the cancelled ones."""
        return self._in_flight + self._subscriptions

    @property
    def in_flight(self) -> int:
        """The same without subscriptions."""
        return self._in_flight

    def admit(self, info: LineInfo) -> Reason | None:
        """Why the request `info` is one too many; None when it is not."""
        if info.kind is not Kind.REQUEST:
            return None
        if info.method == SUBSCRIBE:
            return Reason.SUBSCRIPTIONS if self._subscriptions >= self.limits.subscriptions else None
        return Reason.IN_FLIGHT if self._in_flight >= self.limits.in_flight else None

    def opened(self, info: LineInfo, seq: int, now: float) -> None:
        """The request `info` goes on as line `seq`. One without a readable id cannot be followed."""
        if info.kind is not Kind.REQUEST or info.id_key is None or info.id_raw is None or info.method is None:
            return
        self._take(info.id_key)
        self._answered.pop(info.id_key, None)
        request = OpenRequest(info.id_raw, info.id_key, info.method, seq, now)
        self._requests[info.id_key] = request
        self._count(request, 1)
        if len(self._requests) > 2 * (self.limits.in_flight + self.limits.subscriptions):
            self._take(next(iter(self._requests)))

    def answered(self, info: LineInfo, now: float) -> Answer:
        """The response `info` came."""
        if info.id_key is None:
            return Answer(None)
        request = self._take(info.id_key)
        if request is None and info.id_key in self._answered:
            del self._answered[info.id_key]
            return Answer(None, late=True)
        return Answer(request, waited=0.0 if request is None else now - request.since)

    def cancelled(self, key: IdKey | None) -> None:
        """The client no longer wants the answer: the request counts no more, a response to it still passes."""
        request = None if key is None else self._requests.get(key)
        if request is not None and not request.cancelled:
            self._count(request, -1)
            request.cancelled = True

    def close_one(self, request: OpenRequest) -> None:
        """The tunnel answers `request` itself; a response that still comes is late."""
        self._take(request.id_key)
        self._answered[request.id_key] = None
        if len(self._answered) > self.limits.answered_ids:
            self._answered.popitem(last=False)

    def owed(self, code: Code, reason: str, **data: object) -> list[tuple[OpenRequest, bytes]]:
        """Every request that is owed an answer, oldest first, with the error that is its answer; all are closed."""
        requests = list(self._requests.values())
        for request in requests:
            self.close_one(request)
        return [(each, error_line(code, reason, each.id_raw, **data)) for each in requests if not each.cancelled]

    def next_deadline(self) -> float | None:
        """When `overdue` has something to say."""
        if self.limits.call_timeout is None:
            return None
        waiting = (each.since for each in self._requests.values() if not (each.cancelled or each.subscribes))
        oldest = next(waiting, None)
        return None if oldest is None else oldest + self.limits.call_timeout

    def overdue(self, now: float) -> list[OpenRequest]:
        """The requests whose time is over; `close_one` each."""
        timeout = self.limits.call_timeout
        if timeout is None:
            return []
        return [
            each
            for each in self._requests.values()
            if each.since + timeout <= now and not (each.cancelled or each.subscribes)
        ]

    def _take(self, key: IdKey) -> OpenRequest | None:
        request = self._requests.pop(key, None)
        if request is not None and not request.cancelled:
            self._count(request, -1)
        return request

    def _count(self, request: OpenRequest, by: int) -> None:
        if request.subscribes:
            self._subscriptions += by
        else:
            self._in_flight += by


class Bucket:
    """Lets `rate` through a second and `burst` at once; None lets everything through."""

    __slots__ = ("_burst", "_level", "_rate", "_since")

    def __init__(self, rate: float | None, burst: int | None, now: float) -> None:
        self._rate = rate
        self._burst = max(1.0, burst if burst is not None else (rate or 1.0))
        self._level = self._burst
        self._since = now

    def take(self, now: float) -> float:
        """0.0 when one more is let through; else how many seconds are to be waited, and nothing is taken."""
        if self._rate is None:
            return 0.0
        self._level = min(self._burst, self._level + max(0.0, now - self._since) * self._rate)
        self._since = now
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self._rate
