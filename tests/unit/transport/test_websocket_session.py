from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from talos.addr import parse, websocket_of
from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.transport import WebSocketConfig
from talos.transport.websocket.session import ClientSession, ServerSession, Session

ADDR = parse("/ip4/127.0.0.1/tcp/80/ws")
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
END = b"\r\n"
ACCEPT = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "


def opened(config: WebSocketConfig | None = None) -> tuple[ClientSession, ServerSession]:
    config = config or WebSocketConfig()
    client, server = ClientSession(config, websocket_of(ADDR)), ServerSession(config, "/")
    assert server.receive_data(client.data_to_send(), 0) == b""
    assert client.receive_data(server.data_to_send(), 0) == b""
    assert client.opened
    assert server.opened
    return client, server


def frame(data: bytes = b"", opcode: Opcode = Opcode.BINARY, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


def refused(session: Session, data: bytes, now: float = 0) -> tuple[str, bytes]:
    """What is said here, and what the other end is told."""
    with pytest.raises(RemoteProtocolError) as caught:
        session.receive_data(data, now)
    with pytest.raises(RemoteProtocolError):
        session.receive_data(b"x", now)
    return str(caught.value), session.data_to_send()


def close_code(told: bytes) -> int:
    """Of a server's close frame, the last it sends."""
    at = told.rindex(b"\x88")
    return int.from_bytes(told[at + 2 : at + 4], "big")


@given(st.lists(st.binary(max_size=3000), max_size=8), st.integers(0, 2**32))
def test_bytes_arrive_however_they_are_cut(messages: list[bytes], seed: int) -> None:
    chance = random.Random(seed)
    for sender, receiver in (opened(), opened()[::-1]):
        wire = b"".join(sender.send(message) for message in messages) + sender.close()
        got = b""
        while wire:
            cut = chance.randint(1, 2000)
            got += receiver.receive_data(wire[:cut], 0)
            wire = wire[cut:]
        assert got == b"".join(messages)
        assert receiver.closed
        assert receiver.data_to_send()[:1] == b"\x88"  # a close frame for a close frame
        with pytest.raises(LocalProtocolError):
            receiver.send(b"late")
        assert receiver.close() == b""
        assert receiver.receive_data(b"whatever", 0) == b""


def test_frames_behind_the_head_are_not_lost() -> None:
    server = ServerSession(WebSocketConfig(), "/")
    head = REQUEST + END
    assert server.receive_data(head[:40], 0) == b""
    with pytest.raises(LocalProtocolError):
        server.send(b"early")
    assert server.receive_data(head[40:] + frame(b"abc"), 0) == b"abc"


def test_large_sends_become_several_frames() -> None:
    client, server = opened(WebSocketConfig(sent_frame_bytes=1000))
    assert server.receive_data(client.send(bytes(2500)), 0) == bytes(2500)
    assert len(server.send(bytes(2500))) == 2500 + 3 * 4


def test_messages_of_many_frames_are_one_stream() -> None:
    _, server = opened()
    pieces = frame(b"a", fin=False) + frame(b"", Opcode.CONT, fin=False) + frame(b"b", Opcode.CONT) + frame(b"c")
    assert server.receive_data(pieces, 0) == b"abc"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"text", Opcode.TEXT), 1003),
        (frame(b"x", mask=False), 1002),
        (b"\xc2" + frame(b"x")[1:], 1002),  # a reserved bit: a compressed frame
        (b"\x09" + frame(b"x", Opcode.PING)[1:], 1002),  # a control frame in pieces
        (b"\x89\xfe\x00\x7e" + bytes(4 + 126), 1002),  # of 126 bytes
        (b"\x83\x80" + bytes(4), 1002),  # no such opcode
        (frame(b"x", Opcode.CONT), 1002),
        (b"\x82\xff" + (2**20 + 1).to_bytes(8, "big"), 1009),
        (b"\x82\xff" + (2**63 - 1).to_bytes(8, "big"), 1009),
    ],
    ids=[
        "text",
        "no mask",
        "a reserved bit",
        "a ping in pieces",
        "a long ping",
        "an opcode",
        "no start",
        "MiB",
        "giant",
    ],
)
def test_frames_that_are_refused(data: bytes, code: int) -> None:
    _, server = opened(WebSocketConfig(early_bytes=0))
    assert close_code(refused(server, data)[1]) == code


def test_frames_are_smaller_at_first() -> None:
    config = WebSocketConfig(early_frame_bytes=1000, early_bytes=500)
    large = b"\x82\xfe" + (1001).to_bytes(2, "big") + bytes(4 + 1001)
    assert close_code(refused(opened(config)[1], large)[1]) == 1009
    _, server = opened(config)
    assert len(server.receive_data(frame(bytes(600)), 0)) == 600
    assert len(server.receive_data(large, 0)) == 1001


def test_only_the_newest_ping_is_answered() -> None:
    client, server = opened()
    pings = b"".join(frame(bytes([number]), Opcode.PING) for number in range(5))
    assert server.receive_data(pings + frame(b"data"), 0) == b"data"
    assert server.wants_to_send
    pong = server.data_to_send()
    assert pong == b"\x8a\x01\x04"
    assert client.receive_data(pong, 0) == b""
    assert not client.wants_to_send


@pytest.mark.parametrize(
    "idle", [frame(b"", Opcode.PING), frame(b"", Opcode.PONG), frame(b"")], ids=["ping", "pong", "empty"]
)
def test_frames_without_data_are_rated(idle: bytes) -> None:
    config = WebSocketConfig(idle_frames_per_second=2, idle_frames_burst=10)
    _, server = opened(config)
    server.receive_data(idle * 10, 100)
    server.receive_data(idle * 2, 101)
    assert server.receive_data(frame(b"data"), 101) == b"data"
    reason, told = refused(server, idle * 3, 102)
    assert "without data" in reason
    assert close_code(told) == 1008


def test_a_flood_is_not_read_to_its_end() -> None:
    _, server = opened(WebSocketConfig(idle_frames_burst=10))
    flood = frame(b"", Opcode.PING) * 100_000
    refused(server, flood)
    assert len(server.data_to_send()) == 0


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (REQUEST + b"X: " + b"x" * 8192 + END * 2, b"431"),
        (b"GET /" + b"x" * 9000, b"431"),
        (REQUEST + b"X: x\r\n" * 60 + END, b"431"),
        (REQUEST.replace(b"GET / ", b"GET /elsewhere ") + END, b"404"),
        (REQUEST.replace(b"GET", b"POST") + END, b"405"),
        (REQUEST.replace(b"13\r\n", b"12\r\n") + END, b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
    ],
)
def test_requests_that_are_refused(head: bytes, status: bytes) -> None:
    _, told = refused(ServerSession(WebSocketConfig(), "/"), head)
    assert told.startswith(b"HTTP/1.1 " + status)


def test_what_is_no_request_gets_no_answer() -> None:
    for junk in (b"\x13/multistream/1.0.0\n" + END * 2, b"GET\r\n\r\n", b"\x00\r\n\r\n"):
        assert refused(ServerSession(WebSocketConfig(), "/"), junk)[1] == b""


def test_the_limits_of_a_head_are_what_is_said() -> None:
    lines = REQUEST.count(END) - 1
    server = ServerSession(WebSocketConfig(headers=lines), "/")
    server.receive_data(REQUEST + END, 0)
    assert server.opened
    assert "headers" in refused(ServerSession(WebSocketConfig(headers=lines - 1), "/"), REQUEST + END)[0]
    exact = len(REQUEST + END)
    ServerSession(WebSocketConfig(head_bytes=exact), "/").receive_data(REQUEST + END + frame(b"x"), 0)
    refused(ServerSession(WebSocketConfig(head_bytes=exact - 1), "/"), REQUEST + END)


def test_compression_is_declined() -> None:
    server = ServerSession(WebSocketConfig(), "/")
    server.receive_data(REQUEST + b"Sec-WebSocket-Extensions: permessage-deflate\r\n" + END, 0)
    assert b"extensions" not in server.data_to_send().lower()


@pytest.mark.parametrize("target", [b"/a%2Fb", b"/a/b", b"/a/b?query"])
def test_a_path_is_compared_decoded(target: bytes) -> None:
    server = ServerSession(WebSocketConfig(), websocket_of(parse(f"{ADDR}/http-path/a%2Fb")).path)
    server.receive_data(REQUEST.replace(b"GET / ", b"GET " + target + b" ") + END, 0)
    assert server.opened


@pytest.mark.parametrize(
    ("response", "reason"),
    [
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000\r\n\r\n", "403"),
        (b"HTTP/1.1 301 Moved\r\nLocation: /x\r\n\r\n", "301"),
        (ACCEPT + b"AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n", "Sec-WebSocket-Accept"),
        (b"HTTP/1.1 101 Switching\r\n\r\n", "Connection"),
        (b"nonsense\r\n\r\n", "nonsense"),
        (b"HTTP/1.1 101 x\r\n" + b"X: " + b"y" * 9000, "8192 bytes"),
        (b"HTTP/1.1 101 x\r\n" + b"X: y\r\n" * 100 + END, "64 headers"),
    ],
)
def test_responses_that_are_refused(response: bytes, reason: str) -> None:
    client = ClientSession(WebSocketConfig(), websocket_of(ADDR))
    client.data_to_send()
    said, told = refused(client, response)
    assert reason in said
    assert told == b""
    assert not client.opened


def test_the_request_names_host_and_path() -> None:
    addr = websocket_of(parse("/dns4/example.org/tcp/444/tls/sni/talos.test/ws/http-path/p2p%20here"))
    lines = ClientSession(WebSocketConfig(), addr).data_to_send().split(END)
    assert lines[0] == b"GET /p2p%20here HTTP/1.1"
    assert b"Host: talos.test:444" in lines
    assert not any(line.lower().startswith(b"sec-websocket-extensions") for line in lines)
