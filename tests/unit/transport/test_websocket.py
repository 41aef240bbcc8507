from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from websockets.frames import Frame, Opcode

from talos.addr import host_port, parse
from talos.errors import ConfigError, DialError, ListenError
from talos.host import presets
from talos.host.config import Stack
from talos.host.node import open_node
from talos.transport import Resolver, Tcp, WebSocket, WebSocketConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from multiaddr import Multiaddr

    from talos.testing.web_certificate import WebCertificate
    from talos.transport.websocket import WebSocketStream

WS = parse("/ip4/127.0.0.1/tcp/0/ws")
WSS = parse("/ip4/127.0.0.1/tcp/0/wss")
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


@pytest.fixture
def certified(web_certificate: WebCertificate) -> WebSocketConfig:
    return WebSocketConfig(
        certificate=web_certificate.chain,
        private_key=web_certificate.key,
        authorities=web_certificate.authority,
    )


@asynccontextmanager
async def connected(
    addr: Multiaddr = WS, listening: WebSocket | None = None, dialling: WebSocket | None = None
) -> AsyncIterator[tuple[WebSocketStream, WebSocketStream]]:
    """The dialled end and the accepted one, open."""
    listener = await (listening or WebSocket()).listen(addr)
    ends: list[WebSocketStream] = []

    async def dial() -> None:
        ends.append(await (dialling or WebSocket()).dial(listener.addr))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial)
        accepted, _ = await listener.accept()
        await accepted.open()
    await listener.aclose()
    async with ends[0], accepted:
        yield ends[0], accepted


@asynccontextmanager
async def raw_client(config: WebSocketConfig | None = None) -> AsyncIterator[tuple[trio.SocketStream, WebSocketStream]]:
    """A socket that speaks for itself, and the accepted end."""
    listener = await WebSocket(config).listen(WS)
    raw = await trio.open_tcp_stream(*host_port(listener.addr))
    accepted, _ = await listener.accept()
    await listener.aclose()
    async with raw, accepted:
        yield raw, accepted


async def refusal(addr: Multiaddr, listening: WebSocket, dialling: WebSocket) -> DialError:
    """How a dial fails whose other end is used."""
    listener = await listening.listen(addr)

    async def serve() -> None:
        accepted, _ = await listener.accept()
        with pytest.raises(trio.BrokenResourceError):
            await accepted.open()
        await accepted.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(DialError) as caught:
            await dialling.dial(listener.addr)
    await listener.aclose()
    return caught.value


async def test_addresses_of_both_ends() -> None:
    listener = await WebSocket().listen(parse("/ip4/127.0.0.1/tcp/0/ws/http-path/p2p"))
    assert str(listener.addr).endswith("/ws/http-path/p2p")
    async with connected() as (dialled, accepted):
        assert str(dialled.local_addr).endswith("/ws")
        assert str(accepted.local_addr).endswith("/ws")
        await dialled.aclose()
        with pytest.raises(OSError, match=r"closed|Bad"):
            _ = dialled.local_addr
    await listener.aclose()


async def test_a_path_that_is_not_there() -> None:
    listener = await WebSocket().listen(parse(f"{WS}/http-path/here"))
    elsewhere = parse(str(listener.addr).replace("here", "there"))

    async def serve() -> None:
        accepted, _ = await listener.accept()
        with pytest.raises(trio.BrokenResourceError, match="there"):
            await accepted.receive_some()
        await accepted.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with pytest.raises(DialError, match="404"):
            await WebSocket().dial(elsewhere)
    await listener.aclose()


async def test_web_certificates_are_checked(certified: WebSocketConfig) -> None:
    listening = WebSocket(certified)
    assert "certificate" in str(await refusal(WSS, listening, WebSocket()))
    other = parse("/ip4/127.0.0.1/tcp/0/tls/sni/example.org/ws")
    assert "certificate" in str(await refusal(other, listening, WebSocket(certified)))
    async with connected(WSS, listening, WebSocket(WebSocketConfig(verify=False))) as (dialled, accepted):
        await dialled.send_all(b"unchecked")
        assert await accepted.receive_some() == b"unchecked"
        assert str(accepted.local_addr).endswith("/wss")


async def test_a_name_is_checked_behind_its_resolution(certified: WebSocketConfig) -> None:
    """The host resolves names before a transport is asked."""
    stack = Stack(transports=(Tcp(), WebSocket(certified)))
    listening = replace(presets.testing(stack=stack), listen=(WSS,))
    async with open_node(listening) as server, open_node(replace(listening, listen=())) as client:
        port = host_port(server.addrs[0])[1]
        for name, held in (("localhost", True), ("talos.invalid", False)):
            addr = parse(f"/dns4/{name}/tcp/{port}/wss")
            if held:
                connection = await client.connect(server.peer_id, [addr])
                assert str(connection.remote_addr).endswith("/tls/sni/localhost/ws")
            else:
                resolver = Resolver(look_up_host=lambda _name, _family: [("127.0.0.1", 0)])
                (found,) = await resolver.resolve(addr)
                with pytest.raises(DialError, match=r"talos\.invalid"):
                    await WebSocket(certified).dial(found)


async def test_certificates_that_cannot_be_used(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("junk")
    with pytest.raises(ConfigError, match="needs a certificate"):
        await WebSocket().listen(WSS)
    for config in (WebSocketConfig(certificate=junk), WebSocketConfig(certificate=tmp_path / "none")):
        with pytest.raises(ConfigError, match="cannot be used"):
            await WebSocket(config).listen(WSS)
    with pytest.raises(ConfigError, match="authorities"):
        await WebSocket(WebSocketConfig(authorities=junk)).dial(WSS)


def test_settings_that_make_no_sense() -> None:
    for wrong in (
        {"frame_bytes": 0},
        {"early_bytes": -1},
        {"idle_frames_burst": 0},
        {"close_seconds": 0},
        {"handshake_seconds": float("inf")},
    ):
        with pytest.raises(ConfigError):
            WebSocketConfig(**wrong)
    with pytest.raises(ConfigError, match="its certificate"):
        WebSocketConfig(private_key="key.pem")  # type: ignore[arg-type]


async def test_addresses_that_are_not_for_it() -> None:
    with pytest.raises(ConfigError):
        await WebSocket().dial(parse("/ip4/127.0.0.1/tcp/1"))
    with pytest.raises(ListenError):
        await WebSocket().listen(parse("/ip4/192.0.2.1/tcp/0/ws"))


@pytest.mark.parametrize("addr", [WS, WSS])
async def test_a_peer_that_says_nothing(addr: Multiaddr, certified: WebSocketConfig) -> None:
    config = replace(certified, handshake_seconds=0.05)
    listener = await WebSocket(config).listen(addr)
    async with await trio.open_tcp_stream(*host_port(listener.addr)):
        accepted, _ = await listener.accept()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match=r"no upgrade within 0\.05 s"):
                await accepted.receive_some()
        await accepted.aclose()
    with pytest.raises(DialError, match=r"no upgrade within 0\.05 s"):  # by who listens and accepts nothing
        await WebSocket(config).dial(listener.addr)
    await listener.aclose()


async def test_an_end_inside_the_upgrade() -> None:
    async with raw_client() as (raw, accepted):
        await raw.send_all(REQUEST[:50])
        await raw.send_eof()
        with pytest.raises(trio.BrokenResourceError, match="inside the upgrade"):
            await accepted.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="inside the upgrade"):
            await accepted.send_all(b"x")


async def upgraded(raw: trio.SocketStream, accepted: WebSocketStream) -> None:
    await raw.send_all(REQUEST)
    await accepted.open()
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await raw.receive_some()


async def test_a_ping_is_answered_while_nobody_sends() -> None:
    async with raw_client() as (raw, accepted), trio.open_nursery() as nursery:
        await upgraded(raw, accepted)
        nursery.start_soon(accepted.receive_some)
        await raw.send_all(Frame(Opcode.PING, b"hello").serialize(mask=True))
        assert await raw.receive_some() == b"\x8a\x05hello"
        await raw.send_all(Frame(Opcode.BINARY, b"x").serialize(mask=True))


async def test_a_close_frame_is_the_end_and_is_answered() -> None:
    async with raw_client() as (raw, accepted):
        await upgraded(raw, accepted)
        last = Frame(Opcode.BINARY, b"last").serialize(mask=True) + Frame(Opcode.CLOSE, b"\x03\xe8").serialize(
            mask=True
        )
        await raw.send_all(last)
        assert await accepted.receive_some(2) == b"la"
        assert await accepted.receive_some() == b"st"
        assert await accepted.receive_some() == b""
        assert await accepted.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await accepted.send_all(b"late")
        assert await raw.receive_some() == b"\x88\x02\x03\xe8"


async def test_closing_says_so() -> None:
    async with raw_client() as (raw, accepted):
        await upgraded(raw, accepted)
        with trio.CancelScope() as scope:
            scope.cancel()
            await accepted.aclose()
        assert await raw.receive_some() == b"\x88\x02\x03\xe8"
        assert await raw.receive_some() == b""


@pytest.mark.parametrize("secure", [False, True])
async def test_what_is_refused_is_told_to_the_peer(certified: WebSocketConfig, *, secure: bool) -> None:
    async with connected(WSS if secure else WS, WebSocket(certified), WebSocket(certified)) as (dialled, accepted):
        await dialled._carrier.send_all(Frame(Opcode.TEXT, b"text").serialize(mask=True))
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="text"):
                await accepted.receive_some()
        assert await dialled.receive_some() == b""
        assert dialled._session._protocol.close_rcvd is not None
        assert dialled._session._protocol.close_rcvd.code == 1003


async def test_a_peer_that_is_gone_can_still_be_read() -> None:
    async with raw_client() as (raw, accepted):
        await upgraded(raw, accepted)
        data = Frame(Opcode.PING, b"").serialize(mask=True) + Frame(Opcode.BINARY, b"last words").serialize(mask=True)
        await raw.send_all(data)
        await trio.aclose_forcefully(raw)
        assert await accepted.receive_some() == b"last words"


async def test_tls_streams_do_not_outlive_a_cancelled_send(certified: WebSocketConfig) -> None:
    async with connected(WSS, WebSocket(certified), WebSocket(certified)) as (dialled, accepted):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_idle, scope)
                while True:
                    await dialled.send_all(bytes(1 << 20))
        with pytest.raises(trio.BrokenResourceError, match="cut off"):
            await dialled.send_all(b"more")
        accepted.close()
        with pytest.raises(trio.ClosedResourceError):
            await accepted.receive_some()


async def _cancel_when_idle(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked(0.05)
    scope.cancel()


async def test_closing_wakes_who_waits(certified: WebSocketConfig) -> None:
    for addr in (WS, WSS):
        async with connected(addr, WebSocket(certified), WebSocket(certified)) as (dialled, _):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_is_closed, dialled)
                await trio.testing.wait_all_tasks_blocked(0.01)
                await dialled.aclose()
            await dialled.aclose()


async def _is_closed(stream: WebSocketStream) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_one_reader_and_one_writer() -> None:
    async with connected() as (dialled, _), trio.open_nursery() as nursery:
        nursery.start_soon(dialled.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await dialled.receive_some()
        with pytest.raises(ValueError, match="at least 1"):
            await dialled.receive_some(0)
        nursery.cancel_scope.cancel()
