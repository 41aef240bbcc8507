"""Private networks: the cipher, the key file, the stream."""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
from multiaddr import Multiaddr

from talos.abc import ByteListener, ByteTransport
from talos.errors import ConfigError, HandshakeError, NotSupported
from talos.transport.pnet import NONCE_BYTES, NetworkKey, Private, PrivateStream, hsalsa20, xsalsa20

VECTOR = json.loads((Path(__file__).parents[2] / "vectors" / "xsalsa20.json").read_text(encoding="utf-8"))
SECRET = bytes.fromhex(VECTOR["key"])
KEY = NetworkKey(SECRET)
HEADER = b"\x13/multistream/1.0.0\n"
FILE = b"/key/swarm/psk/1.0.0/\n"


# -- cipher ---------------------------------------------------------------------------------------------


def test_subkey_of_the_vector() -> None:
    assert hsalsa20(SECRET, bytes.fromhex(VECTOR["nonce"])[:16]).hex() == VECTOR["subkey"]


@pytest.mark.parametrize("size", [1, 3, 7, 31, 64])
def test_the_keystream_goes_on_across_writes(size: int) -> None:
    stream = bytes.fromhex(VECTOR["stream"])
    crypt = xsalsa20(SECRET, bytes.fromhex(VECTOR["nonce"]))
    pieces = [crypt(bytes(min(size, len(stream) - n))) for n in range(0, len(stream), size)]
    assert b"".join(pieces) == stream


# -- key file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        FILE + b"/base16/\n" + SECRET.hex().encode() + b"\n",
        FILE + b"/base16/\n" + SECRET.hex().upper().encode(),
        FILE + b"/base64/\n" + base64.b64encode(SECRET) + b"\n",
        FILE + b"/bin/\n" + SECRET,
        b"/key/swarm/psk/1.0.0/\r\n/base16/\r\n" + SECRET.hex().encode() + b"\r\n",
        KEY.to_file(),
    ],
    ids=["base16", "upper case", "base64", "bin", "crlf", "ours"],
)
def test_key_files(data: bytes) -> None:
    assert NetworkKey.parse(data) == KEY


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SECRET,
        b"/key/swarm/psk/2.0.0/\n/bin/\n" + SECRET,
        FILE + b"/base32/\n" + SECRET,
        FILE + b"/bin/\n" + SECRET[:31],
        FILE + b"/bin/\n" + SECRET + b"x",
        FILE + b"/base16/\n" + SECRET[:31].hex().encode(),
        FILE + b"/base16/\n" + b"zz" * 32,
        FILE + b"/base64/\n" + base64.b64encode(SECRET + b"x"),
        FILE + b"/base64/\n" + b"\xc3\xa9" * 22,
        FILE + b"/base16/\n" + b"00" * 200,
    ],
    ids=range(11),
)
def test_bad_key_files(data: bytes) -> None:
    with pytest.raises(ConfigError) as caught:
        NetworkKey.parse(data)
    assert SECRET.hex() not in repr(caught.value)


def test_a_key_keeps_its_secret() -> None:
    assert SECRET.hex() not in repr(KEY)
    assert repr(SECRET) not in repr(KEY)
    assert NetworkKey.generate() != NetworkKey.generate()
    assert KEY != SECRET
    assert hash(KEY) == hash(NetworkKey(SECRET))


# -- stream ---------------------------------------------------------------------------------------------


async def private_pair() -> tuple[trio.abc.Stream, trio.abc.Stream]:
    """Two members that have exchanged multistream headers."""
    left, right = (PrivateStream(stream, KEY) for stream in trio.testing.memory_stream_pair())
    for source, target in ((left, right), (right, left)):
        await source.send_all(HEADER)
        assert await target.receive_some() == HEADER
    return left, right


async def test_stream_suite(autojump_clock: trio.testing.MockClock) -> None:
    await trio.testing.check_two_way_stream(private_pair, None)


async def test_nothing_goes_in_the_clear_but_the_nonce() -> None:
    ours, wire = trio.testing.memory_stream_pair()
    stream = PrivateStream(ours, KEY)
    await stream.send_all(HEADER)
    await stream.send_all(b"x" * 300_000)
    sent = bytearray()
    while len(sent) < NONCE_BYTES + len(HEADER) + 300_000:
        sent += await wire.receive_some()
    plain = xsalsa20(SECRET, bytes(sent[:NONCE_BYTES]))(bytes(sent[NONCE_BYTES:]))
    assert plain == HEADER + b"x" * 300_000
    assert HEADER not in sent


async def test_a_side_that_only_listens_sends_its_nonce_at_once(autojump_clock: trio.testing.MockClock) -> None:
    ours, wire = trio.testing.memory_stream_pair()
    stream = PrivateStream(ours, KEY)
    with trio.move_on_after(1):
        await stream.receive_some()
    assert len(await wire.receive_some()) == NONCE_BYTES


async def test_both_directions_may_begin_at_once() -> None:
    left, right = (PrivateStream(stream, KEY) for stream in trio.testing.memory_stream_pair())
    received: dict[PrivateStream, bytes] = {}

    async def read(stream: PrivateStream) -> None:
        data = b""
        while len(data) < len(HEADER):
            data += await stream.receive_some(3)
        received[stream] = data

    async with trio.open_nursery() as nursery:
        for stream in (left, right):
            nursery.start_soon(read, stream)
            nursery.start_soon(stream.send_all, HEADER)
    assert received == {left: HEADER, right: HEADER}


async def test_another_key_is_guessed_at() -> None:
    left, right = trio.testing.memory_stream_pair()
    ours, theirs = PrivateStream(left, KEY), PrivateStream(right, NetworkKey(bytes(32)))
    await theirs.send_all(HEADER)
    for _ in range(2):
        with pytest.raises(HandshakeError, match="different network key"):
            await ours.receive_some()


async def test_a_peer_that_goes_within_its_nonce() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(bytes(5))
    await theirs.aclose()
    with pytest.raises(trio.BrokenResourceError, match="nonce"):
        await PrivateStream(ours, KEY).receive_some()


async def test_a_peer_that_goes_at_once() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.aclose()
    stream = PrivateStream(ours, KEY)
    assert await stream.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"x")


async def test_a_cancelled_send_cuts_sending() -> None:
    left, _right = await private_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await left.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError, match="cut off"):
        await left.send_all(b"y")


# -- transport ------------------------------------------------------------------------------------------


class Pipes(ByteTransport):
    """Dials its own listener."""

    def __init__(self, addr: Multiaddr) -> None:
        self.addr = addr
        self.closed = False
        self.ends: list[trio.abc.Stream] = []

    def matches(self, addr: Multiaddr) -> bool:
        return bool(addr == self.addr)

    async def dial(self, addr: Multiaddr) -> trio.abc.Stream:
        dialer, listener = trio.testing.memory_stream_pair()
        self.ends.append(listener)
        return dialer

    async def punch(self, addr: Multiaddr) -> trio.abc.Stream:
        return await self.dial(addr)

    async def listen(self, addr: Multiaddr) -> ByteListener:
        return self

    async def accept(self) -> tuple[trio.abc.Stream, Multiaddr]:
        return self.ends.pop(), self.addr

    async def aclose(self) -> None:
        self.closed = True


async def test_any_byte_transport_becomes_private() -> None:
    here = Multiaddr("/memory/1")
    pipes = Pipes(here)
    private = Private(pipes, KEY)
    assert private.matches(here)
    listener = await private.listen(here)
    assert listener.addr == here
    for reach in (private.dial, private.punch):
        stream = await reach(here)
        accepted, remote = await listener.accept()
        assert remote == here
        await stream.send_all(HEADER)
        assert await accepted.receive_some() == HEADER
    await listener.aclose()
    assert pipes.closed


def test_transports_with_their_own_security_are_refused() -> None:
    with pytest.raises(ConfigError, match="network key"):
        Private(object(), KEY)  # type: ignore[arg-type]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "Crypto.Cipher", None)
    with pytest.raises(NotSupported, match=r"talos\[pnet\]"):
        Private(Pipes(Multiaddr("/memory/1")), KEY)
