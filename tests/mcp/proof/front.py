"""A front over HTTP for a server on stdio: each POST becomes a line, each line an event of the right answer.

Only for the conformance suite, which speaks HTTP and nothing else. It changes no line. Legacy sessions have a process
each, named by `Mcp-Session-Id`; modern requests share one.

    python front.py COMMAND...      prints the URL, then serves until its stdin ends
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

VERSION = "io.modelcontextprotocol/protocolVersion"
LOCAL = ("127.0.0.1", "localhost")


class Backend:
    """One server process, and who waits for its lines."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.waiting: dict[str, queue.Queue[bytes | None]] = {}
        self.listener: queue.Queue[bytes | None] | None = None
        self.lock = threading.Lock()
        threading.Thread(target=self._read, daemon=True).start()

    def send(self, line: bytes) -> None:
        assert self.process.stdin is not None
        with self.lock:
            self.process.stdin.write(line + b"\n")
            self.process.stdin.flush()

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for raw in self.process.stdout:
            self._route(raw.rstrip(b"\n"))
        for waiting in list(self.waiting.values()):
            waiting.put(None)

    def _route(self, line: bytes) -> None:
        """A response ends the answer to its request; the rest goes to the newest that is open."""
        message = json.loads(line)
        if "method" not in message:
            waiting = self.waiting.pop(json.dumps(message.get("id")), None)
            if waiting is not None:
                waiting.put(line)
                waiting.put(None)
            return
        for stream in [*reversed(list(self.waiting.values())), self.listener]:
            if stream is not None:
                stream.put(line)
                return


class Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    command_line: list[str]
    sessions: dict[str, Backend]

    def do_POST(self) -> None:
        line = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if not self._is_local():
            return
        try:
            message = json.loads(line)
        except ValueError:
            self._answer(400, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}')
            return
        line = line.replace(b"\n", b" ").replace(b"\r", b" ")
        found = self._backend(message)
        if found is None:
            self._answer(404, b'{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}')
            return
        session, backend = found
        if "id" not in message or "method" not in message:
            backend.send(line)
            self._answer(202, b"")
            return
        events: queue.Queue[bytes | None] = queue.Queue()
        backend.waiting[json.dumps(message["id"])] = events
        backend.send(line)
        self._stream(events, session)

    def do_GET(self) -> None:
        backend = self.sessions.get(self.headers.get("Mcp-Session-Id", ""))
        if not self._is_local():
            return
        if backend is None:
            self._answer(405, b"")
            return
        events: queue.Queue[bytes | None] = queue.Queue()
        backend.listener = events
        self._stream(events, None)

    def do_DELETE(self) -> None:
        backend = self.sessions.pop(self.headers.get("Mcp-Session-Id", ""), None)
        if backend is not None:
            backend.close()
        self._answer(200 if backend is not None else 404, b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Says nothing."""

    def _is_local(self) -> bool:
        """Against DNS rebinding, which the suite tries."""
        host = self.headers.get("Host", "").rpartition(":")[0]
        origin = self.headers.get("Origin")
        if host in LOCAL and (origin is None or origin.split("//")[-1].rpartition(":")[0] in LOCAL):
            return True
        self._answer(403, b"")
        return False

    def _backend(self, message: Any) -> tuple[str | None, Backend] | None:
        if isinstance(message, dict) and message.get("method") == "initialize":
            session = uuid.uuid4().hex
            self.sessions[session] = Backend(self.command_line)
            return session, self.sessions[session]
        name = self.headers.get("Mcp-Session-Id")
        if name is not None:
            backend = self.sessions.get(name)
            return None if backend is None else (None, backend)
        era = "modern" if VERSION in json.dumps(message) else "neither"
        if era not in self.sessions:
            self.sessions[era] = Backend(self.command_line)
        return None, self.sessions[era]

    def _stream(self, events: queue.Queue[bytes | None], session: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        if session is not None:
            self.send_header("Mcp-Session-Id", session)
        self.end_headers()
        try:
            while (line := events.get()) is not None:
                self._chunk(b"event: message\ndata: " + line + b"\n\n")
            self._chunk(b"")
        except OSError:
            self.close_connection = True

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        if body:
            self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    Front.command_line, Front.sessions = sys.argv[1:], {}
    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as http:
        http.daemon_threads = True
        threading.Thread(target=http.serve_forever, daemon=True).start()
        print(f"http://127.0.0.1:{http.server_address[1]}/mcp", flush=True)
        sys.stdin.read()
        for backend in list(Front.sessions.values()):
            backend.close()
        http.shutdown()


if __name__ == "__main__":
    main()
