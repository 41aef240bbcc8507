"""Every transport against the suite: a new one is one row."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest
import trio

from talos.addr import parse
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.muxer.yamux import Yamux
from talos.security.noise import Noise
from talos.testing.check_stream import check_muxed_stream
from talos.testing.check_transport import check_byte_transport, check_connection
from talos.transport import Memory, Tcp, Unix, WebSocket, WebSocketConfig
from talos.transport.quic import Quic, QuicConfig
from talos.upgrade import Upgrade

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from talos.abc import ByteTransport, Connection, MuxedStream, ProtocolId, Role, SecureChannel
    from talos.testing.web_certificate import WebCertificate


class LateMuxer(Noise):
    """Noise as rust-libp2p and nim-libp2p speak it: without early muxers."""

    async def secure(
        self, stream: trio.abc.Stream, role: Role, expected: PeerId | None, *, muxers: Sequence[ProtocolId] = ()
    ) -> SecureChannel:
        return await super().secure(stream, role, expected)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


TRANSPORTS = [
    pytest.param(Tcp(), "/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/1", id="tcp-v4"),
    pytest.param(
        Tcp(),
        "/ip6/::1/tcp/0",
        "/ip6/::1/tcp/1",
        id="tcp-v6",
        marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here"),
    ),
    pytest.param(Memory(), "/memory/0", "/memory/999999", id="memory"),
    pytest.param(WebSocket(), "/ip4/127.0.0.1/tcp/0/ws", "/ip4/127.0.0.1/tcp/1/ws", id="ws"),
    pytest.param(Unix(), "/unix/{tmp}/s", "/unix/{tmp}/nobody", id="unix"),
]


@pytest.mark.parametrize(("transport", "addr", "nobody"), TRANSPORTS)
async def test_byte_transport(transport: ByteTransport, addr: str, nobody: str, tmp_path: Path) -> None:
    tmp = str(tmp_path).strip("/")
    await check_byte_transport(transport, parse(addr.format(tmp=tmp)), parse(nobody.format(tmp=tmp)))


@pytest.mark.parametrize("early", [True, False], ids=["early-muxer", "multistream-muxer"])
@pytest.mark.parametrize(("transport", "addr", "nobody"), TRANSPORTS)
async def test_upgraded(transport: ByteTransport, addr: str, nobody: str, tmp_path: Path, *, early: bool) -> None:
    keys = [PrivateKey.generate() for _ in range(3)]
    peers = [PeerId.from_key(key.public_key) for key in keys]
    dialer, listener = (
        Upgrade(transport, security=[Noise(key) if early else LateMuxer(key)], muxers=[Yamux()], local_peer=peer)
        for key, peer in list(zip(keys, peers, strict=True))[:2]
    )
    assert not listener.matches(parse("/ip4/127.0.0.1/udp/9/quic-v1"))
    where = parse(addr.format(tmp=str(tmp_path).strip("/")))
    await check_connection(dialer, listener, where, (peers[0], peers[1]), peers[2])


@pytest.mark.parametrize(
    "addr",
    [
        pytest.param("/ip4/127.0.0.1/udp/0/quic-v1", id="v4"),
        pytest.param(
            "/ip6/::1/udp/0/quic-v1", id="v6", marks=pytest.mark.skipif(not has_ipv6(), reason="no IPv6 here")
        ),
    ],
)
async def test_quic(addr: str) -> None:
    keys = [PrivateKey.generate() for _ in range(3)]
    peers = [PeerId.from_key(key.public_key) for key in keys]
    dialer, listener = Quic(keys[0]), Quic(keys[1])
    assert not listener.matches(parse("/ip4/127.0.0.1/tcp/0"))
    assert listener.matches(parse(addr))
    await check_connection(dialer, listener, parse(addr), (peers[0], peers[1]), peers[2])


async def test_wss(web_certificate: WebCertificate) -> None:
    config = WebSocketConfig(
        certificate=web_certificate.chain, private_key=web_certificate.key, authorities=web_certificate.authority
    )
    where, nobody = parse("/ip4/127.0.0.1/tcp/0/tls/ws"), parse("/ip4/127.0.0.1/tcp/1/wss")
    await check_byte_transport(WebSocket(config), where, nobody, resumes=False)


async def test_quic_streams() -> None:
    """The suite for muxed streams, over a connection with sockets; a stream is there for the peer with its first byte."""
    keys = [PrivateKey.generate() for _ in range(2)]
    dialer, listener = Quic(keys[0]), Quic(keys[1], QuicConfig(stall_seconds=3600))
    door = await listener.listen(parse("/ip4/127.0.0.1/udp/0/quic-v1"))
    async with trio.open_nursery() as nursery:
        accepted: list[Connection] = []
        both = trio.Event()

        async def serve() -> None:
            async with (await door.accept()).open() as connection:
                accepted.append(connection)
                both.set()
                await trio.sleep_forever()

        nursery.start_soon(serve)
        async with dialer.dial(door.addr, None) as ours:
            await both.wait()
            (theirs,) = accepted

            async def pair(opener: Connection, acceptor: Connection) -> tuple[MuxedStream, MuxedStream]:
                stream = await opener.open_stream()
                await stream.send_all(b"!")
                other = await acceptor.accept_stream()
                assert await other.receive_some(1) == b"!"
                return stream, other

            with trio.fail_after(60):
                await check_muxed_stream(lambda: pair(ours, theirs))
                await check_muxed_stream(lambda: pair(theirs, ours))
            nursery.cancel_scope.cancel()
    await door.aclose()
