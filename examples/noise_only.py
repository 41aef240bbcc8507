"""One layer alone: Noise over a plain TCP connection, without a node.

    python examples/noise_only.py

A listener and a dialer in one program; the dialer knows the listener's peer id and would refuse anybody else.
"""

from __future__ import annotations

import trio

from talos.abc import Role
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.program import run
from talos.security.noise import Noise


async def listen(identity: PrivateKey, listener: trio.SocketListener) -> None:
    stream = await listener.accept()
    async with stream:
        channel = await Noise(identity).secure(stream, Role.LISTENER, None)
        async with channel:
            print(f"listener: talking to {channel.remote_peer}")
            async for data in channel:
                await channel.send_all(data.upper())


async def dial(expected: PeerId, port: int) -> None:
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    async with stream:
        channel = await Noise(PrivateKey.generate()).secure(stream, Role.DIALER, expected)
        async with channel:
            print(f"dialer: talking to {channel.remote_peer}")
            await channel.send_all(b"nobody else can read this")
            print(f"dialer: received {bytes(await channel.receive_some()).decode()!r}")


async def main() -> None:
    identity = PrivateKey.generate()
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener, trio.open_nursery() as nursery:
        nursery.start_soon(listen, identity, listener)
        await dial(PeerId.from_key(identity.public_key), listener.socket.getsockname()[1])


if __name__ == "__main__":
    run(main)
