"""What row P14 is compared with: stdio carried over a loopback socket by two trio processes, and nothing else.

`python -m bench.pipe serve COMMAND…` prints its port; `python -m bench.pipe connect PORT` is stdio.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import trio

READ_BYTES = 262_144


async def copy(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
    while data := await source.receive_some(READ_BYTES):
        await sink.send_all(data)


async def lend(command: list[str], stream: trio.SocketStream) -> None:
    """One child for one connection."""
    async with trio.open_nursery() as nursery:
        start = partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child: trio.Process = await nursery.start(start)
        assert child.stdin is not None
        assert child.stdout is not None
        nursery.start_soon(copy, child.stdout, stream)
        await copy(stream, child.stdin)
        await child.stdin.aclose()
    await stream.aclose()


async def serve(command: list[str]) -> None:
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, partial(lend, command), listeners)
        print(listeners[0].socket.getsockname()[1], flush=True)


async def connect(port: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    stdin, stdout = trio.lowlevel.FdStream(os.dup(0)), trio.lowlevel.FdStream(os.dup(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(copy, stream, stdout)
        await copy(stdin, stream)
        await stream.send_eof()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        trio.run(serve, sys.argv[2:])
    else:
        trio.run(connect, int(sys.argv[2]))
