"""TR16: what comes as a WebSocket and is none, or too much of one."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import trio
from websockets.frames import Frame, Opcode

from tests.attacks.harness import MIB, Victim, attacked
from tests.attacks.nodes import read_to_end

WS: dict[str, Any] = {"stack": "ws/noise/yamux", "listen": ["/ip4/127.0.0.1/tcp/0/ws"]}
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)
SOCKET_READ = 4096
BOMB = bytes.fromhex("c1fe0400") + bytes(4 + 1024)
"""A frame that says it is compressed text."""
FRAMES = {
    "no mask": (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
    "a compressed bomb": (BOMB, 1002),
    "a fragmented ping": (b"\x09\x81\x00\x00\x00\x00x", 1002),
    "a long ping": (b"\x89\xfe\x01\x00" + bytes(4 + 256), 1002),
    "text": (Frame(Opcode.TEXT, b"x").serialize(mask=True), 1003),
    "a giant": (b"\x82\xff" + (2**62).to_bytes(8, "big") + bytes(4), 1009),
    "a MiB before anybody is authenticated": (b"\x82\xff" + MIB.to_bytes(8, "big") + bytes(4), 1009),
    "a flood of pings": (Frame(Opcode.PING, b"").serialize(mask=True) * 200, 1008),
    "a flood of nothing": (Frame(Opcode.BINARY, b"").serialize(mask=True) * 200, 1008),
}
HEADS = {
    "65 KiB of header": (REQUEST + b"X: " + b"x" * 65_536, 431),
    "100 headers": (REQUEST + b"X: x\r\n" * 100 + b"\r\n", 431),
    "another path": (REQUEST.replace(b"GET /", b"GET /admin") + b"\r\n", 404),
    "no upgrade": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 426),
}


async def told(stream: trio.SocketStream, data: bytes) -> bytes:
    """All that the node says to `data`."""
    with contextlib.suppress(trio.BrokenResourceError):  # it closed before it had all
        await stream.send_all(data)
    return await read_to_end(stream)


async def upgrade(stream: trio.SocketStream, more: bytes = b"") -> bytes:
    await stream.send_all(REQUEST + more + b"\r\n")
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive_some()
    return head


async def failures(node: Victim) -> int:
    return sum((await node.status())["failed"].values())


async def test_tr16_heads_and_frames_that_are_no_websocket() -> None:
    async with attacked(newcomers=False, **WS) as node:
        for name, (head, status) in HEADS.items():
            async with node.raw() as stream:
                answer = await told(stream, head)
                unread = len(head) > SOCKET_READ  # then the kernel may throw the answer away
                assert (unread and not answer) or answer.startswith(f"HTTP/1.1 {status} ".encode()), (name, answer)
        for name, (frames, code) in FRAMES.items():
            async with node.raw() as stream:
                offered = await upgrade(stream, b"Sec-WebSocket-Extensions: permessage-deflate\r\n")
                assert b"101" in offered.split(b"\r\n")[0]
                assert b"extensions" not in offered.lower(), "an extension was accepted"
                answer = await told(stream, frames)
                assert int.from_bytes(answer[answer.rindex(b"\x88") + 2 :][:2], "big") == code, name
        failed = len(HEADS) + len(FRAMES)
        await node.until(lambda status: sum(status["failed"].values()) == failed)


@pytest.mark.long
async def test_tr16_silence_and_dripping_end_after_ten_seconds() -> None:
    """Before, inside and behind the upgrade: the deadline is the same total."""
    closed: list[float] = []

    async def drip(node: Victim, data: bytes) -> None:
        async with node.raw() as stream, trio.open_nursery() as nursery:
            started = trio.current_time()

            async def send() -> None:
                with contextlib.suppress(trio.BrokenResourceError):
                    for byte in data:
                        await stream.send_all(bytes([byte]))
                        await trio.sleep(0.25)

            nursery.start_soon(send)
            await read_to_end(stream)
            closed.append(trio.current_time() - started)
            nursery.cancel_scope.cancel()

    async with attacked(newcomers=False, **WS) as node, trio.open_nursery() as nursery:
        for data in (b"", REQUEST, REQUEST + b"\r\n" + Frame(Opcode.BINARY, bytes(600)).serialize(mask=True)):
            nursery.start_soon(drip, node, data)
    assert len(closed) == 3
    assert all(9 < seconds < 15 for seconds in closed), closed


async def test_tr20_plausible_bytes_over_a_websocket_are_counted_too() -> None:
    async with attacked(newcomers=False, **WS) as node:
        async with node.raw() as stream:
            await upgrade(stream)
            line = b"\x80\x08" + b"/" + b"x" * 1022 + b"\n"
            hello = b"\x13/multistream/1.0.0\n"
            frames = [Frame(Opcode.BINARY, piece).serialize(mask=True) for piece in (hello, *[line] * 65)]
            with contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(b"".join(frames))
            await read_to_end(stream)
        await node.until(lambda status: sum(status["failed"].values()) == 1)
