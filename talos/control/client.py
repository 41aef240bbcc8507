"""The control API from its other end: blocking calls over the socket of a home. Standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from talos.control.failure import CODES, Failure
from talos.control.home import find_socket
from talos.control.kinds import API, API_HEADER, ENDINGS, STREAM_SECONDS, VERSION_HEADER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from talos.identity.home import Home

__all__ = ["AgentLost", "Client", "Event", "GoingAway", "NoAgent"]

ANSWER_SECONDS = 5.0
STREAM_SILENCE_SECONDS = STREAM_SECONDS + ANSWER_SECONDS
MAX_LINE_BYTES = 4 << 20
UNAVAILABLE = 503


class NoAgent(Exception):
    """Nobody serves the socket."""


class GoingAway(Exception):
    """Whoever serves the socket is leaving and begins nothing more."""


class AgentLost(Exception):
    """Whoever served the socket was gone before the answer was whole."""


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a stream."""

    number: int
    kind: str
    fields: Mapping[str, Any]


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("talos", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """Requests to whoever serves a home. Each takes a connection of its own, so that any thread may use it.

    NoAgent when nobody is there, GoingAway when it is leaving, AgentLost when it went in the middle; Failure for what
    it answers, `timeout` when it does not within 5 s, and `version_skew` when it is of another API.
    """

    def __init__(self, home: Home, seconds: float = ANSWER_SECONDS) -> None:
        self._home = home
        self._seconds = seconds

    def get(self, route: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
        """A snapshot: the object at `/v1/<route>`."""
        path = f"/v1/{quote(route)}"
        return self._ask("GET", f"{path}?{urlencode(query)}" if query else path)

    def post(self, route: str, body: Mapping[str, object]) -> dict[str, Any]:
        return self._ask("POST", f"/v1/{route}", json.dumps(body).encode())

    def begin(self, name: str, args: Mapping[str, object], *, seconds: float | None = None, piped: bool = False) -> str:
        """Starts an operation; its id."""
        return str(self.post("operations", {"op": name, "args": dict(args), "seconds": seconds, "piped": piped})["id"])

    def feed(self, ident: str, pieces: Iterable[bytes]) -> None:
        """Pipes into an operation; returns when it has taken all of it."""
        connection = _Connection(self._path(), STREAM_SILENCE_SECONDS)
        with closing(connection):
            _read(self._send(connection, "PUT", f"/v1/operations/{ident}/input", pieces))

    def cancel(self, ident: str) -> None:
        """Ends an operation; one that is gone already is as good."""
        try:
            self._ask("DELETE", f"/v1/operations/{ident}")
        except (Failure, NoAgent, GoingAway, AgentLost):
            return

    def follow(self, ident: str) -> Iterator[Event]:
        """The events of an operation up to its ending, over as many answers as it takes; else AgentLost."""
        seen = 0
        try:
            while True:
                for event in self._stream(f"/v1/operations/{ident}/events", seen):
                    seen = event.number
                    yield event
                    if event.kind in ENDINGS:
                        return
        except NoAgent:
            raise AgentLost from None

    def events(self, kinds: Iterable[str] = (), after: int | None = None) -> Iterator[Event]:
        """What happens to the agent, from now on or after an event of that number; ends with AgentLost or NoAgent."""
        query = f"?{urlencode({'kinds': ','.join(kinds)})}" if kinds else ""
        while True:
            for event in self._stream(f"/v1/events{query}", after):
                after = event.number
                yield event

    def _stream(self, path: str, seen: int | None) -> Iterator[Event]:
        connection = _Connection(self._path(), STREAM_SILENCE_SECONDS)
        headers = {} if seen is None else {"Last-Event-ID": str(seen)}
        with closing(connection):
            response = self._send(connection, "GET", path, None, headers)
            fields: dict[str, str] = {}
            while line := _line(response):
                name, separator, value = line.rstrip("\n").partition(": ")
                if separator:
                    fields[name] = value
                elif fields:
                    yield Event(int(fields["id"]), fields["event"], json.loads(fields["data"]))
                    fields = {}

    def _ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        connection = _Connection(self._path(), self._seconds)
        with closing(connection):
            data = _read(self._send(connection, method, path, body))
        return json.loads(data) if data else {}

    def _send(
        self,
        connection: _Connection,
        method: str,
        path: str,
        body: bytes | Iterable[bytes] | None,
        headers: Mapping[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        try:
            connection.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            raise NoAgent from None
        try:
            connection.request(method, path, body, dict(headers or {}), encode_chunked=not isinstance(body, bytes))
            response = connection.getresponse()
        except TimeoutError:
            message = f"the agent does not answer within {self._seconds:g} s"
            raise Failure("timeout", message, hint="talos status --check") from None
        except (OSError, http.client.HTTPException):
            raise AgentLost from None
        _check_api(response)
        if response.status == UNAVAILABLE:
            raise GoingAway
        if response.status == http.client.NOT_FOUND and path.startswith("/v1/operations/"):
            raise AgentLost  # whoever serves now is not whom we asked
        if response.status >= http.client.BAD_REQUEST:
            raise failure_of(json.loads(_read(response)))
        return response

    def _path(self) -> Path:
        path = find_socket(self._home)
        if path is None:
            raise NoAgent
        return path


def failure_of(fields: Mapping[str, Any]) -> Failure:
    """The error object of an answer or an event, to be raised."""
    code = fields.get("code")
    return Failure(
        code if code in CODES else "failed",
        str(fields.get("message", "the agent failed")),
        hint=str(fields.get("hint") or ""),
        tried=[str(line) for line in fields.get("tried") or ()],
    )


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read()
    except (OSError, http.client.HTTPException):
        raise AgentLost from None


def _line(response: http.client.HTTPResponse) -> str:
    try:
        return response.readline(MAX_LINE_BYTES).decode()
    except TimeoutError:
        raise Failure("timeout", "the agent went silent", hint="talos status --check") from None
    except (OSError, http.client.HTTPException):
        raise AgentLost from None


def _check_api(response: http.client.HTTPResponse) -> None:
    theirs = response.getheader(API_HEADER)
    if theirs != str(API):
        version = response.getheader(VERSION_HEADER, "of another kind")
        raise Failure("version_skew", f"the agent is {version}, its API {theirs}", hint="talos down && talos up -d")
