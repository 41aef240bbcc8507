"""A session at serve: one client, one server process, and between them what judges, records and counts lines."""

from __future__ import annotations

import math
import secrets
import signal
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import AuditError
from talos.mcp.flight import Bucket, Code, Flight, cancel_line, error_line
from talos.mcp.framing import Kind, LineDecoder, LongLine, inspect, members
from talos.mcp.inspecting import inspected
from talos.mcp.machine import cost
from talos.mcp.record import now_ms
from talos.mcp.sink import THE_END, Judged, ServerSink
from talos.mcp.transcript import Decision, MetaType, Way
from talos.mcp.turn import turn
from talos.mcp.wire import CloseCode
from talos.muxed.doorbell import Doorbell

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from talos.abc import AuditEntry
    from talos.mcp.child import Child, StderrLog
    from talos.mcp.flight import OpenRequest
    from talos.mcp.framing import LineInfo
    from talos.mcp.limits import McpLimits
    from talos.mcp.link import Link
    from talos.mcp.record import Record
    from talos.mcp.stats import McpStats

__all__ = ["ServeSession"]

READ_BYTES = 256 * 1024
BATCH_LINES = 128
"""So many lines are judged and recorded together; then other sessions have their turn."""
STDOUT_SECONDS = 1.0
"""How long the rest of its output may take when a server has ended."""


class _Down(NamedTuple):
    """A line for the client, with what its entry says of it."""

    line: bytes
    info: LineInfo
    request: OpenRequest | None = None
    decision: Decision = Decision.FORWARDED
    reason: str = ""
    code: int | None = None


class ServeSession:
    """Runs from Accept to the end of the session; `outcome` then says how it ended.

    Each direction is judged by one task and written by another, and neither holds up the reader of the stream.
    """

    def __init__(
        self,
        link: Link,
        child: Child,
        *,
        limits: McpLimits,
        record: Record,
        bucket: Bucket | None,
        stderr: StderrLog,
        stats: McpStats,
        policy_hash: bytes,
        drain_seconds: float,
    ) -> None:
        self.outcome: tuple[CloseCode | None, str] | None = None
        """None in it: the link was lost, or the client closed it."""
        self._link = link
        self._machine = link.machine
        self._child = child
        self._limits = limits
        self._record = record
        self._entries = record.entries
        self._journal = record.journal
        self._bucket = bucket
        self._stderr = stderr
        self._stats = stats
        self._policy_hash = policy_hash
        self._drain_seconds = drain_seconds
        self._requests = Flight(limits)
        self._server_requests = Flight(limits)
        self._sink = ServerSink(child.stdin, link)
        self._sending = trio.Lock()
        self._clock_bell = Doorbell()
        self._last_line = link.now()
        self._stdout_ended = trio.Event()
        self._ended = trio.Event()

    # ------------------------------------------------------------------------------- life

    async def run(self) -> None:
        """Returns when the session is over; then the machine has said so, and `link.run` sends the rest."""
        tasks = (self._judge, self._write_server, self._read_server, self._watch_server, self._keep_time)
        async with trio.open_nursery() as nursery:
            for task in (*tasks, self._watch_link, self._journal.run):
                nursery.start_soon(self._guarded, task)
            await self._ended.wait()
            nursery.cancel_scope.cancel()
        self._stats.in_flight -= self._requests.open
        try:
            await self._journal.flush()
        except AuditError as error:
            self.outcome = self.outcome if self.outcome and self.outcome[0] is None else (CloseCode.AUDIT, str(error))
        assert self.outcome is not None
        code, text = self.outcome
        if code is not None:
            self._machine.close(code, text)
        self._link.wake()

    def end(self, code: CloseCode | None, text: str) -> None:
        """Ends it; the first reason is the one that counts."""
        if self.outcome is None:
            self.outcome = (code, text)
        self._ended.set()

    def regrant(self, limits: McpLimits, bucket: Bucket | None, policy_hash: bytes) -> None:
        """New rules, from the next line on; what was negotiated at the opening stays."""
        self._limits = limits
        self._bucket = bucket
        self._policy_hash = policy_hash
        self._requests.limits = limits
        self._clock_bell.ring()

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except AuditError as error:
            self.end(CloseCode.AUDIT, str(error))

    async def _watch_link(self) -> None:
        await self._link.over.wait()
        closed = self._link.closed
        self.end(None, closed.text if closed is not None else "")

    # ------------------------------------------------------------------------------- up

    async def _judge(self) -> None:
        """Takes what has arrived, decides, records, and hands it to the writer of the server's stdin."""
        link, inbox = self._link, self._link.inbox
        while True:
            while not inbox:
                if link.peer_ended:
                    self._sink.put(THE_END)
                    return
                await link.arrival.wait()
            judged: list[Judged] = []
            errors: list[_Down] = []
            entries: list[AuditEntry] = []
            calls = False
            while inbox and len(judged) < BATCH_LINES:
                arrived = inbox.popleft()
                info = await inspected(arrived.line)
                calls = calls or info.kind is Kind.REQUEST or info.kind is Kind.BATCH
                denials, entry = await self._judge_line(arrived.seq, arrived.line, info)
                errors += denials
                entries += entry
                judged.append(Judged(b"" if denials else arrived.line, arrived.seq))
            self._last_line = link.now()
            await (self._journal.commit(entries) if calls else self._journal.queue(entries))
            self._sink.write_or_put(judged)
            if errors:
                await self._send_down(errors)

    async def _judge_line(self, seq: int, line: bytes, info: LineInfo) -> tuple[list[_Down], Sequence[AuditEntry]]:
        """The errors that deny it, or none; and its entry."""
        self._stats.line("up", info.kind.name.lower(), len(line))
        requests = [info] if info.kind is Kind.REQUEST else []
        if info.kind is Kind.BATCH:
            requests = [member for member in members(line) if member.kind is Kind.REQUEST]
        errors = self._admit(requests) if requests else []
        answers = None
        if not requests:
            await self._wait_for_rate()
            if info.kind is Kind.RESPONSE:
                answers = self._server_requests.answered(info, self._link.now()).request
            elif info.cancels is not None:
                self._cancelled(info)
        elif not errors:
            for request in requests:
                self._opened(request, seq)
        if not self._journal.enabled:
            return errors, ()
        entry = self._entries.line(
            Way.UP,
            seq,
            line,
            info,
            now_ms=now_ms(),
            decision=Decision.DENIED if errors else Decision.FORWARDED,
            reason=errors[0].reason if errors else "",
            policy_hash=self._policy_hash if errors else b"",
            answers=answers.seq if answers else None,
            line_hash=await self._record.hashed(Way.UP, seq, line),
        )
        return errors, (entry,)

    def _admit(self, requests: Sequence[LineInfo]) -> list[_Down]:
        """An error for each of them when one is over a limit."""
        wait = max((self._take_token() for _ in requests), default=0.0)
        if wait:
            return [self._denial(request, "rate", retryAfterMs=math.ceil(wait * 1000)) for request in requests]
        for request in requests:
            reason = self._requests.admit(request)
            if reason:
                return [self._denial(each, reason) for each in requests]
        return []

    def _denial(self, request: LineInfo, reason: str, **data: int) -> _Down:
        self._stats.denied_total[reason] += 1
        line = error_line(Code.LIMIT, reason, request.id_raw, **data)
        return _Down(line, inspect(line), None, Decision.ANSWERED, reason, Code.LIMIT)

    def _take_token(self) -> float:
        return 0.0 if self._bucket is None else self._bucket.take(self._link.now())

    async def _wait_for_rate(self) -> None:
        while wait := self._take_token():  # noqa: ASYNC110 - it is time that is waited for
            await trio.sleep(wait)

    def _opened(self, request: LineInfo, seq: int) -> None:
        before = self._requests.open
        self._requests.opened(request, seq, self._link.now())
        self._stats.in_flight += self._requests.open - before
        if self._limits.call_timeout is not None:
            self._clock_bell.ring()

    def _cancelled(self, info: LineInfo) -> None:
        before = self._requests.open
        self._requests.cancelled(info.cancels)
        self._stats.in_flight += self._requests.open - before

    async def _write_server(self) -> None:
        """Until the client's end is reached or the server takes no more; then the server is stopped."""
        ended = await self._sink.run()
        # One that closed its stdin or died has a moment to say the rest and its status.
        await self._child.stop(self._drain_seconds if ended and self._requests.open else None)

    # ------------------------------------------------------------------------------- down

    async def _read_server(self) -> None:
        """Reads the server's stdout to its end."""
        decoder = LineDecoder(min(self._limits.max_line, self._machine.peer_max_line))
        stdout = self._child.stdout
        try:
            while data := await stdout.receive_some(READ_BYTES):
                await self._take_output(decoder.receive_data(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # its end by another name
        await self._take_output(decoder.end())
        self._stdout_ended.set()
        await self._child.stop()

    async def _take_output(self, items: Iterable[bytes | LongLine | None]) -> None:
        batch: list[_Down] = []
        for item in items:
            if item is None:
                await trio.lowlevel.checkpoint()
                continue
            if isinstance(item, LongLine):
                batch += await self._too_long(item)
            else:
                batch += await self._judge_output(item, await inspected(item))
            if len(batch) >= BATCH_LINES:
                await self._send_down(batch)
                await trio.lowlevel.checkpoint()
                batch = []
        if batch:
            await self._send_down(batch)

    async def _judge_output(self, line: bytes, info: LineInfo) -> tuple[_Down, ...]:
        if info.garbage:
            self._stderr.feed(b"not JSON-RPC on stdout: " + line[:1024] + b"\n")
            await self._drop(line, "garbage")
            return ()
        request = None
        if info.kind is Kind.RESPONSE:
            request, late = self._answered(info)
            if late:
                await self._drop(line, "late")
                return ()
        elif info.kind is Kind.REQUEST:
            self._server_requests.opened(info, self._machine.sent + 1, self._link.now())
        elif info.kind is Kind.BATCH:
            for member in members(line):
                if member.kind is Kind.RESPONSE:
                    self._answered(member)
        return (_Down(line, info, request),)

    def _answered(self, info: LineInfo) -> tuple[OpenRequest | None, bool]:
        before = self._requests.open
        answer = self._requests.answered(info, self._link.now())
        self._stats.in_flight += self._requests.open - before
        if answer.request is not None:
            self._stats.call(self._link.now() - answer.request.since)
        return answer.request, answer.late

    async def _too_long(self, long: LongLine) -> tuple[_Down, ...]:
        """It is discarded by now; its request gets an error, if its id could be read."""
        self._stderr.feed(b"line of %d bytes on stdout is over the limit\n" % long.size)
        await self._drop(b"", "too-large")
        if long.info.kind is not Kind.RESPONSE or long.info.id_raw is None:
            return ()
        request, late = self._answered(long.info)
        if request is None or late:
            return ()
        limit = min(self._limits.max_line, self._machine.peer_max_line)
        return (self._our_error(Code.TOO_LARGE, "too-large", request, limit=limit),)

    def _our_error(self, code: Code, reason: str, request: OpenRequest, **data: int) -> _Down:
        line = error_line(code, reason, request.id_raw, **data)
        return _Down(line, inspect(line), request, Decision.ANSWERED, reason, code)

    async def _drop(self, line: bytes, reason: str) -> None:
        self._stats.dropped_total[reason] += 1
        if self._journal.enabled:
            await self._journal.queue((self._dropped(line, reason),))

    async def _send_down(self, batch: Sequence[_Down]) -> None:
        """Records the lines and submits them, as the client has room. Their order is that of the calls."""
        async with turn(self._sending):
            link, machine = self._link, self._machine
            if self._journal.enabled:
                numbered = enumerate(batch, machine.sent + 1)
                await self._journal.queue([await self._down_entry(seq, down) for seq, down in numbered])
            for down in batch:
                if not machine.can_submit(cost(down.line)):
                    await link.room_for(cost(down.line))
                machine.submit(down.line)
                self._stats.line("down", down.info.kind.name.lower(), len(down.line))
                if down.code is not None:
                    self._stats.errors_total[str(int(down.code))] += 1
            self._last_line = link.now()
            link.wake()

    async def _down_entry(self, seq: int, down: _Down) -> AuditEntry:
        request = down.request
        return self._entries.line(
            Way.DOWN,
            seq,
            down.line,
            down.info,
            now_ms=now_ms(),
            decision=down.decision,
            reason=down.reason,
            policy_hash=self._policy_hash if down.reason else b"",
            answers=request.seq if request else None,
            duration_ms=round((self._link.now() - request.since) * 1000) if request else None,
            error_code=down.code,
            line_hash=await self._record.hashed(Way.DOWN, seq, down.line),
        )

    def _dropped(self, line: bytes, reason: str) -> AuditEntry:
        salt = secrets.token_bytes(32)
        return self._entries.event(MetaType.DROPPED, salt=salt, now_ms=now_ms(), line=line, reason=reason)

    # ------------------------------------------------------------------------------- endings, deadlines

    async def _watch_server(self) -> None:
        """When the server is gone, and all it has left, the session is over."""
        await self._child.wait()
        await self._child.stop()
        with trio.move_on_after(STDOUT_SECONDS):
            await self._stdout_ended.wait()
        async with self._sending:  # what it said last is submitted
            status = self._child.status or 0
            self._machine.source_ended()
        if status == 0 and not self._requests.open:
            self.end(CloseCode.DONE, "")
        elif self._child.signalled:
            self.end(CloseCode.SERVER, "the server had to be stopped")
        else:
            self.end(CloseCode.SERVER, exit_text(status))

    async def _keep_time(self) -> None:
        """Call timeouts and the idle session."""
        while True:
            idle = self._limits.idle_timeout
            deadlines = [self._last_line + idle] if idle is not None else []
            if self._limits.call_timeout is not None and (deadline := self._requests.next_deadline()) is not None:
                deadlines.append(deadline)
            with trio.move_on_after(max(0.0, min(deadlines, default=math.inf) - self._link.now())):
                await self._clock_bell.wait()
            now = self._link.now()
            if idle is not None and now >= self._last_line + idle:
                self.end(CloseCode.IDLE, f"no line for {idle:g} seconds")
                return
            await self._time_out(self._requests.overdue(now))

    async def _time_out(self, requests: Sequence[OpenRequest]) -> None:
        for request in requests:
            before = self._requests.open
            self._requests.close_one(request)
            self._stats.in_flight += self._requests.open - before
            self._sink.put(Judged(cancel_line(request.id_raw), 0))
        if requests:
            await self._send_down([self._our_error(Code.TIMEOUT, "timeout", request) for request in requests])


def exit_text(status: int) -> str:
    """How a server ended, for people."""
    if status >= 0:
        return f"status {status}"
    try:
        return f"signal {signal.Signals(-status).name}"
    except ValueError:
        return f"signal {-status}"
