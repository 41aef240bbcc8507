"""Each layer is usable alone, and typed."""

import trio

from talos.abc import Muxer, Role, SecurityTransport
from talos.identity.keys import PrivateKey
from talos.muxer.yamux import Yamux, YamuxMachine
from talos.security.noise import Noise


async def only_the_muxer(stream: trio.abc.Stream) -> None:
    async with Yamux().open(stream, Role.DIALER) as connection:
        await connection.open_stream()


def only_the_machine(data: bytes) -> bytes:
    machine = YamuxMachine(dialer=True)
    machine.receive_data(data)
    return machine.data_to_send()


async def only_security(stream: trio.abc.Stream, key: PrivateKey) -> bytes:
    channel = await Noise(key).secure(stream, Role.DIALER, None)
    return channel.remote_peer.to_bytes()


muxer: Muxer = Yamux()


def security(key: PrivateKey) -> SecurityTransport:
    return Noise(key)
