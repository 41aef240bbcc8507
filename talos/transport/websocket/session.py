"""One end of a WebSocket without IO: bytes of the connection in and out, bytes of the stream out and in (RFC 6455).

HTTP, frames and masks are the library's; what is decided here is what a byte stream takes of them:

- the head of a request or a response comes whole, within its limits, before the library sees any of it;
- binary messages of any number of frames, their borders mean nothing; a text frame ends the connection (1003),
  as does one over the limit (1009) and what the library refuses (1002): masks, reserved bits, control frames that
  are long or in pieces. No extension is offered, none accepted;
- frames that carry nothing for us are rated, and only the newest of several pings is answered.

A fault of the remote raises RemoteProtocolError, once what is to be told about it stands in `data_to_send`.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING

from websockets.client import ClientProtocol
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import SEND_EOF, Protocol, State
from websockets.server import ServerProtocol
from websockets.uri import WebSocketURI

from talos.addr import request_path
from talos.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from talos.addr import WebSocketAddr
    from talos.transport.websocket.config import WebSocketConfig

__all__ = ["ClientSession", "ServerSession", "Session"]

HEAD_END = b"\r\n\r\n"
SLICE_BYTES = 16 * 1024
"""What the library is given at once: between slices the frames in them are counted."""
_DATA = (Opcode.BINARY, Opcode.CONT)

# It tells of each connection at info, and of each frame at debug.
_library_log = logging.getLogger("talos.transport.websocket.library")
_library_log.setLevel(logging.WARNING)


class Session:
    """What both ends share. `opened`: frames may be sent; `closed`: the other end sends nothing any more."""

    def __init__(self, config: WebSocketConfig, protocol: Protocol) -> None:
        self._config = config
        self._protocol = protocol
        self._head = bytearray()
        self._received = 0
        self._allowance = float(config.idle_frames_burst)
        self._allowance_at: float | None = None
        self._outgoing: list[bytes] = []
        self._failed = ""
        self.opened = False
        self.closed = False

    def receive_data(self, data: bytes | bytearray | memoryview, now: float) -> bytes:
        """What the stream got of `data`; RemoteProtocolError, then and for ever, when the remote broke a rule."""
        if self._failed:
            raise RemoteProtocolError(self._failed)
        view = memoryview(data)
        if not self.opened:
            view = memoryview(self._receive_head(bytes(view)))
        parts: list[bytes] = []
        for start in range(0, len(view), SLICE_BYTES):
            if self.closed:
                break
            self._receive_frames(view[start : start + SLICE_BYTES], parts, now)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    @property
    def wants_to_send(self) -> bool:
        """Whether there is anything for `data_to_send`."""
        return bool(self._outgoing)

    def data_to_send(self) -> bytes:
        """What the connection has to carry now."""
        data, self._outgoing = b"".join(self._outgoing), []
        return data

    def send(self, data: bytes | bytearray | memoryview) -> bytes:
        """The frames that carry `data`, behind anything else that is to be sent."""
        if not self.opened:
            raise LocalProtocolError("the WebSocket is not open yet")
        if self._protocol.state is not State.OPEN:
            raise LocalProtocolError("the WebSocket is closed")
        with memoryview(data) as view:
            for start in range(0, len(view), self._config.sent_frame_bytes):
                self._protocol.send_binary(view[start : start + self._config.sent_frame_bytes])
        self._take_outgoing()
        return self.data_to_send()

    def close(self) -> bytes:
        """The close frame, unless one was sent."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.NORMAL_CLOSURE)
            self._take_outgoing()
        return self.data_to_send()

    def _open(self, head: bytes) -> None:
        raise NotImplementedError

    def _too_large(self, reason: str) -> None:
        raise NotImplementedError

    def _receive_head(self, data: bytes) -> bytes:
        """Waits for the whole head; what came behind it."""
        end = (self._head + data).find(HEAD_END)
        length = end + len(HEAD_END) if end >= 0 else len(self._head) + len(data)
        if length > self._config.head_bytes:
            self._too_large(f"over {self._config.head_bytes} bytes")
        if end < 0:
            self._head += data
            return b""
        rest = data[length - len(self._head) :]
        head = bytes(self._head + data)[:length]
        if head.count(b"\r\n") - 2 > self._config.headers:
            self._too_large(f"more than {self._config.headers} headers")
        self._head.clear()
        self._open(head)
        self._take_outgoing()
        self.opened = True
        return rest

    def _receive_frames(self, data: memoryview, parts: list[bytes], now: float) -> None:
        protocol = self._protocol
        early = self._received < self._config.early_bytes
        protocol.max_fragment_size = self._config.early_frame_bytes if early else self._config.frame_bytes
        self._received += len(data)
        protocol.receive_data(bytes(data))
        idle = pings = 0
        for frame in protocol.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode is Opcode.TEXT:
                protocol.fail(CloseCode.UNSUPPORTED_DATA, "binary messages only")
                self._take_outgoing()
                self._fail("a text message came")
            if frame.opcode in _DATA and frame.data:
                parts.append(bytes(frame.data))
            elif frame.opcode is Opcode.CLOSE:
                self.closed = True
            else:
                idle += 1
                pings += frame.opcode is Opcode.PING
        self._take_outgoing(skip=max(0, pings - 1))
        if idle:
            self._rate(idle, now)
        if protocol.parser_exc is not None:
            self._fail(str(protocol.parser_exc))

    def _rate(self, idle: int, now: float) -> None:
        before = now if self._allowance_at is None else self._allowance_at
        regained = (now - before) * self._config.idle_frames_per_second
        self._allowance = min(self._allowance + regained, float(self._config.idle_frames_burst)) - idle
        self._allowance_at = now
        if self._allowance < 0:
            self._protocol.fail(CloseCode.POLICY_VIOLATION, "too many frames without data")
            self._take_outgoing()
            self._fail("too many frames without data came")

    def _take_outgoing(self, skip: int = 0) -> None:
        """`skip`: answers to pings that are not the newest; they stand first."""
        self._outgoing += (data for data in self._protocol.data_to_send()[skip:] if data is not SEND_EOF)

    def _fail(self, reason: str) -> None:
        self._failed = f"websocket: {reason}"
        raise RemoteProtocolError(self._failed)


class ServerSession(Session):
    """The end that was dialled; it answers requests for `path`."""

    def __init__(self, config: WebSocketConfig, path: str) -> None:
        self._server = ServerProtocol(max_size=None, logger=_library_log)
        super().__init__(config, self._server)
        self._path = path

    def _open(self, head: bytes) -> None:
        self._server.receive_data(head)
        requests = self._server.events_received()
        if not requests:
            self._take_outgoing()
            self._fail("not an HTTP request")
        request = requests[0]
        assert isinstance(request, Request)
        if request_path(request.path) != self._path:
            self._reject(HTTPStatus.NOT_FOUND, f"nothing is at {request.path[:80]!r}")
        response = self._server.accept(request)
        self._server.send_response(response)
        if response.status_code != HTTPStatus.SWITCHING_PROTOCOLS:
            self._take_outgoing()
            self._fail(f"no upgrade request: {self._server.handshake_exc}")

    def _too_large(self, reason: str) -> None:
        self._reject(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"a request of {reason}")

    def _reject(self, status: HTTPStatus, reason: str) -> None:
        self._server.send_response(self._server.reject(status, ""))
        self._take_outgoing()
        self._fail(reason)


class ClientSession(Session):
    """The end that dials; its request is ready to be sent."""

    def __init__(self, config: WebSocketConfig, addr: WebSocketAddr) -> None:
        uri = WebSocketURI(addr.secure, addr.server_name, addr.port, addr.path, "")
        self._client = ClientProtocol(uri, max_size=None, logger=_library_log)
        super().__init__(config, self._client)
        self._client.send_request(self._client.connect())
        self._take_outgoing()

    def _open(self, head: bytes) -> None:
        status = head.split(b" ", 2)[1:2]
        if status != [b"101"]:  # a body would follow, which nobody wants
            self._fail(f"the server answered {b' '.join(status)[:20].decode('ascii', 'replace') or 'nonsense'}")
        self._client.receive_data(head)
        for response in self._client.events_received():
            assert isinstance(response, Response)
        failure = self._client.handshake_exc
        if failure is not None:
            self._fail(f"no upgrade: {failure}")

    def _too_large(self, reason: str) -> None:
        self._fail(f"a response of {reason}")
