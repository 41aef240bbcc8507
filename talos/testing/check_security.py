"""What every security transport owes: `check_security(SecuritySubject(make=…))` runs all of `SECURITY_CHECKS`.

The checks drive two sides over memory streams, with somebody in between. They use trio's clock for bounds on closing:
run them with the autojump clock.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio
import trio.testing

from talos.abc import Role
from talos.errors import HandshakeError, PeerIdMismatch, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.testing.wiretap import pass_on, tapped_pair

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from talos.abc import ProtocolId, SecureChannel, SecurityTransport
    from talos.testing.wiretap import Tamper

__all__ = ["SECURITY_CHECKS", "SecuritySubject", "check_security"]

DIALER_KEY = PrivateKey.from_seed(bytes(range(32)))
LISTENER_KEY = PrivateKey.from_seed(bytes(range(1, 33)))
DIALER = PeerId.from_key(DIALER_KEY.public_key)
LISTENER = PeerId.from_key(LISTENER_KEY.public_key)
STRANGER = PeerId.from_key(PrivateKey.from_seed(bytes(range(2, 34))).public_key)

FAILURES = (HandshakeError, RemoteProtocolError, trio.BrokenResourceError, EOFError)
BIG_BYTES = 2_000_003


@dataclass(frozen=True, slots=True, kw_only=True)
class SecuritySubject:
    """The transport under test; it is made anew for every check."""

    make: Callable[[PrivateKey], SecurityTransport]
    encrypts: bool = True
    """False for plaintext, which notices no tampering."""
    early_muxers: bool = True
    unauthenticated_bytes: int = 0
    """How many handshake bytes may change without harm (TLS: versions of records, the dummy change of cipher)."""
    afterthoughts: int = 0
    """How many pieces a listener sends of its own once it is done (TLS: session tickets)."""
    flip_every: int = 1
    """Flip only every so-manieth byte of a handshake, where it is long."""


@dataclass(slots=True)
class Side:
    """What became of one side of a handshake."""

    channel: SecureChannel | None = None
    error: Exception | None = None

    @property
    def ready(self) -> SecureChannel:
        """The channel of a side that must have succeeded."""
        if self.error is not None:
            raise AssertionError(f"handshake failed: {self.error!r}") from self.error
        assert self.channel is not None
        return self.channel


Sides: TypeAlias = tuple[Side, Side]


@asynccontextmanager
async def handshake(
    subject: SecuritySubject,
    tamper: Tamper = pass_on,
    *,
    expected: tuple[PeerId | None, PeerId | None] = (LISTENER, None),
    muxers: tuple[Sequence[ProtocolId], Sequence[ProtocolId]] = ((), ()),
    confirm: bool = True,
) -> AsyncIterator[Sides]:
    """Both sides after the handshake; the first is the dialer.

    With `confirm` each then sends one byte and must receive one: only so does a dialer learn that it was refused.
    """
    sides = Side(), Side()

    async def run(n: int, role: Role, key: PrivateKey, stream: trio.abc.Stream) -> None:
        side = sides[n]
        try:
            side.channel = await subject.make(key).secure(stream, role, expected[n], muxers=muxers[n])
            if confirm:
                await side.channel.send_all(b".")
                if await side.channel.receive_some(1) != b".":
                    raise EOFError("the peer went without a word")
        except FAILURES as error:
            side.error = error
            await stream.aclose()

    async with tapped_pair(tamper) as (dialer, listener):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, 0, Role.DIALER, DIALER_KEY, dialer)
            nursery.start_soon(run, 1, Role.LISTENER, LISTENER_KEY, listener)
        yield sides


def assert_failed(sides: Sides, what: str) -> None:
    """Neither side may take the other for authenticated, and no byte came through."""
    for name, side in zip(("dialer", "listener"), sides, strict=True):
        assert side.error is not None, f"{name} did not notice: {what}"


async def receive_exactly(channel: trio.abc.ReceiveStream, size: int) -> bytes:
    """The next `size` bytes; EOFError when there are fewer."""
    data = bytearray()
    while len(data) < size:
        piece = await channel.receive_some(size - len(data))
        if not piece:
            raise EOFError("stream ended early")
        data += piece
    return bytes(data)


# -- handshakes -----------------------------------------------------------------------------------------


async def check_authenticates(subject: SecuritySubject) -> None:
    """Each side learns the other's id and key; with nobody expected too."""
    for expected in ((LISTENER, DIALER), (LISTENER, None), (None, None)):
        async with handshake(subject, expected=expected) as sides:
            dialer, listener = sides[0].ready, sides[1].ready
            assert (dialer.remote_peer, dialer.remote_key) == (LISTENER, LISTENER_KEY.public_key)
            assert (listener.remote_peer, listener.remote_key) == (DIALER, DIALER_KEY.public_key)


async def check_wrong_peer(subject: SecuritySubject) -> None:
    """Either side refuses whoever is not the expected one, and says whom it found; the other side fails too."""
    for refusing, actual in ((0, LISTENER), (1, DIALER)):
        expected = (STRANGER, None) if refusing == 0 else (LISTENER, STRANGER)
        async with handshake(subject, expected=expected) as sides:
            assert_failed(sides, "a peer that is not the expected one")
            error = sides[refusing].error
            assert isinstance(error, PeerIdMismatch)
            assert (error.expected, error.actual) == (STRANGER, actual)


async def check_early_muxers(subject: SecuritySubject) -> None:
    """The dialer's first that the listener has; None when a side offers none; no overlap ends the handshake."""
    if not subject.early_muxers:
        async with handshake(subject, muxers=(("/a", "/b"), ("/a",))) as sides:
            assert [side.ready.early_muxer for side in sides] == [None, None]
        return
    agreed: tuple[tuple[Sequence[str], Sequence[str], str | None], ...] = (
        (("/a", "/b"), ("/b", "/a"), "/a"),
        (("/a", "/b"), ("/c", "/b"), "/b"),
        (("/a",), (), None),
        ((), ("/a",), None),
        ((), (), None),
    )
    for ours, theirs, early in agreed:
        async with handshake(subject, muxers=(ours, theirs)) as sides:
            assert [side.ready.early_muxer for side in sides] == [early, early], (ours, theirs)


async def check_garbage(subject: SecuritySubject) -> None:
    """Bytes of another protocol, an endless flood and an early end are HandshakeErrors."""
    for role in Role:
        for data in (b"", b"\x00", b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 70_000, bytes(70_000)):
            ours, theirs = trio.testing.memory_stream_pair()
            await theirs.send_all(data)
            await theirs.send_eof()
            try:
                await subject.make(DIALER_KEY).secure(ours, role, None)
            except HandshakeError:
                await ours.aclose()
            else:
                raise AssertionError(f"{role} took {data[:20]!r} for a handshake")


async def check_cut_handshakes(subject: SecuritySubject) -> None:
    """A handshake cut at any flight, whole or within, fails on both sides."""
    for sender in Role:
        for flight in range(await _flights(subject, sender)):
            for keep in (0, 1, 20, -1):
                cut = _Once(sender, flight, _cut_at(keep))
                async with handshake(subject, cut) as sides:
                    assert_failed(sides, f"flight {flight} of the {sender.value} cut at {keep}")


async def check_flipped_handshakes(subject: SecuritySubject) -> None:
    """Each byte of each handshake message matters to both sides."""
    if not subject.encrypts:
        return
    unnoticed = 0
    for sender in Role:
        for flight in range(await _flights(subject, sender)):
            position = 0
            while True:
                flip = _Once(sender, flight, _flip_at(position))
                # Where a longer message was announced than there is, both wait for it until their callers' deadline.
                with trio.move_on_after(5):
                    async with handshake(subject, flip) as sides:
                        if sides[0].error is None and sides[1].error is None:
                            unnoticed += 1
                        else:
                            assert_failed(sides, f"byte {position} of flight {flight} of the {sender.value} flipped")
                position += subject.flip_every
                if position >= flip.size:
                    break
    assert unnoticed <= subject.unauthenticated_bytes, f"{unnoticed} bytes of the handshake are not authenticated"


async def check_replayed_handshakes(subject: SecuritySubject) -> None:
    """What a side said in one handshake is worth nothing in another, in order or not."""
    if not subject.encrypts:
        return
    for victim in Role:
        said: list[bytes] = []

        def record(sender: Role, _n: int, piece: bytes, victim: Role = victim, said: list[bytes] = said) -> list[bytes]:
            if sender is not victim:
                said.append(piece)
            return [piece]

        async with handshake(subject, record) as sides:
            assert sides[0].error is sides[1].error is None
        for order in (said, said[::-1], said[:1] * 3):
            ours, theirs = trio.testing.memory_stream_pair()
            await theirs.send_all(b"".join(order))
            await theirs.send_eof()
            key = DIALER_KEY if victim is Role.DIALER else LISTENER_KEY
            try:
                await subject.make(key).secure(ours, victim, None)
            except HandshakeError:
                await ours.aclose()
            else:
                raise AssertionError(f"{victim} took a replayed handshake")


async def check_handshake_cancelled(subject: SecuritySubject) -> None:
    """A cancelled handshake leaves nothing behind but a stream to close."""
    for role in Role:
        ours, theirs = trio.testing.memory_stream_pair()
        with trio.move_on_after(1) as scope:
            await subject.make(DIALER_KEY).secure(ours, role, None)
        assert scope.cancelled_caught
        await ours.aclose()
        await theirs.aclose()


# -- records --------------------------------------------------------------------------------------------


async def check_tampered_records(subject: SecuritySubject) -> None:
    """Records flipped, swapped, doubled, dropped or cut: the bytes before them arrive, nothing of or after them."""
    if not subject.encrypts:
        return
    for sender in Role:
        for what in ("flip", "swap", "double", "drop", "cut"):
            for at in (0, 2, -1) if what == "flip" else (0,):
                await _check_tampered(subject, sender, what, at)


async def _check_tampered(subject: SecuritySubject, sender: Role, what: str, at: int) -> None:
    tap = _RecordTap(sender, what, at)
    async with handshake(subject, tap) as sides:
        source, target = (side.ready for side in (sides if sender is Role.DIALER else sides[::-1]))
        received = bytearray()
        tap.armed = True
        for n in range(6):
            await source.send_all(b"record %d " % n)
            await trio.testing.wait_all_tasks_blocked()
        await source.aclose()
        try:
            while piece := await target.receive_some():
                received += piece
        except (RemoteProtocolError, trio.BrokenResourceError):
            pass
        else:
            raise AssertionError(f"{what} was not noticed, received {bytes(received)!r}")
        intact = b"record 0 record 1 record 2 " if what == "double" else b"record 0 record 1 "
        assert received == intact, f"{what}: received {bytes(received)!r}"
        if what != "cut":
            try:
                await target.send_all(b"more")
            except trio.BrokenResourceError:
                pass
            else:
                raise AssertionError(f"the channel still sends after {what}")


async def check_big_transfers(subject: SecuritySubject) -> None:
    """Megabytes each way at once arrive unchanged, however they are cut."""
    async with handshake(subject) as sides:
        data = (bytes(range(256)) * (BIG_BYTES // 256 + 1))[:BIG_BYTES]
        received: dict[int, bytes] = {}

        async def receive(n: int) -> None:
            received[n] = await receive_exactly(sides[n].ready, BIG_BYTES)

        async with trio.open_nursery() as nursery:
            for n in (0, 1):
                nursery.start_soon(sides[n].ready.send_all, memoryview(data))
                nursery.start_soon(receive, n)
        assert received == {0: data, 1: data}


async def check_cancel(subject: SecuritySubject) -> None:
    """A cancelled `receive_some` loses nothing; a cancelled `send_all` leaves sending unusable."""
    async with handshake(subject) as sides:
        dialer, listener = sides[0].ready, sides[1].ready
        with trio.move_on_after(1) as scope:
            await listener.receive_some()
        assert scope.cancelled_caught
        await dialer.send_all(b"0123456789")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await listener.receive_some(4)
        assert await receive_exactly(listener, 10) == b"0123456789"
        with trio.CancelScope() as cancelled:
            cancelled.cancel()
            await dialer.send_all(b"lost")
        try:
            await dialer.send_all(b"never")
        except trio.BrokenResourceError:
            pass
        else:
            raise AssertionError("a channel still sends after a cancelled send")


async def check_close(subject: SecuritySubject) -> None:
    """Closing is clean for the peer, may be repeated, and does not mind that the peer has gone."""
    for closer in (0, 1):
        async with handshake(subject) as sides:
            closing, other = sides[closer].ready, sides[1 - closer].ready
            await closing.send_all(b"last words")
            await closing.aclose()
            await closing.aclose()
            assert await receive_exactly(other, 10) == b"last words"
            assert [await other.receive_some(), await other.receive_some()] == [b"", b""]
            await _assert_closed(closing.receive_some())
            await _assert_closed(closing.send_all(b"x"))
            await other.aclose()


async def _assert_closed(use: Awaitable[object]) -> None:
    try:
        await use
    except trio.ClosedResourceError:
        return
    raise AssertionError("a closed channel was usable")


async def check_streams(subject: SecuritySubject) -> None:
    """trio's own suite of streams."""

    async def make(pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]) -> Sides:
        sides = Side(), Side()
        streams = pair()

        async def run(n: int, role: Role, key: PrivateKey) -> None:
            sides[n].channel = await subject.make(key).secure(streams[n], role, None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run, 0, Role.DIALER, DIALER_KEY)
            nursery.start_soon(run, 1, Role.LISTENER, LISTENER_KEY)
        return sides

    async def roomy() -> tuple[trio.abc.Stream, trio.abc.Stream]:
        dialer, listener = await make(trio.testing.memory_stream_pair)
        return dialer.ready, listener.ready

    await trio.testing.check_two_way_stream(roomy, None)


SECURITY_CHECKS: tuple[Callable[[SecuritySubject], Awaitable[None]], ...] = (
    check_authenticates,
    check_wrong_peer,
    check_early_muxers,
    check_garbage,
    check_cut_handshakes,
    check_flipped_handshakes,
    check_replayed_handshakes,
    check_handshake_cancelled,
    check_tampered_records,
    check_big_transfers,
    check_cancel,
    check_close,
    check_streams,
)


async def check_security(subject: SecuritySubject) -> None:
    """Runs every check; AssertionError says which promise is broken."""
    for check in SECURITY_CHECKS:
        await check(subject)


# -- who stands in between ------------------------------------------------------------------------------


class _Once:
    """Changes one flight of one side."""

    def __init__(self, sender: Role, flight: int, change: Callable[[bytes], tuple[bytes | None, ...]]) -> None:
        self._sender = sender
        self._flight = flight
        self._change = change
        self.size = 0

    def __call__(self, sender: Role, n: int, piece: bytes) -> tuple[bytes | None, ...]:
        if sender is not self._sender or n != self._flight:
            return (piece,)
        self.size = len(piece)
        return self._change(piece)


class _RecordTap:
    """Once armed, changes the third piece that one side sends; a piece is one record."""

    def __init__(self, sender: Role, what: str, at: int) -> None:
        self._sender = sender
        self._what = what
        self._at = at
        self._count = 0
        self._held: bytes | None = None
        self.armed = False

    def __call__(self, sender: Role, _n: int, piece: bytes) -> tuple[bytes | None, ...]:
        if not self.armed or sender is not self._sender:
            return (piece,)
        self._count += 1
        if self._count == 3:
            return self._third(piece)
        if self._held is not None:
            held, self._held = self._held, None
            return (piece, held)
        return (piece,)

    def _third(self, piece: bytes) -> tuple[bytes | None, ...]:
        match self._what:
            case "flip":
                return (_flipped(piece, self._at),)
            case "double":
                return (piece, piece)
            case "cut":
                return (piece[:-1], None)
            case "swap":
                self._held = piece
        return ()


def _cut_at(keep: int) -> Callable[[bytes], tuple[bytes | None, ...]]:
    return lambda piece: (piece[:keep], None)


def _flip_at(position: int) -> Callable[[bytes], tuple[bytes | None, ...]]:
    return lambda piece: (_flipped(piece, position),)


def _flipped(piece: bytes, at: int) -> bytes:
    changed = bytearray(piece)
    changed[min(at, len(changed) - 1)] ^= 0x40  # signatures differ in length
    return bytes(changed)


async def _flights(subject: SecuritySubject, sender: Role) -> int:
    """How many pieces a side sends until the handshake is done."""
    count = 0

    def tamper(who: Role, n: int, piece: bytes) -> tuple[bytes, ...]:
        nonlocal count
        if who is sender:
            count = n + 1
        return (piece,)

    async with handshake(subject, tamper, confirm=False) as sides:
        assert sides[0].error is sides[1].error is None
        await trio.testing.wait_all_tasks_blocked()
    return count - (subject.afterthoughts if sender is Role.LISTENER else 0)
