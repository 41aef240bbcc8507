"""TR03, TR04, TR18, TR20, TR21: how many may knock, how often, and how much they may send."""

from __future__ import annotations

import select
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.host.config import NodeConfig
from talos.identity.keys import PrivateKey
from tests.attacks.harness import SOON_SECONDS, Victim, attacked
from tests.attacks.nodes import attacker_node, echo_once, ignoring_the_end, open_echo, read_to_end, receive_exactly
from tests.attacks.test_handshake import HEADER, line

if TYPE_CHECKING:
    from collections.abc import Callable

CROWD = "127.0.0.100"
EXEMPT = {"ip": {"exempt_loopback": True}}


def is_open(stream: trio.SocketStream) -> bool:
    """Whether the other side, which has nothing to say, has not closed it yet."""
    poll = select.poll()
    poll.register(stream.socket.fileno(), select.POLLIN)
    return not poll.poll(0)


async def open_idle(node: Victim, sockets: AsyncExitStack, count: int, source: str) -> list[trio.SocketStream]:
    """Opens `count` sockets that say nothing; those that the node closed at once are closed here as well."""
    held = []
    for number in range(count):
        async with AsyncExitStack() as one:
            stream = await one.enter_async_context(node.raw(source))
            if number % 50 == 49:
                await trio.sleep(0.005)
            if is_open(stream):
                held.append(stream)
                await sockets.enter_async_context(one.pop_all())
    return held


async def test_tr03_idle_sockets_of_one_address_shut_nobody_out() -> None:
    async with attacked() as node, AsyncExitStack() as sockets:
        held = await open_idle(node, sockets, 1500, CROWD)
        await trio.sleep(1.1)  # a newcomer comes every second
        status = await node.status()
        assert sum(map(is_open, held)) <= 8
        assert status["limits"]["transient: connections"] <= 8 + 1  # a newcomer may be at the door
        assert status["refused"]["source: connection rate"] >= 1500 - 16


async def test_tr03_idle_sockets_on_loopback_shut_nobody_out() -> None:
    async with attacked(limits=EXEMPT, source="127.0.0.1") as node, AsyncExitStack() as sockets:
        await open_idle(node, sockets, 230, "127.0.0.1")
        await trio.sleep(1.1)
        assert (await node.status())["limits"]["transient: connections"] <= 64


async def greeted(node: Victim, source: str) -> bool:
    """Whether the node says anything to a newcomer."""
    async with node.raw(source) as stream:
        await ignoring_the_end(stream.send_all, HEADER)
        return await read_some(stream) == HEADER


async def read_some(stream: trio.SocketStream) -> bytes:
    try:
        return await receive_exactly(stream, len(HEADER))
    except (EOFError, trio.BrokenResourceError):
        return b""


async def test_tr04_the_seventeenth_connection_in_a_row_is_not_answered() -> None:
    async with attacked() as node:
        with trio.fail_after(5):
            answers = [await greeted(node, "127.0.0.101") for _ in range(17)]
        assert answers == [True] * 16 + [False]
        assert (await node.status())["refused"] == {"source: connection rate": 1}


async def send_until_closed(stream: trio.SocketStream, data: bytes) -> None:
    await ignoring_the_end(stream.send_all, data)
    with trio.fail_after(SOON_SECONDS):
        await read_to_end(stream)


def proposals() -> bytes:
    """Lines of the greatest length that multistream takes, each as good as any."""
    return HEADER + line(b"/" + b"x" * 1022) * 64


def client_hello() -> bytes:
    """A ClientHello of 100,000 bytes, in records of 16 KiB."""
    message = b"\x01" + (100_000).to_bytes(3, "big") + b"\x03\x03" + bytes(100_000 - 2)
    pieces = [message[at : at + 16_384] for at in range(0, len(message), 16_384)]
    records = b"".join(b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece for piece in pieces)
    return HEADER + line(b"/tls/1.0.0") + records


def noise_messages() -> bytes:
    """Handshake messages of the greatest length that is taken."""
    return HEADER + line(b"/noise") + (b"\x10\x00" + bytes(4096)) * 17


@pytest.mark.parametrize(
    ("stack", "plausible", "counted"),
    [
        ("tcp/noise/yamux", proposals, "preauth_bytes"),
        ("unix/noise/yamux", proposals, "preauth_bytes"),
        ("tcp/tls/yamux", client_hello, None),
        ("tcp/noise/yamux", noise_messages, None),
    ],
    ids=["tcp", "unix", "TLS", "noise"],
)
async def test_tr20_plausible_bytes_before_authentication(
    stack: str, plausible: Callable[[], bytes], counted: str | None, tmp_path: object
) -> None:
    data = plausible()
    assert len(data) > 64 * 1024
    settings: dict[str, Any] = {"listen": [f"/unix{tmp_path}/node"]} if stack.startswith("unix") else {}
    async with attacked(stack=stack, newcomers=False, **settings) as node:
        async with node.raw() as stream:
            await send_until_closed(stream, data)
        status = await node.until(lambda status: sum(status["failed"].values()) == 1)
        if counted is not None:
            assert status["failed"] == {counted: 1}


async def test_tr21_one_peer_reconnects_a_hundred_times() -> None:
    """40 times a second, each while the ones before are still closing."""
    async with attacked(limits=EXEMPT) as node:
        config = NodeConfig(key=PrivateKey.generate())
        served = 0

        async def reconnect() -> None:
            nonlocal served
            async with attacker_node(config) as host:
                with trio.fail_after(SOON_SECONDS):
                    async with await open_echo(host, node.addr) as stream:
                        await echo_once(stream, b"here again")
                served += 1
                await trio.sleep(0.25)

        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(reconnect)
                await trio.sleep(1 / 40)
        assert served == 100


async def test_tr18_accept_survives_having_no_descriptors_left() -> None:
    async with attacked(descriptors=64, newcomers=False, limits=EXEMPT) as node:
        await node.child.ask("hoard")  # takes every descriptor that is left
        async with node.raw() as stream:
            await stream.send_all(HEADER)
            with trio.move_on_after(0.3) as scope:
                await receive_exactly(stream, 1)
            assert scope.cancelled_caught, "accepted without a descriptor"
            await node.child.ask("share")
            with trio.fail_after(SOON_SECONDS):
                assert await receive_exactly(stream, len(HEADER)) == HEADER
        async with attacker_node() as host, await open_echo(host, node.addr) as stream:
            await echo_once(stream, b"as before")
