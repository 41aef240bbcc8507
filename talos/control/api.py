"""The routes of the control API (docs/reference/control.md), as one ASGI application."""

from __future__ import annotations

import json
import logging
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any, Final

import trio
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Route

from talos import __version__
from talos.control import snapshots
from talos.control.failure import Failure, Problem
from talos.control.kinds import (
    API,
    API_HEADER,
    LAGGED,
    MAX_ANSWER_BYTES,
    MAX_BODY_BYTES,
    MAX_JSON_DEPTH,
    MAX_STREAMS,
    STREAM_BYTES,
    STREAM_EVENTS,
    STREAM_SECONDS,
    VERSION_HEADER,
)
from talos.control.operations import Request as OperationRequest
from talos.errors import LimitExceeded, TalosError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from talos.agent import Agent
    from talos.control.event_log import EventLog, Logged
    from talos.control.operations import Explain, Operation, Operations

__all__ = ["Api"]

DRAIN_SECONDS = 1.0
_log = logging.getLogger(__name__)

STATUS_OF: Final = {"usage": 400, "going_away": 503}


class Api:
    """What the routes need. `app` is the application; `closed` makes every answer a 503."""

    def __init__(
        self, agent: Agent, operations: Operations, log: EventLog, explain: Explain, stop: Callable[[], None]
    ) -> None:
        self._agent = agent
        self._operations = operations
        self._log = log
        self._explain = explain
        self._stop = stop
        self._streams = 0
        self.closed = False
        routes = [
            Route("/v1/events", self._events, methods=["GET"]),
            Route("/v1/operations", self._begin, methods=["POST"]),
            Route("/v1/operations/{id}/events", self._follow, methods=["GET"]),
            Route("/v1/operations/{id}/input", self._feed, methods=["PUT"]),
            Route("/v1/operations/{id}", self._cancel, methods=["DELETE"]),
            Route("/v1/down", self._down, methods=["POST"]),
            Route("/v1/{route:path}", self._snapshot, methods=["GET"]),
        ]
        handlers: dict[Any, Any] = {
            HTTPException: self._http_problem,
            Failure: self._problem,
            TalosError: self._problem,
            OSError: self._problem,
            ClientDisconnect: self._problem,
            Exception: self._problem,
        }
        self.app: ASGIApp = _Stamped(Starlette(routes=routes, exception_handlers=handlers))

    # -- snapshots

    async def _snapshot(self, request: Request) -> Response:
        self._check_open()
        found = snapshots.find(request.path_params["route"])
        if found is None:
            raise HTTPException(404, "no such route")
        snapshot, variable = found
        return _json(await snapshots.take(snapshot, self._agent, {**request.query_params, **variable}))

    # -- operations

    async def _begin(self, request: Request) -> Response:
        body = await _body(request)
        self._check_open()
        operation = self._operations.begin(_operation(body))
        return _json({"id": operation.id}, status=201)

    async def _follow(self, request: Request) -> Response:
        operation = self._operation(request)
        return _EventStream(operation.log, _last_seen(request, 0), operation=operation, operations=self._operations)

    async def _feed(self, request: Request) -> Response:
        operation = self._operation(request)
        try:
            async with aclosing(request.stream()) as pieces:
                async for piece in pieces:
                    if piece:
                        await operation.feed(piece)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise HTTPException(409, "the operation takes no more input") from None
        operation.end_of_feed()
        return Response(status_code=204)

    async def _cancel(self, request: Request) -> Response:
        self._operation(request).cancel()
        return Response(status_code=204)

    def _operation(self, request: Request) -> Operation:
        operation = self._operations.find(request.path_params["id"])
        if operation is None:
            raise HTTPException(404, "no such operation")
        return operation

    # -- the agent itself

    async def _events(self, request: Request) -> Response:
        self._check_open()
        if self._streams >= MAX_STREAMS:
            raise LimitExceeded(f"{MAX_STREAMS} event streams are open already", limit=MAX_STREAMS)
        kinds = {kind for kind in request.query_params.get("kinds", "").split(",") if kind}
        return _EventStream(self._log, _last_seen(request, self._log.last), kinds=kinds, counted=self._count)

    def _count(self, change: int) -> None:
        self._streams += change

    async def _down(self, request: Request) -> Response:
        await _drain(request)
        response = _json({}, status=202)
        response.background = BackgroundTask(self._stop_soon)  # it has been sent by then
        return response

    async def _stop_soon(self) -> None:
        self._stop()

    def _check_open(self) -> None:
        if self.closed or self._operations.closing:
            raise Failure("going_away", "the agent is stopping")

    # -- errors

    async def _problem(self, request: Request, error: Exception) -> Response:
        problem = self._explain(error)
        if problem is None:
            _log.error("%s failed", request.url.path, exc_info=error)
            problem = Problem(code="failed", message="a bug in the agent; its log has more")
        status = 429 if isinstance(error, LimitExceeded) else STATUS_OF.get(problem.code, 500)
        await _drain(request)
        return _json(problem.fields(), status=status)

    async def _http_problem(self, request: Request, error: HTTPException) -> Response:
        problem = Problem(code="failed", message=error.detail[:1].lower() + error.detail[1:])
        await _drain(request)
        return _json(problem.fields(), status=error.status_code)


class _Stamped:
    """Puts our headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_STAMPS]
            await send(message)

        await self._app(scope, receive, stamped if scope["type"] == "http" else send)


_STAMPS: Final = (
    (API_HEADER.encode(), str(API).encode()),
    (VERSION_HEADER.encode(), __version__.encode()),
    (b"cache-control", b"no-store"),
)


class _EventStream(Response):
    """Server-sent events from a log, until the answer has its share, the log is closed or the reader is gone."""

    def __init__(
        self,
        log: EventLog,
        seen: int,
        *,
        kinds: Collection[str] = (),
        operation: Operation | None = None,
        operations: Operations | None = None,
        counted: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"content-type": "text/event-stream"})
        self._log = log
        self._seen = seen
        self._kinds = kinds
        self._operation = operation
        self._operations = operations
        self._counted = counted
        self._sent_events = 0
        self._sent_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        self._counted(1)
        try:
            if self._operation is None:
                await self._stream(receive, send)
                return
            with self._operation.followed():
                await self._stream(receive, send)
        finally:
            self._counted(-1)
            self._forget_if_read()

    async def _stream(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_when_gone, receive, nursery.cancel_scope)
            with trio.move_on_after(STREAM_SECONDS):
                await self._send_events(send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()

    def _forget_if_read(self) -> None:
        """An operation whose end has been read is done with."""
        operation = self._operation
        if operation is not None and self._operations is not None and operation.ended and self._seen >= self._log.last:
            self._operations.forget(operation)

    async def _send_events(self, send: Send) -> None:
        while not self._has_its_share():
            await self._log.wait_after(self._seen)
            missed, events = self._log.after(self._seen)
            if missed:
                self._seen += missed
                await self._send(send, _lagged(self._seen, missed))
            for event in events:
                self._seen = event.number
                if not self._kinds or event.kind in self._kinds:
                    await self._send(send, event)
                if self._has_its_share():
                    return
            if self._log.over_after(self._seen):
                return

    async def _send(self, send: Send, event: Logged) -> None:
        body = f"id: {event.number}\nevent: {event.kind}\ndata: {event.data}\n\n".encode()
        self._sent_events += 1
        self._sent_bytes += len(body)
        await send({"type": "http.response.body", "body": body, "more_body": True})

    def _has_its_share(self) -> bool:
        return self._sent_events >= STREAM_EVENTS or self._sent_bytes >= STREAM_BYTES


async def _cancel_when_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _lagged(number: int, missed: int) -> Logged:
    from talos.control.event_log import Logged as Event

    return Event(number, LAGGED, json.dumps({"kind": LAGGED, "missed": missed}))


def _last_seen(request: Request, default: int) -> int:
    text = request.headers.get("last-event-id", "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise Failure("usage", "Last-Event-ID is a number")
    return int(text)


def _operation(body: dict[str, object]) -> OperationRequest:
    name, args, seconds = body.get("op"), body.get("args", {}), body.get("seconds")
    if not isinstance(name, str) or not isinstance(args, dict):
        raise Failure("usage", 'an operation is {"op": NAME, "args": {…}}')
    if seconds is not None and (isinstance(seconds, bool) or not isinstance(seconds, int | float) or not seconds > 0):
        raise Failure("usage", "seconds is a positive number")
    return OperationRequest(name=name, args=args, seconds=seconds, piped=body.get("piped") is True)


async def _body(request: Request) -> dict[str, object]:
    """A JSON object within bounds; Failure `usage`, or 413."""
    data = bytearray()
    async with aclosing(request.stream()) as pieces:
        async for piece in pieces:
            data += piece
            if len(data) > MAX_BODY_BYTES:
                raise HTTPException(413, f"a body has at most {MAX_BODY_BYTES} bytes")
    try:
        value = json.loads(data, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise Failure("usage", "the body is no JSON object, or has a key twice") from None
    if not isinstance(value, dict) or _depth(value) > MAX_JSON_DEPTH:
        raise Failure("usage", f"the body is a JSON object of at most {MAX_JSON_DEPTH} levels")
    return value


async def _drain(request: Request) -> None:
    """Reads what is still sent, within bounds: an answer before that closes the socket under whoever sends."""
    size = 0
    with trio.move_on_after(DRAIN_SECONDS), suppress(RuntimeError, ClientDisconnect):  # it was read, or nobody is there
        async with aclosing(request.stream()) as pieces:
            async for piece in pieces:
                size += len(piece)
                if size > MAX_BODY_BYTES:
                    return


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [each for item in inner for each in (item.values() if isinstance(item, dict) else item)]
    return depth


def _json(value: object, *, status: int = 200) -> Response:
    data = json.dumps(value).encode()
    if len(data) > MAX_ANSWER_BYTES:
        raise Failure("failed", f"an answer has at most {MAX_ANSWER_BYTES} bytes, this has {len(data)}")
    return Response(data, status_code=status, media_type="application/json")
