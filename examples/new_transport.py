"""A new transport is one file and one table row: here, streams inside one process over the kernel's socket pairs.

Nothing of the host, the upgrade or another transport is edited: security and streams come on top of whatever moves
bytes both ways. The program holds the transport to the conformance suite, then runs two nodes over it. In the tree,
`SocketPairs` would be `talos/transport/socket_pair.py`, and its row in `tests/conformance/test_transport.py`

    pytest.param(SocketPairs(), "/memory/7", "/memory/8", id="socket-pair")

python examples/new_transport.py
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from talos.abc import ByteTransport, Stream
from talos.addr import is_exactly, parse
from talos.errors import DialError, ListenError
from talos.host import presets
from talos.host.config import Stack
from talos.host.node import open_node
from talos.program import run
from talos.testing.check_transport import check_byte_transport

if TYPE_CHECKING:
    from multiaddr import Multiaddr

ECHO = "/example/echo/1.0.0"
BACKLOG = 64


class SocketPairListener:
    """Hands out the other ends of dialled pairs."""

    def __init__(self, transport: SocketPairs, addr: Multiaddr) -> None:
        self.addr = addr
        self._transport = transport
        self.dialled, self._accepted = trio.open_memory_channel[trio.SocketStream](BACKLOG)

    async def accept(self) -> tuple[trio.SocketStream, Multiaddr]:
        return await self._accepted.receive(), self.addr

    async def aclose(self) -> None:
        self._transport.listeners.pop(self.addr, None)
        self._accepted.close()
        await trio.lowlevel.checkpoint()


class SocketPairs(ByteTransport):
    """Dials and listens on /memory addresses of one instance."""

    def __init__(self) -> None:
        self.listeners: dict[Multiaddr, SocketPairListener] = {}

    def matches(self, addr: Multiaddr) -> bool:
        return is_exactly(addr, "memory")

    async def dial(self, addr: Multiaddr) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        listener = self.listeners.get(addr)
        if listener is None:
            raise DialError(f"{addr}: nobody listens there")
        ours, theirs = socket.socketpair()
        ends = [trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in (ours, theirs)]
        await listener.dialled.send(ends[1])
        return ends[0]

    async def listen(self, addr: Multiaddr) -> SocketPairListener:
        await trio.lowlevel.checkpoint()
        if addr in self.listeners:
            raise ListenError(f"{addr}: somebody listens there already")
        self.listeners[addr] = SocketPairListener(self, addr)
        return self.listeners[addr]


async def main() -> None:
    transport, addr = SocketPairs(), parse("/memory/7")
    await check_byte_transport(transport, addr, nobody=parse("/memory/8"))
    print("keeps every promise of a byte transport")

    stack = Stack(transports=(transport,))
    async with (
        open_node(presets.testing(stack=stack, listen=str(addr))) as server,
        open_node(presets.testing(stack=stack, listen="/memory/9")) as client,
    ):

        @server.handle(ECHO)
        async def echo(stream: Stream) -> None:
            async for chunk in stream:
                await stream.send_all(chunk)

        connection = await client.connect(server.peer_id, server.addrs)
        async with await client.open_stream(connection, ECHO) as stream:
            await stream.send_all(b"hello over a transport of one file")
            await stream.send_eof()
            async for chunk in stream:
                print(bytes(chunk).decode())


if __name__ == "__main__":
    run(main)
