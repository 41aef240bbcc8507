"""Only the muxer: many streams over any trio stream, here a pair in memory.

python examples/yamux_only.py
"""

from __future__ import annotations

from contextlib import suppress

import trio
import trio.testing

from talos.abc import Role
from talos.muxer.yamux import Yamux
from talos.program import run


async def answer(stream: trio.abc.HalfCloseableStream) -> None:
    """Sends everything back in capitals."""
    async with stream:
        async for chunk in stream:
            await stream.send_all(chunk.upper())


async def shout_back(channel: trio.abc.Stream) -> None:
    """The side that answers: one task a stream, until the peer opens no more."""
    async with Yamux().open(channel, Role.LISTENER) as connection, trio.open_nursery() as nursery:
        with suppress(trio.EndOfChannel):
            while True:
                nursery.start_soon(answer, await connection.accept_stream())


async def main() -> None:
    near, far = trio.testing.memory_stream_pair()  # or trio.open_tcp_stream(…) here, trio.serve_tcp(…) there
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shout_back, far)
        async with Yamux().open(near, Role.DIALER) as connection:
            for word in (b"many", b"streams", b"one", b"channel"):
                async with await connection.open_stream() as stream:
                    await stream.send_all(word)
                    await stream.send_eof()
                    async for chunk in stream:
                        print(chunk.decode())


if __name__ == "__main__":
    run(main)
