"""`mcp-connect`: makes a peer's server look like a local stdio server to one MCP client."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import trio

from talos.errors import AuditError, DialError, RemoteProtocolError, TalosError
from talos.host.block import background
from talos.mcp.desk import FIRST_REQUEST_SECONDS, READ_BYTES, Desk, answer_and_leave, messages
from talos.mcp.direct import wait_for_direct
from talos.mcp.endings import McpExit, Owed, of_closed, of_error, of_refusal
from talos.mcp.event import Opened, Refused
from talos.mcp.flight import Code, Flight
from talos.mcp.framing import Kind, LineDecoder
from talos.mcp.inspecting import inspected
from talos.mcp.journal import Journal, check_mode
from talos.mcp.limits import McpLimits
from talos.mcp.link import Link
from talos.mcp.machine import SessionMachine, cost
from talos.mcp.record import Record, now_ms
from talos.mcp.stats import McpStats
from talos.mcp.transcript import REDACTED_KEYS, MetaType, Transcript, TranscriptEntries, Way
from talos.mcp.turn import turn
from talos.mcp.wire import PROTOCOL_ID, CloseCode, Open

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from multiaddr import Multiaddr

    from talos.abc import AuditEntry, AuditLog, Host, Stream
    from talos.identity.peer_id import PeerId
    from talos.mcp.event import LineArrived
    from talos.mcp.flight import OpenRequest
    from talos.mcp.framing import LineInfo
    from talos.mcp.wire import Accept

__all__ = ["McpConnectConfig", "McpExit", "answer_and_leave", "run_mcp_client"]

WRITE_BYTES = 256 * 1024
"""Short lines are written together up to this."""
BATCH_LINES = 128
EOF_SECONDS = 1.0
"""How long serve's end is waited for after that of the client, when nothing is open."""
FAREWELL_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class McpConnectConfig:
    """Whose server is wanted, and how."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...] = ()
    """Added to those that the node knows or finds."""
    server: str = ""
    """Empty: the only one granted to us."""
    agent: str = "talos"
    connect_timeout: float = 30.0
    """For finding and reaching the peer."""
    relay: bool = True
    """Whether a relayed connection will do."""
    direct_seconds: float = 10.0
    """How long a direct way is waited for where there is a relayed one, which its relay may cut."""
    audit: str = "calls"
    """`calls`: entries are queued before their line goes on; `each`: durable before; `off`."""
    audit_content: Literal["hash", "args", "full"] = "hash"
    """What of a line is kept besides its hash: nothing, the arguments of calls, or all up to 64 KiB."""
    redact: tuple[str, ...] = REDACTED_KEYS
    """Globs of the keys whose values are left out of kept arguments."""
    limits: McpLimits = field(default_factory=McpLimits)
    drain_seconds: float = 5.0
    """How long open requests may go on when the client has closed stdin."""
    report: Callable[[str], None] | None = None
    """Gets one printable line per event. None: the log."""


async def run_mcp_client(
    host: Host,
    config: McpConnectConfig,
    audit: AuditLog | None,
    stdin: trio.abc.ReceiveStream,
    stdout: trio.abc.SendStream,
) -> McpExit:
    """Carries the client's lines to the peer's server and back, until one of them ends.

    stdin is read from the first instant. Failures are told by the result, after every open request was answered with
    an error. When cancelled it closes the session with CLOSE 0, within a second.
    """
    check_mode(config.audit, audit)
    return await _Client(host, config, audit, stdin, stdout).run()


class _Client:
    """One session, from the first byte of stdin to the exit."""

    def __init__(
        self,
        host: Host,
        config: McpConnectConfig,
        audit: AuditLog | None,
        stdin: trio.abc.ReceiveStream,
        stdout: trio.abc.SendStream,
    ) -> None:
        self._host = host
        self._config = config
        self._audit = audit
        self._stdin = stdin
        self._desk = Desk(stdout, config.limits)
        self._stats = McpStats()
        self._server_requests = Flight(config.limits)
        self._pending: list[tuple[bytes, LineInfo]] = []
        self._pending_cost = 0
        self._stdin_ended = trio.Event()
        self._sending = trio.Lock()
        self._opened = trio.Event()
        self._outcome: tuple[McpExit, Owed | None] | None = None
        self._ended = trio.Event()
        self._dialling = trio.CancelScope()
        self._link: Link | None = None
        self._record: Record | None = None

    async def run(self) -> McpExit:
        """See `run_mcp_client`."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._guarded, self._read_stdin)
            tunnel_done = trio.Event()
            nursery.start_soon(self._run_tunnel, tunnel_done)
            await self._ended.wait()
            if self._link is None:
                self._dialling.cancel()
            await tunnel_done.wait()
            assert self._outcome is not None
            end, owed = self._outcome
            if owed is not None and end.code and not self._desk.first_request.is_set():
                with trio.move_on_after(FIRST_REQUEST_SECONDS):
                    await self._desk.first_request.wait()
            nursery.cancel_scope.cancel()
        if owed is not None:
            await self._desk.answer_all(owed)
        if end.message:
            (self._config.report or _log.info)(end.message)
        return end

    def _end(self, end: McpExit, owed: Owed | None = None) -> None:
        """The first reason counts."""
        if self._outcome is None:
            self._outcome = (end, owed)
        self._ended.set()

    async def _guarded(self, task: Callable[[], Awaitable[None]]) -> None:
        try:
            await task()
        except AuditError as error:
            if self._link is not None:
                self._link.machine.close(CloseCode.AUDIT, "the client's audit log refuses")
            self._end(McpExit(7, f"the audit log refuses: {error}"), Owed(Code.AUDIT, "audit"))
        except TalosError as error:
            self._end(*of_error(error, self._config.peer))

    # ------------------------------------------------------------------------------- stdin

    async def _read_stdin(self) -> None:
        """Queues what comes before the session is open, up to a window; sends what comes after."""
        decoder = LineDecoder(self._config.limits.max_line)
        try:
            while data := await self._stdin.receive_some(READ_BYTES):
                await self._from_client(await self._desk.take(decoder.receive_data(bytes(data))))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # its end by another name
        await self._from_client(await self._desk.take(decoder.end()))
        self._stdin_ended.set()
        # A failure that waits for a first request need not any longer.
        self._desk.first_request.set()
        if not self._opened.is_set() and not self._desk.requests.open and not self._pending:
            self._end(McpExit(0))
        await trio.sleep_forever()

    async def _from_client(self, lines: list[tuple[bytes, LineInfo]]) -> None:
        if not lines:
            return
        if self._opened.is_set():
            await self._send_up(lines)
            return
        self._pending += lines
        self._pending_cost += sum(cost(line) for line, _ in lines)
        if self._pending_cost >= self._config.limits.window:
            await self._opened.wait()

    async def _send_up(self, lines: Sequence[tuple[bytes, LineInfo]]) -> None:
        link, record = self._link, self._record
        assert link is not None
        assert record is not None
        machine = link.machine
        async with turn(self._sending):
            fitting = []
            for line, info in lines:
                if len(line) > machine.peer_max_line:
                    if info.kind is Kind.REQUEST:
                        self._desk.requests.cancelled(info.id_key)
                    await self._desk.too_large(info, machine.peer_max_line)
                else:
                    fitting.append((line, info))
            now = link.now()
            entries: list[AuditEntry] = []
            for seq, (line, info) in enumerate(fitting, machine.sent + 1):
                answers = self._note(line, info, seq, now)
                if record.journal.enabled:
                    entry = record.entries.line(
                        Way.UP,
                        seq,
                        line,
                        info,
                        now_ms=now_ms(),
                        answers=answers.seq if answers else None,
                        line_hash=await record.hashed(Way.UP, seq, line),
                    )
                    entries.append(entry)
            await record.journal.queue(entries)
            for line, info in fitting:
                if not machine.can_submit(cost(line)):
                    await link.room_for(cost(line))
                machine.submit(line)
                self._stats.line("up", info.kind.name.lower(), len(line))
            link.wake()

    def _note(self, line: bytes, info: LineInfo, seq: int, now: float) -> OpenRequest | None:
        """Keeps count of requests; gives the server's request that the line answers."""
        self._desk.read(line, info, seq, now)
        if info.kind is Kind.RESPONSE:
            return self._server_requests.answered(info, now).request
        if info.cancels is not None:
            self._desk.requests.cancelled(info.cancels)
        return None

    # ------------------------------------------------------------------------------- the tunnel

    async def _run_tunnel(self, done: trio.Event) -> None:
        """Ends by itself once the session's end is decided; before there is one it may be cancelled."""
        with self._dialling:
            await self._guarded(self._tunnel)
        done.set()

    async def _tunnel(self) -> None:
        stream = await self._dial()
        limits = self._config.limits
        message = Open(
            server=self._config.server,
            max_line=limits.max_line,
            window=limits.window,
            nonce=secrets.token_bytes(32),
            agent=self._config.agent,
        )
        link = Link(stream, lambda now: SessionMachine.connect(message, limits, now=now))
        async with background() as nursery:
            done = trio.Event()
            # Shielded: it has a farewell to send when we are cancelled.
            scope = trio.CancelScope(shield=True)
            nursery.start_soon(self._run_link, link, scope, done)
            try:
                await self._session(link, message)
            finally:
                link.machine.close(CloseCode.DONE)
                link.wake()
                with trio.move_on_after(FAREWELL_SECONDS, shield=True):
                    await done.wait()
                    await stream.aclose()
                if not done.is_set():
                    stream.reset()
                scope.cancel()

    async def _run_link(self, link: Link, scope: trio.CancelScope, done: trio.Event) -> None:
        with scope:
            await link.run()
        done.set()

    async def _dial(self) -> Stream:
        config = self._config
        with trio.move_on_after(config.connect_timeout):
            connection = await self._host.connect(config.peer, config.addrs)
            if connection.limited and config.relay:
                connection = await wait_for_direct(self._host, connection, config.direct_seconds)
            return await self._host.open_stream(connection, PROTOCOL_ID, limited_ok=config.relay)
        raise DialError(f"no answer in {config.connect_timeout:g} seconds")

    async def _session(self, link: Link, message: Open) -> None:
        await link.answered.wait()
        match link.opening:
            case Opened(accept):
                await self._open_session(link, message, accept)
            case Refused(accept):
                self._end(*of_refusal(accept, self._config.peer))
                return
            case _:
                self._end(
                    *of_error(link.error or trio.BrokenResourceError("the peer gave no answer"), self._config.peer)
                )
                return
        try:
            async with trio.open_nursery() as nursery:
                for task in (self._send_pending, self._to_client, self._keep_journal):
                    nursery.start_soon(self._guarded, task)
                await self._ended.wait()
                nursery.cancel_scope.cancel()
        finally:
            # What crossed is recorded, also when a signal has cancelled us: but then we have a second.
            seconds = FAREWELL_SECONDS if self._outcome is None else self._config.limits.audit_late_seconds
            with trio.move_on_after(seconds, shield=True):
                await self._guarded(self._close_record)

    async def _open_session(self, link: Link, message: Open, accept: Accept) -> None:
        config = self._config
        transcript = Transcript(message.nonce, accept.nonce, accept.session)
        self._record = Record(
            TranscriptEntries(
                transcript,
                self._host.peer_id,
                config.peer,
                connects=True,
                server=accept.server,
                content=config.audit_content,
                redact=config.redact,
            ),
            Journal(self._audit, config.audit, config.limits, self._stats),
        )
        self._link = link
        await self._record.event(MetaType.OPENED, server=accept.server)

    async def _close_record(self) -> None:
        assert self._record is not None
        reason = self._outcome[0].message or "done" if self._outcome is not None else "signal"
        await self._record.event(MetaType.CLOSED, reason=reason)

    async def _keep_journal(self) -> None:
        assert self._record is not None
        await self._record.journal.run()

    async def _send_pending(self) -> None:
        """Sends what came while dialling, before anything newer; at the client's end, waits for that of serve."""
        link = self._link
        assert link is not None
        self._sending.acquire_nowait()
        self._opened.set()
        pending, self._pending = self._pending, []
        self._sending.release()
        await self._send_up(pending)
        await self._stdin_ended.wait()
        async with self._sending:
            link.machine.source_ended()
            link.wake()
        await trio.sleep(self._config.drain_seconds if self._desk.requests.open else EOF_SECONDS)
        self._end(McpExit(0))

    async def _to_client(self) -> None:
        """Writes what has arrived to stdout; when all is written that came before the end, says why it ended."""
        link, record = self._link, self._record
        assert link is not None
        assert record is not None
        inbox = link.inbox
        while True:
            while not inbox:
                if link.over.is_set():
                    self._end(*self._ending_of(link))
                    return
                await link.arrival.wait()
            batch: list[LineArrived] = []
            size = 0
            while inbox and size < WRITE_BYTES and len(batch) < BATCH_LINES:
                batch.append(inbox.popleft())
                size += len(batch[-1].line)
            await record.journal.queue([entry for arrived in batch for entry in await self._judge_down(link, arrived)])
            try:
                await self._desk.write([arrived.line for arrived in batch])
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._end(McpExit(0))
                return
            link.machine.consumed(batch[-1].seq, link.now())
            link.wake()

    async def _judge_down(self, link: Link, arrived: LineArrived) -> Sequence[AuditEntry]:
        record = self._record
        assert record is not None
        info = await inspected(arrived.line)
        self._stats.line("down", info.kind.name.lower(), len(arrived.line))
        request = None
        for each in messages(arrived.line, info):
            if each.kind is Kind.RESPONSE:
                request = self._desk.requests.answered(each, link.now()).request
            elif each.kind is Kind.REQUEST:
                self._server_requests.opened(each, arrived.seq, link.now())
        if not record.journal.enabled:
            return ()
        entry = record.entries.line(
            Way.DOWN,
            arrived.seq,
            arrived.line,
            info,
            now_ms=now_ms(),
            answers=request.seq if request else None,
            duration_ms=round((link.now() - request.since) * 1000) if request else None,
            line_hash=await record.hashed(Way.DOWN, arrived.seq, arrived.line),
        )
        return (entry,)

    def _ending_of(self, link: Link) -> tuple[McpExit, Owed | None]:
        if isinstance(link.error, RemoteProtocolError):
            return of_error(link.error, self._config.peer)
        assert link.closed is not None
        open_requests = self._desk.requests.open
        if self._stdin_ended.is_set() and not open_requests:
            return McpExit(0), None
        return of_closed(link.closed, self._config.peer, open_requests=open_requests)
