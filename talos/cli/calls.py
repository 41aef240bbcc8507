"""The rows of `talos audit`: what the entries of a log say, each request together with its answer.

A line has one entry; within a session and a direction the entries stand in the order of the lines, so that counting
them gives back the numbers by which an answer names its request.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final

from talos.chain.entry import Kind
from talos.errors import TalosError
from talos.identity.peer_id import PeerId
from talos.mcp.detail import Decision, MetaType, Tag, decode_detail

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from talos.chain.records import Record

__all__ = ["Call", "CallReader", "peer_text", "rfc3339"]

MAX_OPEN = 1024
"""Requests of a log that may wait for their answer before the rows behind them are given."""
MAX_SESSIONS = 1024

_EVENTS: Final = {int(kind) for kind in MetaType if kind >= MetaType.OPENED}
_WORDS: Final[Mapping[int, str]] = {int(kind): kind.name.lower() for kind in MetaType}
_DECISIONS: Final[Mapping[int, str]] = {int(decision): decision.name.lower() for decision in Decision}


@dataclass(slots=True, kw_only=True)
class Call:
    """One row: a request with its answer, or another line or event that has an entry of its own."""

    log: str
    entry: int
    leaf: str
    block: int | None
    """None while the entry waits for one."""
    time_ms: int
    type: str
    side: str
    peer_id: str
    server: str | None = None
    session: str | None = None
    seq: int | None = None
    method: str | None = None
    tool: str | None = None
    decision: str | None = None
    reason: str | None = None
    duration_ms: int | None = None
    error_code: int | None = None
    exit_status: int | None = None
    count: int | None = None
    answered: bool = False
    waiting: bool = False
    """Its answer may still come."""

    @property
    def failed(self) -> bool:
        """Denied, refused, dropped, answered with an error, or never answered."""
        if self.type in {"refused", "dropped"} or self.error_code is not None:
            return True
        unanswered = self.type == "request" and not self.answered
        return unanswered or (self.decision or "forwarded") != "forwarded"

    def fields(self) -> dict[str, Any]:
        """As the JSON kind `call` has them."""
        named = {name: getattr(self, name) for name in self.__slots__ if name not in {"time_ms", "answered", "waiting"}}
        return {"time": rfc3339(self.time_ms), **named, "ok": not self.failed}


@dataclass(slots=True)
class _Session:
    """What is known of a session while its entries are read."""

    server: str | None = None
    lines: dict[bool, int] = field(default_factory=lambda: {True: 0, False: 0})
    open: OrderedDict[tuple[bool, int], Call] = field(default_factory=OrderedDict)


class CallReader:
    """Turns the records of one log into rows, in the order of the log; else in that of their answers."""

    def __init__(self, log: str, side: str, me: PeerId, *, ordered: bool = True) -> None:
        self._ordered = ordered
        self._log = log
        self._side = side
        self._me = me.to_bytes()
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._rows: deque[Call] = deque()

    def receive(self, record: Record) -> Iterator[Call]:
        """The rows that this record completes."""
        if record.entry.kind not in {Kind.MCP_CALL, Kind.MCP_RESULT} or record.meta is None:
            return
        commit, meta = record.entry.fields[2], record.meta
        session = self._sessions.setdefault(commit, _Session())
        row = self._row(record)
        if meta.type in _EVENTS:
            row.server = session.server = row.server or session.server
            self._rows.append(row)
            if meta.type in {MetaType.CLOSED, MetaType.REFUSED}:
                self._forget(commit)
        else:
            self._line(record, row, session)
        while len(self._sessions) > MAX_SESSIONS:
            self._forget(next(iter(self._sessions)))
        yield from self._complete(MAX_OPEN)

    def rest(self) -> Iterator[Call]:
        """The rows whose answers are not there."""
        yield from self._complete(0)

    def _line(self, record: Record, row: Call, session: _Session) -> None:
        assert record.meta is not None
        sent = record.meta.sender == self._me
        session.lines[sent] += 1
        row.seq = session.lines[sent]
        row.server = row.server or session.server
        if record.entry.kind is Kind.MCP_RESULT:
            self._answer(record, row, session, sent=sent)
            return
        self._rows.append(row)
        if row.type == "request":
            session.open[(sent, row.seq)] = row
            row.waiting = True

    def _answer(self, record: Record, answer: Call, session: _Session, *, sent: bool) -> None:
        assert record.meta is not None
        seq = decode_detail(record.meta.detail).get(Tag.ANSWERS)
        request = session.open.pop((not sent, seq), None) if isinstance(seq, int) else None
        if request is None:
            self._rows.append(answer)
            return
        request.answered, request.waiting = True, False
        request.duration_ms, request.error_code = answer.duration_ms, answer.error_code
        request.reason = request.reason or answer.reason
        if answer.decision not in {None, "forwarded"}:
            request.decision = answer.decision

    def _complete(self, limit: int) -> Iterator[Call]:
        while self._rows and (not self._rows[0].waiting or len(self._rows) > limit):
            yield self._rows.popleft()
        if not self._ordered:
            complete = [row for row in self._rows if not row.waiting]
            self._rows = deque(row for row in self._rows if row.waiting)
            yield from complete

    def _forget(self, commit: bytes) -> None:
        session = self._sessions.pop(commit, _Session())
        for row in session.open.values():
            row.waiting = False

    def _row(self, record: Record) -> Call:
        assert record.meta is not None
        detail = decode_detail(record.meta.detail)
        meta, number, text = record.meta, partial(_number, detail), partial(_text, detail)
        event = meta.type in _EVENTS
        remote = meta.recipient if meta.sender == self._me else meta.sender
        return Call(
            log=self._log,
            entry=record.index,
            leaf=record.leaf.hex(),
            block=record.height,
            time_ms=record.entry.time_ms,
            type=_WORDS.get(meta.type, str(meta.type)),
            side=self._side,
            peer_id=peer_text(remote) or "",
            server=text(Tag.SERVER),
            session=record.entry.fields[2].hex(),
            method=text(Tag.METHOD),
            tool=text(Tag.NAME),
            decision=_DECISIONS.get(number(Tag.DECISION) or 0) if not event else None,
            reason=text(Tag.REASON),
            duration_ms=number(Tag.DURATION),
            error_code=number(Tag.ERROR_CODE),
            exit_status=number(Tag.EXIT_STATUS),
            count=number(Tag.COUNT),
        )


@lru_cache(maxsize=1024)
def peer_text(data: bytes) -> str | None:
    """Whom the bytes in an entry name, in base58; what is no peer id in hex."""
    try:
        return str(PeerId.from_bytes(data)) if data else None
    except TalosError:
        return data.hex()


def rfc3339(time_ms: int) -> str:
    """In UTC with milliseconds; what no calendar holds as the number."""
    try:
        moment = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return str(time_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _number(detail: Mapping[Any, object], tag: Tag) -> int | None:
    value = detail.get(tag)
    return value if isinstance(value, int) else None


def _text(detail: Mapping[Any, object], tag: Tag) -> str | None:
    value = detail.get(tag)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else None
