"""Both ends of a WebSocket: the first byte chooses how the rest is cut, the second what was said before."""

from __future__ import annotations

from websockets.frames import Frame, Opcode

from talos.addr import parse, websocket_of
from talos.errors import RemoteProtocolError
from talos.transport.websocket.config import WebSocketConfig
from talos.transport.websocket.session import ClientSession, ServerSession, Session

ADDR = websocket_of(parse("/ip4/127.0.0.1/tcp/80/ws"))
CONFIG = WebSocketConfig(head_bytes=512, headers=16, frame_bytes=1024, early_frame_bytes=512, early_bytes=256)
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
FRAMES = b"".join(
    Frame(opcode, data, fin).serialize(mask=True)
    for opcode, data, fin in (
        (Opcode.BINARY, b"data", False),
        (Opcode.PING, b"ping", True),
        (Opcode.CONT, b"more", True),
        (Opcode.CLOSE, b"\x03\xe8bye", True),
    )
)
SEEDS = (
    b"\x00\x00" + REQUEST + FRAMES,
    b"\x07\x01" + FRAMES,
    b"\x03\x02HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    b"\x01\x03\x82\x7e\x01\x00" + bytes(256) + b"\x88\x00",
    b"\x00\x01" + Frame(Opcode.TEXT, b"text").serialize(mask=True),
    b"\x00\x01" + Frame(Opcode.PING, b"").serialize(mask=True) * 120,
)


def _session(said: int) -> Session:
    """A server or a client, its upgrade still to come or done."""
    if said == 0:
        return ServerSession(CONFIG, "/")
    client, server = ClientSession(CONFIG, ADDR), ServerSession(CONFIG, "/")
    request = client.data_to_send()
    if said == 2:
        return client
    server.receive_data(request, 0)
    client.receive_data(server.data_to_send(), 0)
    return server if said == 1 else client


def target(data: bytes) -> None:
    size, said, rest = (data[0] if data else 0) + 1, (data[1] if len(data) > 1 else 0) % 4, data[2:]
    session = _session(said)
    try:
        for start in range(0, len(rest), size):
            chunk = rest[start : start + size]
            got = session.receive_data(chunk, float(start))
            assert session.opened or not got
            # Answers are no longer than what they answer, the response to a request aside.
            assert len(session.data_to_send()) <= len(chunk) + CONFIG.head_bytes
    except RemoteProtocolError:
        session.data_to_send()
        try:
            session.receive_data(b"more", 0)
        except RemoteProtocolError:
            return
        raise AssertionError("it went on") from None
