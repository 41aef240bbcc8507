"""TR13–TR15: somebody on the path changes, reorders, repeats, drops or cuts what two honest peers say."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import StreamReset
from talos.errors import TalosError
from talos.host.config import NodeConfig, Stack
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.muxer.yamux import Yamux
from talos.security.noise import Noise
from talos.security.tls import Tls
from talos.transport.tcp import Tcp
from talos.upgrade import Upgrade, UpgradeConfig
from tests.attacks.harness import SOON_SECONDS, Victim, attacked
from tests.attacks.hostile import FROM_DIALER, FROM_LISTENER, PREAMBLE, LateNoise, between
from tests.attacks.nodes import ECHO, attacker_node, ignoring_the_end, open_echo, read_to_end, receive_exactly
from tests.attacks.test_handshake import HEADER, line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from talos.host.config import SecurityFactory

IMPATIENT = {"authenticate": 1.0, "upgrade": 1.5}
EXEMPT = {"ip": {"exempt_loopback": True}}
AT_ONCE = 16
SECRET = b"a secret of the dialer"
HANDSHAKE = [(FROM_DIALER, 0), (FROM_LISTENER, 0), (FROM_DIALER, 1)]
"""Noise messages 1, 2 and 3: who sends it, as which of its own."""
TLS_RECORDS = [(FROM_DIALER, 0), (FROM_DIALER, 2), (FROM_LISTENER, 0), (FROM_LISTENER, 2), (FROM_LISTENER, 3)]
"""The hellos, and records with certificates and what goes with them."""
CHANGE_CIPHER_SPEC = 20


def dialer(security: SecurityFactory = Noise) -> Upgrade:
    """An honest dialer without a node around it."""
    key = PrivateKey.generate()
    return Upgrade(
        Tcp(),
        security=(security(key),),
        muxers=(Yamux(),),
        local_peer=PeerId.from_key(key.public_key),
        config=UpgradeConfig(authenticate_seconds=2.0, total_seconds=2.0),
    )


async def ask_echo(
    node: Victim, alter: Callable[[str, int, bytes], Sequence[bytes] | None], security: SecurityFactory = Noise
) -> bytes:
    """What an honest dialer gets out of the victim's echo through such a path."""
    answer = b""
    wanted = HEADER + line(ECHO.encode()) + SECRET
    async with between(node.socket_address, alter, tls=security is Tls) as addr:
        try:
            connecting = dialer(security).dial(addr, node.peer)
            async with connecting as connection, await connection.open_stream() as stream:
                await stream.send_all(wanted)
                answer = await receive_exactly(stream, len(wanted))
        except (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass
    return answer


def forward(_side: str, _number: int, message: bytes) -> Sequence[bytes]:
    return (message,)


@dataclass
class Path:
    """Keeps the messages of the noise handshake that pass, and perhaps alters one."""

    target: tuple[str, int] | None = None
    change: Callable[[bytes], Sequence[bytes] | None] = lambda message: (message,)
    seen: dict[tuple[str, int], bytes] = field(default_factory=dict)

    def __call__(self, side: str, number: int, message: bytes) -> Sequence[bytes] | None:
        place = (side, number - PREAMBLE)
        self.seen[place] = message
        return self.change(message) if place == self.target else (message,)


def flipped(message: bytes, at: int) -> Sequence[bytes]:
    at = min(at, len(message) - 1)  # signatures of ECDSA differ in length
    return (message[:at] + bytes([message[at] ^ 1]) + message[at + 1 :],)


async def test_tr13_every_byte_of_the_noise_handshake_flipped() -> None:
    async with attacked(timeouts=IMPATIENT, limits=EXEMPT) as node:
        honest = Path()
        assert (await ask_echo(node, honest)).endswith(SECRET)
        await flip_each(node, Noise, [(place, at) for place in HANDSHAKE for at in range(len(honest.seen[place]))])


async def tls_bytes(node: Victim) -> list[tuple[tuple[str, int], int]]:
    """Those of the handshake's first records that TLS protects: not a record's version, nor the change of ciphers."""
    honest = Path()
    assert (await ask_echo(node, honest, Tls)).endswith(SECRET)
    return [
        (place, at)
        for place in TLS_RECORDS
        for at in range(len(honest.seen[place]))
        if honest.seen[place][0] != CHANGE_CIPHER_SPEC and at not in {1, 2}
    ]


async def test_tr13_bytes_of_the_tls_handshake_flipped() -> None:
    async with attacked(stack="tcp/tls/yamux", timeouts=IMPATIENT, limits=EXEMPT) as node:
        await flip_each(node, Tls, (await tls_bytes(node))[::12])


@pytest.mark.long
async def test_tr13_every_byte_of_the_tls_handshake_flipped() -> None:
    async with attacked(stack="tcp/tls/yamux", timeouts=IMPATIENT, limits=EXEMPT) as node:
        await flip_each(node, Tls, await tls_bytes(node))


async def flip_each(node: Victim, security: SecurityFactory, cases: list[tuple[tuple[str, int], int]]) -> None:
    """Flips one byte in each of as many handshakes: both ends fail, nothing is delivered."""
    before = await node.status()
    slots = trio.CapacityLimiter(AT_ONCE)

    async def flip(place: tuple[str, int], at: int) -> None:
        async with slots:
            assert not await ask_echo(node, Path(place, partial(flipped, at=at)), security), f"{place}, byte {at}"

    async with trio.open_nursery() as nursery:
        for place, at in cases:
            nursery.start_soon(flip, place, at)
    status = await node.until(lambda status: sum(status["failed"].values()) == len(cases), 5)
    newcomers = status["events"]["PeerConnected"] - before["events"]["PeerConnected"]
    assert newcomers <= 60  # those of the bystander, one a second; none of the dialers


async def test_tr13_reordered_replayed_and_truncated_handshakes() -> None:
    async with attacked(timeouts=IMPATIENT, limits=EXEMPT) as node:
        honest = Path()
        assert (await ask_echo(node, honest)).endswith(SECRET)
        paths: dict[str, Callable[[str, int, bytes], Sequence[bytes] | None]] = {}
        for place in HANDSHAKE:
            paths[f"{place} doubled"] = Path(place, lambda message: (message, message))
            paths[f"{place} dropped"] = Path(place, lambda _: ())
            paths[f"{place} put off"] = FrameTamper(*place, "reordered")
            for cut in (0, 1, 2, 20, -1):
                paths[f"{place} cut at {cut}"] = Cut(place, cut)

        async def try_path(name: str) -> None:
            assert not await ask_echo(node, paths[name]), name

        async with trio.open_nursery() as nursery:
            for name in paths:
                nursery.start_soon(try_path, name)

        # Messages 1 and 3 of an honest dialer, sent again by somebody else: once in order, once not.
        first, third = honest.seen[FROM_DIALER, 0], honest.seen[FROM_DIALER, 1]
        for messages in (first + third, third + first):
            async with node.raw() as stream:
                await ignoring_the_end(stream.send_all, HEADER + line(b"/noise") + messages)
                with trio.fail_after(SOON_SECONDS):
                    answer = await read_to_end(stream)
            assert len(answer) <= len(HEADER) + len(line(b"/noise")) + len(honest.seen[FROM_LISTENER, 0])
        # Where message 2 or 3 comes twice the handshake was intact, and its end is what breaks.
        attempts = len(paths) - 2 + 2
        await node.until(lambda status: sum(status["failed"].values()) == attempts, 5)


@dataclass
class Cut:
    """Cuts the connection within one message."""

    place: tuple[str, int]
    at: int
    done: bool = False

    def __call__(self, side: str, number: int, message: bytes) -> Sequence[bytes] | None:
        if (side, number - PREAMBLE) != self.place:
            return None if self.done and side == self.place[0] else (message,)
        self.done = True
        return (message[: self.at],)


@dataclass
class FrameTamper:
    """Alters one transport frame of one side, and reorders it with the next where told."""

    side: str
    frame: int
    how: str
    held: bytes = b""
    done: bool = False

    def __call__(self, side: str, number: int, message: bytes) -> Sequence[bytes]:
        if side != self.side or number < PREAMBLE + self.frame:
            return (message,)
        if self.held:
            pieces, self.held = (message, self.held), b""
            return pieces
        if self.done:
            return (message,)
        self.done = True
        match self.how:
            case "flipped":
                return flipped(message, len(message) // 2)
            case "dropped":
                return ()
            case "doubled":
                return (message, message)
        self.held = message
        return ()


@pytest.mark.parametrize("side", [FROM_DIALER, FROM_LISTENER])
async def test_tr14_transport_frames_changed_on_the_path(side: str) -> None:
    async with attacked(limits=EXEMPT) as node:
        for how in ("flipped", "dropped", "doubled", "reordered"):
            tamper = FrameTamper(side, 12, how)
            sent, received = await echo_until_the_end(node, tamper)
            assert tamper.done, how
            assert sent.startswith(received), how
            assert len(received) >= 3 * 100, how
            assert len(received) < len(sent), how


async def echo_until_the_end(node: Victim, tamper: FrameTamper) -> tuple[bytes, bytes]:
    """Sends numbered pieces through the echo until the connection ends: what was sent, and what came back."""
    sent, received, went_on = b"", b"", False
    async with between(node.socket_address, tamper) as addr:
        with trio.fail_after(5):
            try:
                async with dialer().dial(addr, node.peer) as connection, await connection.open_stream() as stream:
                    preamble = HEADER + line(ECHO.encode())
                    await stream.send_all(preamble)
                    assert await receive_exactly(stream, len(preamble)) == preamble
                    for number in range(1000):
                        piece = number.to_bytes(4, "big") * 25
                        sent += piece
                        await stream.send_all(piece)
                        with trio.move_on_after(0.05):  # a dropped frame shows with the next one only
                            received += await receive_exactly(stream, len(piece))
                    went_on = True
            except (TalosError, trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
                pass
    assert not went_on
    return sent, received


async def test_tr15_nonces_that_are_used_up_end_the_connection() -> None:
    """Both sides begin 20 records before the reserved nonce."""
    async with attacked(late=True, limits=EXEMPT) as node:
        config = NodeConfig(stack=Stack(security=(LateNoise,)))
        async with attacker_node(config) as host:
            stream = await open_echo(host, node.addr)
            echoes = 0
            with trio.fail_after(5):
                try:
                    while True:
                        await stream.send_all(b"one record")
                        if await receive_exactly(stream, 10) != b"one record":
                            pytest.fail("the echo came back changed")
                        echoes += 1
                except (StreamReset, trio.BrokenResourceError, EOFError):
                    pass
            assert 0 < echoes < 20
            await node.until(lambda status: status["connections"] <= 2)  # the bystander's
