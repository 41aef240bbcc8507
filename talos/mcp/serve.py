"""`mcp-serve`: lends servers to granted peers, one process of its own to each session."""

from __future__ import annotations

import logging
import os
import secrets
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import trio

from talos.errors import AuditError, ConfigError, HandshakeError, RemoteProtocolError, StreamCode
from talos.host.block import background
from talos.host.contain import Owner, contain
from talos.mcp.admission import Admission
from talos.mcp.child import GRACE_SECONDS, StderrLog, environment, open_child, open_reaper, printable_line, resolve
from talos.mcp.event import OpenArrived
from talos.mcp.journal import Journal, check_mode
from talos.mcp.limits import McpLimits
from talos.mcp.link import Link
from talos.mcp.machine import SessionMachine, State
from talos.mcp.record import Record, now_ms
from talos.mcp.session import ServeSession, exit_text
from talos.mcp.stats import McpStats
from talos.mcp.transcript import REDACTED_KEYS, MetaType, Transcript, TranscriptEntries, refusal_entry
from talos.mcp.wire import PROTOCOL_ID, Accept, CloseCode, Open, Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from talos.abc import AuditLog, Host, Stream
    from talos.identity.peer_id import PeerId
    from talos.mcp.child import Child, Reaper
    from talos.mcp.policy import Grant, Policy

__all__ = ["McpServeConfig", "McpServer", "SessionInfo", "open_mcp_server"]

FAREWELL_SECONDS = 2.0
"""For the last frames of a session, and the peer's end of the stream."""
LEAVE_SECONDS = 10.0
"""For all children to end when the block is left; then they are killed."""
MAX_DETAIL_CHARACTERS = 200

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class McpServeConfig:
    """What is lent, to whom, and how it is recorded."""

    policy: Policy
    limits: McpLimits = field(default_factory=McpLimits)
    audit: str = "calls"
    """`calls`: a request is durable in the log before the server sees it; `each`: every line; `off`."""
    audit_content: Literal["hash", "args", "full"] = "hash"
    """What of a line is kept besides its hash: nothing, the arguments of calls, or all up to 64 KiB."""
    redact: tuple[str, ...] = REDACTED_KEYS
    """Globs of the keys whose values are left out of kept arguments."""
    drain_seconds: float = 5.0
    """How long a server with open requests may go on when its client has ended."""
    grace_seconds: float = GRACE_SECONDS
    """Between the end of a server's stdin, SIGTERM and SIGKILL."""
    report: Callable[[str], None] | None = None
    """Gets one printable line per event and per line of a server's stderr. None: the log."""
    reaper: bool = True
    """Whether a watch process stops the servers should this process be killed."""


@dataclass(slots=True)
class SessionInfo:
    """A session that is opening, open or whose server is being stopped."""

    peer: PeerId
    server: str
    opened_at: float
    """Unix seconds."""
    grant: Grant
    pid: int | None = None
    session: ServeSession | None = field(default=None, repr=False)
    child: Child | None = field(default=None, repr=False)


@asynccontextmanager
async def open_mcp_server(host: Host, config: McpServeConfig, audit: AuditLog | None) -> AsyncIterator[McpServer]:
    """Lends what the policy grants, for the length of the block.

    ConfigError when the policy grants nothing or a program is not found. Leaving the block ends all sessions and stops
    their servers: within 10 seconds, then they are killed.
    """
    check_mode(config.audit, audit)
    async with background() as nursery:
        watch = await nursery.start(_keep_reaper, config) if config.reaper else None
        server = McpServer(host, config, audit, nursery, watch)
        server.check(config.policy)
        nursery.start_soon(server.keep_journal)
        try:
            with host.mounted(PROTOCOL_ID, server.handle, limited=True):
                yield server
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(LEAVE_SECONDS):
                    await server.drain()
                server.kill()
                await server.drain()
                await server.flush_journal()


async def _keep_reaper(config: McpServeConfig, task_status: trio.TaskStatus[Reaper] = trio.TASK_STATUS_IGNORED) -> None:
    async with open_reaper(config.grace_seconds) as watch:
        task_status.started(watch)
        await trio.sleep_forever()


class McpServer:
    """All sessions of a node; made by `open_mcp_server`."""

    def __init__(
        self, host: Host, config: McpServeConfig, audit: AuditLog | None, nursery: trio.Nursery, watch: Reaper | None
    ) -> None:
        self.stats = McpStats()
        self._admission = Admission(config.policy, config.limits)
        self._host = host
        self._config = config
        self._audit = audit
        self._nursery = nursery
        self._watch = watch
        self._programs: dict[str, tuple[str, ...]] = {}
        self._infos: dict[int, SessionInfo] = {}
        self._numbers = 0
        self._draining = False
        self._empty = trio.Event()
        self._journal = Journal(audit, config.audit, config.limits, self.stats)
        nothing = Transcript(secrets.token_bytes(32), secrets.token_bytes(32), secrets.token_bytes(16))
        self._entries = TranscriptEntries(nothing, host.peer_id, host.peer_id, connects=False, server="")

    @property
    def sessions(self) -> tuple[SessionInfo, ...]:
        """Those that are open, opening, or whose server is being stopped."""
        return tuple(self._infos.values())

    def report(self, text: str) -> None:
        """One line for the owner."""
        (self._config.report or _log.info)(text)

    # ------------------------------------------------------------------------------- rules

    def check(self, policy: Policy) -> None:
        """Takes `policy` into force, or ConfigError: nothing is granted, or a program is not found."""
        if not policy.grants:
            raise ConfigError("the policy grants nothing to anybody")
        self._programs = {spec.name: resolve(spec.command, spec.cwd) for spec in policy.servers.values()}
        self._admission.policy = policy
        if policy.allow_any:
            self.report("any peer may use what is lent: allow_any is set")

    async def reload(self, policy: Policy) -> None:
        """New rules, from the next line on; sessions whose grant is gone are closed. ConfigError leaves the old ones.

        AuditError when the change could not be recorded; it holds nevertheless.
        """
        self.check(policy)
        for info in self.sessions:
            grant = policy.grant_for(info.peer, info.server)
            if info.session is None:
                continue
            if grant is None:
                info.session.end(CloseCode.WITHDRAWN, "the grant was withdrawn")
            else:
                bucket = self._admission.bucket(info.peer, grant, trio.current_time())
                info.session.regrant(self._admission.limits(grant), bucket, policy.policy_hash)
        self.report("policy reloaded")
        if self._journal.enabled:
            entry = self._entries.event(
                MetaType.POLICY, salt=secrets.token_bytes(32), now_ms=now_ms(), policy_hash=policy.policy_hash
            )
            await self._journal.commit((entry,))

    # ------------------------------------------------------------------------------- life

    async def drain(self) -> None:
        """Takes no more sessions and ends those there are; returns when all their servers are gone."""
        self._draining = True
        for info in self.sessions:
            if info.session is not None:
                info.session.end(CloseCode.GOING_AWAY, "going away")
        while self._infos:
            await self._empty.wait()

    def kill(self) -> None:
        """Kills all servers at once."""
        for info in self.sessions:
            if info.child is not None:
                info.child.kill()

    async def keep_journal(self) -> None:
        """Writes what is recorded outside sessions; a log that refuses costs these entries, not the server."""
        while self._journal.enabled:
            try:
                await self._journal.run()
            except AuditError as error:
                self.report(f"a refusal was not recorded: {error}")

    async def flush_journal(self) -> None:
        """Writes what is still queued of that."""
        try:
            await self._journal.flush()
        except AuditError as error:
            self.report(f"a refusal was not recorded: {error}")

    async def handle(self, stream: Stream) -> None:
        """A peer's stream. The session is not the connection's: it outlives it for as long as stopping takes."""
        released = trio.Event()
        self._nursery.start_soon(self._contained, stream, released)
        await released.wait()

    async def _contained(self, stream: Stream, released: trio.Event) -> None:
        owner = Owner("mcp", self._host.emit, stream.connection.remote_peer, PROTOCOL_ID)
        try:
            await contain(owner, self._serve, stream, released)
        finally:
            if not released.is_set():
                stream.reset()
                released.set()

    async def _serve(self, stream: Stream, released: trio.Event) -> None:
        link = Link(stream, lambda now: SessionMachine.serve(self._config.limits, now=now))
        async with background() as nursery:
            nursery.start_soon(self._run_link, link, released)
            await link.answered.wait()
            if isinstance(link.opening, OpenArrived):
                await self._open(link, stream.connection.remote_peer, link.opening.open, released)
            else:
                await released.wait()

    async def _run_link(self, link: Link, released: trio.Event) -> None:
        await link.run()
        released.set()

    async def _farewell(self, link: Link, released: trio.Event) -> None:
        link.wake()
        with trio.move_on_after(FAREWELL_SECONDS):
            await released.wait()
        if not released.is_set():
            link.stream.reset()
            released.set()

    # ------------------------------------------------------------------------------- opening

    async def _open(self, link: Link, peer: PeerId, message: Open, released: trio.Event) -> None:
        """Answers the Open; with OK, runs the session to its end."""
        present = [info.peer for info in self._infos.values()]
        try:
            status, grant = self._admission.judge(peer, message, present, trio.current_time())
        except RemoteProtocolError:
            link.machine.stream_lost()
            link.stream.reset(StreamCode.PROTOCOL_VIOLATION)
            raise
        if self._draining and status is Status.OK:
            status, grant = Status.BUSY, None
        if grant is None:
            self._answer(link, Accept(status=status))
            await self._record_refusal(peer, message.server, status)
        else:
            self._numbers += 1
            number, info = self._numbers, SessionInfo(peer, grant.server, time.time(), grant)
            self._infos[number] = info
            try:
                await self._open_session(link, info, message, released)
            finally:
                del self._infos[number]
                self._empty.set()
                self._empty = trio.Event()
        await self._farewell(link, released)

    def _answer(self, link: Link, message: Accept) -> None:
        self.stats.opens_total[message.status.name] += 1
        if link.machine.state is State.OPENING:  # else the peer has gone
            link.machine.accept(message, link.now())
            link.wake()

    async def _record_refusal(self, peer: PeerId, server: str, status: Status) -> None:
        count = self._admission.refused(peer, trio.current_time())
        if not count:
            return
        asked = printable_line(server.encode()) or "the only server"
        self.report(f"{status.name.lower()}: {peer} asked for {asked} ({count})")
        if self._journal.enabled:
            entry = refusal_entry(
                self._host.peer_id,
                peer,
                session=secrets.token_bytes(16),
                salt=secrets.token_bytes(32),
                now_ms=now_ms(),
                server=server,
                reason=status.name.lower(),
                count=count,
            )
            await self._journal.queue((entry,))

    # ------------------------------------------------------------------------------- session

    async def _open_session(self, link: Link, info: SessionInfo, message: Open, released: trio.Event) -> None:
        config = self._config
        accept = Accept(
            status=Status.OK,
            session=secrets.token_bytes(16),
            resume_token=secrets.token_bytes(32),
            max_line=config.limits.max_line,
            window=config.limits.window,
            nonce=secrets.token_bytes(32),
            server=info.server,
        )
        transcript = Transcript(message.nonce, accept.nonce, accept.session)
        record = Record(
            TranscriptEntries(
                transcript,
                self._host.peer_id,
                info.peer,
                connects=False,
                server=info.server,
                content=config.audit_content,
                redact=config.redact,
            ),
            Journal(self._audit, config.audit, config.limits, self.stats),
        )
        try:
            await record.event(MetaType.OPENED, server=info.server, policy_hash=self._admission.policy.policy_hash)
        except AuditError as error:
            self.report(f"the audit log refuses: {error}")
            self._answer(link, Accept(status=Status.FAILED, detail="the audit log refuses"))
            return
        try:
            outcome = await self._run_child(link, info, accept, record, released)
        except HandshakeError as error:
            self.report(f"{info.server}: {error}")
            self._answer(link, Accept(status=Status.FAILED, detail=str(error)[:MAX_DETAIL_CHARACTERS]))
            outcome = "failed"
        try:
            await record.event(MetaType.CLOSED, reason=outcome)
        except AuditError as error:
            self.report(f"the end of a session is not recorded: {error}")

    async def _run_child(
        self, link: Link, info: SessionInfo, accept: Accept, record: Record, released: trio.Event
    ) -> str:
        """How the session ended. HandshakeError when the server does not start."""
        policy = self._admission.policy
        spec = policy.servers[info.server]
        stderr = StderrLog(lambda line: self.report(f"[{info.server} {info.pid}] {line}"))
        async with open_child(
            self._programs[info.server],
            cwd=spec.cwd,
            env=environment(os.environ, spec.env, spec.pass_env),
            stderr=stderr,
            watch=self._watch,
            grace=self._config.grace_seconds,
        ) as child:
            self._answer(link, accept)
            if link.machine.state is not State.OPEN:
                return "connection lost"
            session = ServeSession(
                link,
                child,
                limits=self._admission.limits(info.grant),
                record=record,
                bucket=self._admission.bucket(info.peer, info.grant, trio.current_time()),
                stderr=stderr,
                stats=self.stats,
                policy_hash=policy.policy_hash,
                drain_seconds=self._config.drain_seconds,
            )
            info.pid, info.child, info.session = child.pid, child, session
            self.report(f"opened: {info.peer} uses {info.server} (pid {child.pid})")
            if self._draining:
                session.end(CloseCode.GOING_AWAY, "going away")
            self.stats.children += 1
            self.stats.sessions["open"] += 1
            try:
                await session.run()
                await self._farewell(link, released)
            finally:
                self.stats.sessions["open"] -= 1
                self.stats.children -= 1
        return self._closed(info, session, child, stderr)

    def _closed(self, info: SessionInfo, session: ServeSession, child: Child, stderr: StderrLog) -> str:
        code, text = session.outcome or (None, "")
        status = child.status or 0
        how = "killed" if child.signalled else "clean" if status == 0 else "status" if status > 0 else "signal"
        self.stats.child_exits_total[how] += 1
        reason = text or (code.name.lower().replace("_", " ") if code is not None else "connection lost")
        self.report(f"closed: {info.peer} on {info.server} (pid {info.pid}): {reason}, {exit_text(status)}")
        if how in ("status", "signal") and stderr.tail:
            self.report(f"[{info.server} {info.pid}] last words: {printable_line(stderr.tail[-1024:].strip())}")
        return reason
