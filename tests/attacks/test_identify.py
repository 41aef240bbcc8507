"""DH01–DH03: an authenticated peer that says too much of itself, lies, or does not stop."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from talos.abc import StreamReset
from talos.addr import parse
from talos.errors import StreamCode
from talos.host.config import NodeConfig
from talos.identify.service import IDENTIFY, PUSH
from talos.identify.wire import Identify, encode
from talos.identity.envelope import Envelope
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.identity.peer_record import PeerRecord, RecordFormat, SignedPeerRecord
from talos.wire.length_prefix import frame
from tests.attacks.harness import SOON_SECONDS, Victim, attacked
from tests.attacks.nodes import ECHO, attacker_node, echo_once, open_echo
from tests.attacks.raw_yamux import DATA, SYN, RawYamux, hello, raw_yamux
from tests.attacks.raw_yamux import frame as yamux_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from talos.abc import Connection, Stream
    from talos.host.node import Node

EXEMPT = {"ip": {"exempt_loopback": True}}
MESSAGES, PROTOCOLS, ADDRS, MESSAGE_BYTES = 10, 1000, 128, 8192
PUSHES_AT_ONCE = 32
ADDR = "/ip4/10.0.0.1/tcp/4001"


# ------------------------------------------------------------------------------------------ telling


@asynccontextmanager
async def answering(node: Victim, messages: bytes, key: PrivateKey) -> AsyncIterator[tuple[Node, Connection]]:
    """A peer, connected to the node, that identifies itself by `messages` when it is asked."""

    async def answer(stream: Stream) -> None:
        await stream.send_all(messages)

    async with attacker_node(NodeConfig(key=key)) as host:
        host.handle(IDENTIFY)(answer)
        connection = await host.connect(None, [node.addr])
        yield host, connection


@asynccontextmanager
async def pushing(node: Victim, messages: bytes, key: PrivateKey) -> AsyncIterator[tuple[Node, Connection]]:
    """The same, that is asked in vain, and pushes."""
    async with attacker_node(NodeConfig(key=key)) as host:
        connection = await host.connect(None, [node.addr])
        stream = await host.open_stream(connection, PUSH)
        try:
            await stream.send_all(messages)
            await stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it had enough
        yield host, connection


def peer_of(key: PrivateKey) -> PeerId:
    return PeerId.from_key(key.public_key)


async def known(node: Victim, key: PrivateKey) -> dict[str, Any]:
    """What the node has stored of the peer."""
    return await node.child.ask("peer", peer=str(peer_of(key)))


async def believed(node: Victim, key: PrivateKey) -> dict[str, Any]:
    """The same, as soon as there is anything."""
    with trio.fail_after(SOON_SECONDS):
        while True:
            stored = await known(node, key)
            if stored["protocols"] or stored["addrs"]:
                return stored
            await trio.sleep(0.01)


def protocol(number: int) -> str:
    return f"/p/{number:04}"


def addr(number: int) -> str:
    return f"/ip4/10.1.{number >> 8}.{number & 255}/tcp/4001"


def in_messages(fields: Sequence[bytes], size: int) -> list[bytes]:
    """Encoded fields, packed into messages of at most `size` bytes."""
    messages = [b""]
    for field in fields:
        if len(messages[-1]) + len(field) > size:
            messages.append(b"")
        messages[-1] += field
    return messages


def with_protocols(count: int) -> list[bytes]:
    return [encode(Identify(protocols=(protocol(number),))) for number in range(count)]


def with_addrs(count: int) -> list[bytes]:
    return [encode(Identify(listen_addrs=(parse(addr(number)).to_bytes(),))) for number in range(count)]


# ------------------------------------------------------------------------------------------ DH01


async def test_dh01_identify_that_says_too_much() -> None:
    eleven = with_protocols(MESSAGES + 1)
    protocols = in_messages(with_protocols(5_000), MESSAGE_BYTES)
    addrs = in_messages(with_addrs(10_000), MESSAGE_BYTES)
    assert len(protocols) <= MESSAGES < len(addrs)
    (nine_kib,) = in_messages(with_protocols(920), 9 * 1024)
    assert MESSAGE_BYTES < len(nine_kib) <= 9 * 1024

    async with attacked(limits=EXEMPT) as node:
        for telling in (answering, pushing):

            async def told(messages: Sequence[bytes], telling: Any = telling) -> dict[str, Any]:
                key = PrivateKey.generate()
                async with telling(node, b"".join(map(frame, messages)), key):
                    return await believed(node, key)

            assert (await told(eleven))["protocols"] == [protocol(number) for number in range(MESSAGES)]
            assert (await told(protocols))["protocols"] == [protocol(number) for number in range(PROTOCOLS)]
            stored = await told(addrs)
            assert set(stored["addrs"]) == {addr(number) for number in range(ADDRS)}

            key = PrivateKey.generate()
            failed = failures(await node.status())
            async with telling(node, frame(nine_kib), key) as (host, connection):
                await node.until(lambda status, failed=failed: failures(status) > failed)  # type: ignore[misc]
                assert not (await known(node, key))["protocols"]
                async with await host.open_stream(connection, ECHO) as stream:
                    await echo_once(stream, b"nobody minds")


def failures(status: dict[str, Any]) -> int:
    """Exchanges of identify that were ended for the size of a message, asked for or pushed."""
    asked: int = status["identify"]["failed"].get("MessageTooLarge", 0)
    pushed: int = status["events"].get("HandlerFailed", 0)
    return asked + pushed


# ------------------------------------------------------------------------------------------ DH02


async def test_dh02_records_that_do_not_count() -> None:
    key, other = PrivateKey.generate(), PrivateKey.generate()
    decoy = [parse("/ip4/10.6.6.6/tcp/666").to_bytes()]
    standard = RecordFormat.STANDARD

    def sealed(record: PeerRecord, domain: str, payload_type: bytes, signer: PrivateKey = key) -> bytes:
        return Envelope.seal(signer, domain, payload_type, record.to_bytes()).raw

    newer = PeerRecord(peer_of(key), 11, tuple(decoy))
    good = SignedPeerRecord.make(key, decoy, 11).envelope.raw
    hostile = {
        "another peer's": SignedPeerRecord.make(other, decoy, 11).envelope.raw,
        "of this peer, signed by another": sealed(newer, standard.domain, standard.payload_type, other),
        "of another peer, signed by this one": sealed(
            PeerRecord(peer_of(other), 11, tuple(decoy)), standard.domain, standard.payload_type
        ),
        "older": SignedPeerRecord.make(key, decoy, 9).envelope.raw,
        "as old": SignedPeerRecord.make(key, decoy, 10).envelope.raw,
        "another domain": sealed(newer, "libp2p-relay-rsvp", standard.payload_type),
        "the legacy domain": sealed(newer, RecordFormat.LEGACY.domain, standard.payload_type),
        "another payload type": sealed(newer, "libp2p-relay-rsvp", b"\x03\x02"),
        "signature flipped": good[:-1] + bytes([good[-1] ^ 1]),
        "cut": good[:-1],
        "9 KiB": good + bytes(9 * 1024),
        "an address that is none": SignedPeerRecord.make(key, [b"\xff\xff\xff"], 11).envelope.raw,
    }
    record = SignedPeerRecord.make(key, [parse(ADDR).to_bytes()], 10).envelope.raw
    async with attacked(limits=EXEMPT) as node:
        async with answering(node, frame(encode(Identify(signed_peer_record=record))), key):
            first = await believed(node, key)
            assert (first["addrs"], first["seq"]) == ([ADDR], 10)
        for ignored, (name, record) in enumerate(hostile.items()):
            # Said by the peer itself, on a new connection; in the message is something that does count.
            message = b"".join(map(frame, in_two(record, name)))
            async with answering(node, message, key) as (host, _):
                await node.until(lambda status, count=ignored: status["identify"]["ignored"] > count)  # type: ignore[misc]
                stored = await known(node, key)
                assert (stored["addrs"], stored["seq"]) == ([ADDR], 10), name
                async with await open_echo(host, node.addr) as stream:
                    await echo_once(stream, b"nobody minds")
        stored = await known(node, other)
        assert (stored["addrs"], stored["seq"]) == ([], None)


def in_two(record: bytes, name: str) -> list[bytes]:
    """A record of up to 9 KiB within messages of 8 KiB: end to end they are one."""
    whole = encode(Identify(agent_version=name, signed_peer_record=record))
    return [whole[:5000], whole[5000:]]


# ------------------------------------------------------------------------------------------ DH03


async def push(host: Node, connection: Connection, number: int, outcomes: list[int | None]) -> None:
    """Pushes once; what reset it, or None."""
    async with await host.open_stream(connection, PUSH) as stream:
        try:
            await stream.send_all(frame(encode(Identify(agent_version=f"push {number}"))))
            await stream.send_eof()
            await stream.receive_some()
            outcomes.append(None)
        except StreamReset as reset:
            outcomes.append(reset.code)


async def test_dh03_one_peer_floods_with_pushes() -> None:
    """One a second is taken; others are reset as rate limited. Twelve at a time, for a peer has sixteen streams."""
    async with attacked(limits=EXEMPT) as node, attacker_node() as host:
        connection = await host.connect(None, [node.addr])
        outcomes: list[int | None] = []
        started = trio.current_time()
        for _ in range(25):
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(push, host, connection, number, outcomes)
        elapsed = trio.current_time() - started
        taken = outcomes.count(None)
        assert 1 <= taken <= 1 + elapsed
        assert set(outcomes) == {None, StreamCode.RATE_LIMITED}
        assert (await node.status())["identify"]["failed"]["RateLimited"] == len(outcomes) - taken

        await trio.sleep(1.1)
        outcomes.clear()
        await push(host, connection, 0, outcomes)
        assert outcomes == [None]


async def test_dh03_many_peers_push_at_once() -> None:
    """Each begins and does not go on: 32 of them are waited for, further ones are reset as rate limited."""
    begun = yamux_frame(DATA, SYN, 1, hello(PUSH) + b"\x20half of it")
    outcomes: list[int | None] = []
    async with attacked(limits=EXEMPT) as node, attacker_node() as host:
        connection = await host.connect(None, [node.addr])
        async with AsyncExitStack() as connections:
            peers = [await connections.enter_async_context(raw_yamux(node)) for _ in range(PUSHES_AT_ONCE + 4)]
            for peer in peers[:PUSHES_AT_ONCE]:
                await peer.send(begun)
                await peer.until(partial(is_agreed, peer))
            for peer in peers[PUSHES_AT_ONCE:]:
                await peer.send(begun)
                await peer.until(partial(is_reset, peer))
                assert peer.resets[1] == StreamCode.RATE_LIMITED
            assert not any(is_reset(peer) for peer in peers[:PUSHES_AT_ONCE])
            first = peers[0]
            await first.until(partial(is_reset, first), 7)  # after five seconds
        await node.until(lambda status: status["connections"] <= 4)
        await push(host, connection, 0, outcomes)
        assert outcomes == [None]


def is_agreed(peer: RawYamux) -> bool:
    return len(peer.data[1]) == len(hello(PUSH))


def is_reset(peer: RawYamux) -> bool:
    return 1 in peer.resets
