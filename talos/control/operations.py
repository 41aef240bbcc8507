"""What takes time or belongs to a command's life: begun by a request, followed by its events, ended by its asker."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import trio

from talos.control.arguments import Arguments
from talos.control.event_log import EventLog, EventLogConfig
from talos.control.failure import Failure, Problem
from talos.control.kinds import ENDINGS, ERROR, LEASE_SECONDS, MAX_OPERATIONS, PROGRESS, RESULT, STAGE
from talos.errors import ConfigError, LimitExceeded, TalosError
from talos.host.block import background
from talos.host.contain import Owner, contain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from talos.agent import Agent

__all__ = ["Emit", "Explain", "Function", "Operation", "Operations", "OperationsConfig", "Request", "open_operations"]

Explain: TypeAlias = Callable[[Exception], Problem | None]
"""How an error is told; None for one that nobody expects."""

LEASE_CHECK_SECONDS = 1.0
PIECES_WAITING = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationsConfig:
    """Bounds of what clients begin."""

    at_once: int = MAX_OPERATIONS
    lease_seconds: float = LEASE_SECONDS
    log: EventLogConfig = field(default_factory=EventLogConfig)

    def __post_init__(self) -> None:
        if self.at_once < 1 or self.lease_seconds <= 0:
            raise ConfigError("operations need a place and a lease")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """An operation as it is asked for."""

    name: str
    args: Mapping[str, object]
    seconds: float | None = None
    """The asker's deadline in the place of the operation's own."""
    piped: bool = False
    """Whether bytes will come by `feed`."""


class Emit:
    """Tells what happens in an operation. Nothing here waits; who reads too slowly learns how much was missed."""

    def __init__(self, operation: Operation) -> None:
        self._operation = operation

    def __call__(self, kind: str, **fields: object) -> None:
        self._operation.log.append(kind, fields)

    def stage(self, stage: str, detail: str) -> None:
        """What is being done now, for people who wait."""
        self(STAGE, stage=stage, detail=detail)

    def progress(self, done: int, total: int | None = None) -> None:
        self(PROGRESS, done=done, total=total)

    def keep(self) -> None:
        """From now on the operation goes on also when nobody follows it: its work is durable."""
        self._operation.kept = True


Function: TypeAlias = "Callable[[Agent, Arguments, Emit], Awaitable[Mapping[str, object] | None]]"


class Operation:
    """One that runs, or has ended and not been read to its end."""

    def __init__(self, name: str, config: OperationsConfig, now: float) -> None:
        self.id = secrets.token_hex(8)
        self.name = name
        self.log = EventLog(config.log)
        self.kept = False
        self.ended = False
        self.scope = trio.CancelScope()
        self.why_cancelled = Problem(code="failed", message="cancelled")
        self.unfollowed_since = now
        self._followers = 0
        self._feed, self.pieces = trio.open_memory_channel[bytes](PIECES_WAITING)

    @contextmanager
    def followed(self) -> Iterator[None]:
        """While somebody reads its events, its lease does not run."""
        self._followers += 1
        try:
            yield
        finally:
            self._followers -= 1
            self.unfollowed_since = trio.current_time()

    def is_abandoned(self, now: float, lease: float) -> bool:
        """Whether nobody has followed it for longer than the lease."""
        return not self._followers and now - self.unfollowed_since > lease and not (self.kept and not self.ended)

    async def feed(self, data: bytes) -> None:
        """Gives it a piece of what is piped; waits for it to take it. BrokenResourceError when it takes no more."""
        await self._feed.send(data)

    def end_of_feed(self) -> None:
        self._feed.close()

    def cancel(self, why: Problem | None = None) -> None:
        if why is not None:
            self.why_cancelled = why
        self.scope.cancel()

    def end(self, kind: str, fields: Mapping[str, object]) -> None:
        """Its last event; a second one is ignored."""
        assert kind in ENDINGS
        if self.ended:
            return
        self.ended = True
        self.log.append(kind, fields)
        self.log.close()
        self.pieces.close()

    def fail(self, problem: Problem) -> None:
        self.end(ERROR, problem.fields())


@asynccontextmanager
async def open_operations(
    agent: Agent, load: Callable[[str], Function | None], explain: Explain, config: OperationsConfig | None = None
) -> AsyncIterator[Operations]:
    """Runs what is begun, for the length of the block; leaving ends what still runs as `going_away`."""
    async with background() as nursery:
        operations = Operations(agent, load, explain, config or OperationsConfig(), nursery)
        nursery.start_soon(operations.watch_leases)
        try:
            yield operations
        finally:
            with trio.CancelScope(shield=True):
                await operations.close()


class Operations:
    """Those of one agent; made by `open_operations`."""

    def __init__(
        self,
        agent: Agent,
        load: Callable[[str], Function | None],
        explain: Explain,
        config: OperationsConfig,
        nursery: trio.Nursery,
    ) -> None:
        self._agent = agent
        self._load = load
        self._explain = explain
        self._config = config
        self._nursery = nursery
        self._known: dict[str, Operation] = {}
        self._changed = trio.Event()
        self.closing = False
        """Whether nothing new is begun."""

    @property
    def running(self) -> int:
        return sum(not operation.ended for operation in self._known.values())

    def begin(self, request: Request) -> Operation:
        """Starts it. Failure for an unknown one or when we are leaving, LimitExceeded when too many run."""
        if self.closing:
            raise Failure("going_away", "the agent is stopping")
        function = self._load(request.name)
        if function is None:
            raise Failure("usage", f'no such operation "{request.name}"')
        if len(self._known) >= self._config.at_once:
            most = self._config.at_once
            raise LimitExceeded(f"{most} operations run already", limit=most, scope="control", kind="operations")
        operation = Operation(request.name, self._config, trio.current_time())
        self._known[operation.id] = operation
        args = Arguments(
            request.args, deadline=request.seconds, input=operation.pieces if request.piped else None
        )  # fmt: skip
        self._nursery.start_soon(self._run, operation, function, args)
        return operation

    def find(self, ident: str) -> Operation | None:
        return self._known.get(ident)

    def forget(self, operation: Operation) -> None:
        """Drops one that has ended and been read."""
        self._known.pop(operation.id, None)
        self._wake()

    async def close(self) -> None:
        """Begins nothing more, ends what runs as `going_away`, and waits for it to have ended."""
        self.closing = True
        for operation in self._known.values():
            operation.cancel(Problem(code="going_away", message="the agent is stopping"))
        while self.running:
            await self._changed.wait()

    async def close_when_done(self) -> None:
        """Waits until all is done and read, then begins nothing more."""
        while self._known:
            await self._changed.wait()
        self.closing = True

    async def watch_leases(self) -> None:
        """Ends what nobody follows any more."""
        while True:
            await trio.sleep(LEASE_CHECK_SECONDS)
            now = trio.current_time()
            for operation in list(self._known.values()):
                if not operation.is_abandoned(now, self._config.lease_seconds):
                    continue
                if operation.ended:
                    self.forget(operation)
                else:
                    operation.cancel(Problem(code="failed", message="cancelled: nobody followed it"))

    async def _run(self, operation: Operation, function: Function, args: Arguments) -> None:
        owner = Owner(f"operation {operation.name}", self._agent.node.emit)
        await contain(owner, self._perform, operation, function, args)
        operation.fail(Problem(code="failed", message="a bug in the operation; the agent's log has more"))
        operation.unfollowed_since = trio.current_time()
        self._wake()

    async def _perform(self, operation: Operation, function: Function, args: Arguments) -> None:
        try:
            with operation.scope:
                result = await function(self._agent, args, Emit(operation))
                operation.end(RESULT, dict(result or {}))
        except (Failure, TalosError, OSError, trio.TooSlowError) as error:
            problem = self._explain(error)
            if problem is None:
                raise
            operation.fail(problem)
        if operation.scope.cancelled_caught:
            operation.fail(operation.why_cancelled)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
