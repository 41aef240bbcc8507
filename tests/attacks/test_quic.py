"""TR rows over QUIC: datagrams of nobody, floods of first flights, dialers and listeners that prove nothing."""

from __future__ import annotations

import secrets
import socket
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.addr import parse, split_peer
from talos.errors import HandshakeError, TalosError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.testing.check_stream import raised
from talos.transport.quic import Quic
from tests.attacks.harness import Victim, attacked
from tests.unit.transport.quic.pair import CREDENTIALS, bare_certificate
from tests.unit.transport.quic.test_endpoint import HOSTILE, first_flight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from multiaddr import Multiaddr

OVER_QUIC: dict[str, Any] = {
    "stack": "quic-v1",
    "listen": ["/ip4/127.0.0.1/udp/0/quic-v1"],
    "limits": {"ip": {"exempt_loopback": True}},
}
ATTACKER = "127.0.0.200"
"""Honest newcomers come from 127.0.0.1 and the next few."""
GARBAGE = [data for name, data in HOSTILE.items() if name != "an Initial that does not open"]
"""Without the one that a connection has to look at."""


@contextmanager
def wire(node: Victim) -> Iterator[socket.socket]:
    """The attacker's socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((ATTACKER, 0))
        sock.connect(node.socket_address)
        yield sock


def received(sock: socket.socket) -> int:
    """Bytes that have come back."""
    total = 0
    while True:
        try:
            total += len(sock.recv(65_536))
        except BlockingIOError:
            return total


async def test_tr23_datagrams_of_nobody() -> None:
    async with attacked(**OVER_QUIC) as node:
        with wire(node) as sock:
            sent = answered = 0
            for _ in range(20):
                for data in (*GARBAGE, *(secrets.token_bytes(1 + secrets.randbelow(1400)) for _ in range(50))):
                    sent += sock.send(data)
                await trio.sleep(0.01)
                answered += received(sock)
            assert answered <= 3 * sent
        assert nothing_half_open(await node.status())


@pytest.mark.long  # for the five seconds that a newcomer has
async def test_tr24_a_flood_of_first_flights() -> None:
    async with attacked(**OVER_QUIC) as node:
        with wire(node) as sock:
            sent = answered = 0
            flights = [first_flight(node) for _ in range(100)]
            for _ in range(20):
                for data in flights:
                    sent += sock.send(data)
                await trio.sleep(0.02)
                answered += received(sock)
            assert answered <= 3 * sent
            assert (await node.status())["limits"]["transient: connections in"] <= 34
        await node.until(nothing_half_open, seconds=30)


def nothing_half_open(status: dict[str, Any]) -> bool:
    return not status["limits"]["transient: connections in"]


def impostor(kind: str) -> Quic:
    """A node of ours that shows what proves nothing."""
    transport = Quic(PrivateKey.generate())
    stolen = replace(CREDENTIALS[2], private_key=CREDENTIALS[0].private_key)
    shown = {"nothing": None, "no extension": bare_certificate(), "another's": stolen}[kind]
    transport._credentials = shown  # type: ignore[assignment]
    return transport


async def enter(transport: Quic, addr: Multiaddr) -> None:
    async with transport.dial(addr, None):
        raise AssertionError("there is a connection although there must not be one")


async def test_tr10_quic_dialers_that_prove_nothing() -> None:
    async with attacked(**OVER_QUIC) as node:
        addr = split_peer(node.addr)[0]
        for kind in ("nothing", "no extension", "another's"):
            await raised(HandshakeError, lambda kind=kind: enter(impostor(kind), addr))  # type: ignore[misc]
        status = await node.until(lambda status: sum(status["failed"].values()) >= 3, seconds=10)
        assert sum(status["failed"].values()) == 3


async def test_tr09_quic_another_identity_than_the_dialled_one() -> None:
    async with attacked(**OVER_QUIC) as node:
        impostor = Quic(PrivateKey.generate())
        listener = await impostor.listen(parse(OVER_QUIC["listen"][0]))
        stranger = PeerId.from_key(PrivateKey.generate().public_key)

        async def serve() -> None:
            inbound = await listener.accept()
            try:
                async with inbound.open():
                    raise AssertionError("there is a connection although there must not be one")
            except TalosError:
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            answer = await node.dial(listener.addr, peer=stranger)
        assert "PeerIdMismatch" in str(answer)
        await listener.aclose()
