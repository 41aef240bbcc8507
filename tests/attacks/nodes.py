"""What victim, bystander and attacker processes share."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from interop.stack import node_config
from talos.addr import host_port, parse
from talos.host.config import NodeConfig
from talos.host.node import open_node
from talos.transport.tcp import Tcp

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

    from multiaddr import Multiaddr

    from talos.abc import Host, Stream
    from talos.host.node import Node

ECHO = "/echo/1.0.0"
HOLD = "/hold/1.0.0"
SIP = "/sip/1.0.0"
FAIL = "/fail/1.0.0"


class FromAddress(Tcp):
    """TCP whose dials come from one local address, so that one machine can be many."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self._source = source

    async def dial(self, addr: Multiaddr) -> trio.SocketStream:  # type: ignore[override]
        host, port = host_port(addr)
        return await trio.open_tcp_stream(host, port, local_address=self._source)


@asynccontextmanager
async def attacker_node(config: NodeConfig | None = None, *, source: str = "", stack: str = "") -> AsyncIterator[Node]:
    """A node, of `stack` (`tcp/tls/mplex`) and from the address `source` where they are given."""
    config = config or (node_config(stack) if stack else NodeConfig())
    if source and stack == "quic-v1":  # dials go out from the port that is listened on
        config = replace(config, listen=(parse(f"/ip4/{source}/udp/0/quic-v1"),))
    elif source:
        config = replace(config, stack=replace(config.stack, transports=(FromAddress(source),)))
    async with open_node(config) as node:
        yield node


async def receive_exactly(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    """`count` bytes; EOFError when there are fewer."""
    received = b""
    while len(received) < count:
        chunk = await stream.receive_some(count - len(received))
        if not chunk:
            raise EOFError(f"{len(received)} of {count} bytes")
        received += bytes(chunk)
    return received


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Everything until the other side closes, however it does so."""
    received = b""
    try:
        async for chunk in stream:
            received += bytes(chunk)
    except trio.BrokenResourceError:
        pass
    return received


async def ignoring_the_end(work: Callable[..., Awaitable[object]], *args: object) -> None:
    """Does it until the other side has closed the door, which is its right."""
    try:
        await work(*args)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


async def echo_once(stream: trio.abc.Stream, data: bytes) -> None:
    """Sends `data` and wants it back; EOFError, ValueError."""
    await stream.send_all(data)
    if await receive_exactly(stream, len(data)) != data:
        raise ValueError("the echo came back changed")


async def exchange(stream: trio.abc.HalfCloseableStream, data: bytes) -> bytes:
    """Sends `data` and the end, and receives at the same time: all that came until the other side's end."""
    received = bytearray()

    async def send() -> None:
        await stream.send_all(data)
        await stream.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        async for chunk in stream:
            received += chunk
    return bytes(received)


async def open_echo(host: Host, addr: Multiaddr, *protocols: str) -> Stream:
    """A stream to the echo of the node at `addr`, or another protocol of it."""
    connection = await host.connect(None, [addr])
    return await host.open_stream(connection, *(protocols or (ECHO,)))


async def commands() -> AsyncGenerator[dict[str, Any], None]:
    """The commands that come in on standard input, until it closes."""
    text = b""
    async with trio.lowlevel.FdStream(0) as stdin:
        async for chunk in stdin:
            *lines, text = (text + chunk).split(b"\n")
            for line in lines:
                yield json.loads(line)
