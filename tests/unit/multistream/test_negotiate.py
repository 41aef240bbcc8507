"""Negotiation on streams, eager and lazy."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
from trio.testing import check_half_closeable_stream, memory_stream_pair, wait_all_tasks_blocked

from talos.abc import MuxedStream, StreamReset
from talos.errors import NegotiationError, StreamCode
from talos.multistream import (
    LazyStream,
    NegotiatedStream,
    PrefixedStream,
    answer,
    negotiate_inbound,
    negotiate_outbound,
    select,
)
from talos.multistream.machine import MultistreamConfig, message

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from talos.abc import Connection

HEADER = message("/multistream/1.0.0")
SIDES: list[Callable[[trio.abc.Stream], Awaitable[object]]] = [
    lambda stream: select(stream, ["/a"]),
    lambda stream: answer(stream, {"/a"}),
]
CONNECTION = cast("Connection", SimpleNamespace(remote_peer="bob"))


class Muxed(MuxedStream):
    """A muxed stream over trio's memory streams; counts what is sent in one piece."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self.stream = stream
        self.sent: list[bytes] = []
        self.code: int | None = None
        self.remote_code: int | None = None
        self.other: Muxed | None = None
        self.may_send = trio.Event()
        self.may_send.set()

    def _check(self) -> None:
        if self.code is not None:
            raise StreamReset(self.code, remote=False)
        if self.remote_code is not None:
            raise StreamReset(self.remote_code, remote=True)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.may_send.wait()
        self._check()
        self.sent.append(bytes(data))
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        self._check()
        data = await self.stream.receive_some(max_bytes)
        self._check()
        return cast("bytes", data)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    def reset(self, code: int = 0) -> None:
        if self.code is None:
            self.code = code
            if self.other is not None:
                self.other.remote_code = code
            self.stream.send_stream.close()
            self.stream.receive_stream.close()

    async def aclose(self) -> None:
        await self.stream.aclose()


def muxed_pair() -> tuple[Muxed, Muxed]:
    ours, theirs = (Muxed(end) for end in memory_stream_pair())
    ours.other, theirs.other = theirs, ours
    return ours, theirs


async def both(one: Callable[[], Awaitable[object]], other: Callable[[], Awaitable[object]]) -> list[object]:
    results: list[object] = [None, None]

    async def run(index: int, function: Callable[[], Awaitable[object]]) -> None:
        results[index] = await function()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, 0, one)
        nursery.start_soon(run, 1, other)
    return results


class TestRawStreams:
    async def test_both_agree(self) -> None:
        ours, theirs = memory_stream_pair()
        chosen = await both(lambda: select(ours, ["/tls/1.0.0", "/noise"]), lambda: answer(theirs, {"/noise"}))
        assert chosen == [("/noise", b"")] * 2

    async def test_bytes_behind_belong_to_the_protocol(self) -> None:
        ours, theirs = memory_stream_pair()
        await ours.send_all(HEADER + message("/noise") + b"hello")
        assert await answer(theirs, {"/noise"}) == ("/noise", b"hello")
        ours, theirs = memory_stream_pair()
        await theirs.send_all(HEADER + message("/noise") + b"hello")
        assert await select(ours, ["/noise"]) == ("/noise", b"hello")

    async def test_little_is_taken_beyond_the_agreement(self) -> None:
        """Only what stays in the stream is counted, and waits for the application."""
        ours, theirs = memory_stream_pair()
        await ours.send_all(HEADER + message("/noise") + bytes(100_000))
        _, leftover = await answer(theirs, {"/noise"})
        assert len(leftover) <= 2048

    async def test_nothing_in_common(self) -> None:
        ours, theirs = memory_stream_pair()
        await theirs.send_all(HEADER + message("na") + message("na"))
        with pytest.raises(NegotiationError, match="none of /a, /b"):
            await select(ours, ["/a", "/b"])

    async def test_the_end_comes_too_soon(self) -> None:
        for side in SIDES:
            ours, theirs = memory_stream_pair()
            await theirs.send_eof()
            with pytest.raises(NegotiationError) as caught:
                await side(ours)
            assert isinstance(caught.value.__cause__, EOFError)

    async def test_a_broken_protocol(self) -> None:
        for side in SIDES:
            ours, theirs = memory_stream_pair()
            await theirs.send_all(b"SSH-2.0-OpenSSH_9.9\r\n")
            with pytest.raises(NegotiationError):
                await side(ours)

    async def test_limits_come_from_the_configuration(self) -> None:
        ours, theirs = memory_stream_pair()
        await theirs.send_all(HEADER + message("/x") + message("/y") + message("/a"))
        with pytest.raises(NegotiationError, match="more than 2"):
            await answer(ours, {"/a"}, MultistreamConfig(max_proposals=2))


class TestPrefixedStream:
    async def test_prefix_first_then_the_stream_itself(self) -> None:
        ours, theirs = memory_stream_pair()
        stream = PrefixedStream(ours, b"hello")
        await theirs.send_all(b" world")
        assert await stream.receive_some(2) == b"he"
        assert await stream.receive_some() == b"llo"
        assert stream.receive_some == ours.receive_some
        assert await stream.receive_some() == b" world"
        await stream.wait_send_all_might_not_block()
        await stream.send_all(b"back")
        assert await theirs.receive_some() == b"back"
        with pytest.raises(ValueError, match="max_bytes"):
            await PrefixedStream(ours, b"x").receive_some(0)

    async def test_closing_loses_the_prefix(self) -> None:
        ours, _theirs = memory_stream_pair()
        stream = PrefixedStream(ours, b"hello")
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()

    async def test_a_cancelled_receive_loses_nothing(self) -> None:
        stream = PrefixedStream(memory_stream_pair()[0], b"hello")
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive_some()
        assert await stream.receive_some() == b"hello"

    async def test_an_empty_prefix_costs_nothing(self) -> None:
        ours, _theirs = memory_stream_pair()
        assert PrefixedStream(ours, b"").receive_some == ours.receive_some


class TestEager:
    async def test_header_and_echo_leave_in_one_piece(self) -> None:
        ours, theirs = muxed_pair()
        await ours.send_all(HEADER + message("/a") + b"early")
        stream = await negotiate_inbound(theirs, CONNECTION, {"/a": object()})
        assert theirs.sent == [HEADER + message("/a")]
        assert (stream.protocol, stream.connection) == ("/a", CONNECTION)
        assert await stream.receive_some(3) == b"ear"
        with pytest.raises(ValueError, match="max_bytes"):
            await stream.receive_some(0)
        assert await stream.receive_some() == b"ly"
        await ours.send_all(b"late")
        assert await stream.receive_some() == b"late"
        assert stream.receive_some == theirs.receive_some
        assert stream.send_all == theirs.send_all
        assert "/a with bob" in repr(stream)

    async def test_several_protocols(self) -> None:
        ours, theirs = muxed_pair()
        outbound, inbound = cast(
            "list[NegotiatedStream]",
            await both(
                lambda: negotiate_outbound(ours, CONNECTION, ["/b", "/a"]),
                lambda: negotiate_inbound(theirs, CONNECTION, {"/a"}),
            ),
        )
        assert outbound.protocol == inbound.protocol == "/a"
        await outbound.send_all(b"x")
        await outbound.send_eof()
        assert await inbound.receive_some() == b"x"
        assert await inbound.receive_some() == b""

    async def test_failure_resets_the_stream(self) -> None:
        ours, theirs = muxed_pair()
        await theirs.send_all(HEADER + message("na") + message("na"))
        with pytest.raises(NegotiationError):
            await negotiate_outbound(ours, CONNECTION, ["/b", "/a"])
        assert ours.code == StreamCode.NEGOTIATION_FAILED
        ours, theirs = muxed_pair()
        await theirs.send_all(b"garbage that is long enough")
        with pytest.raises(NegotiationError):
            await negotiate_inbound(ours, CONNECTION, {"/a"})
        assert ours.code == StreamCode.NEGOTIATION_FAILED

    @pytest.mark.parametrize(("code", "expected"), [(0x1001, NegotiationError), (0x1002, StreamReset)])
    async def test_a_reset_instead_of_an_answer(self, code: int, expected: type[Exception]) -> None:
        ours, theirs = muxed_pair()
        theirs.reset(code)
        with pytest.raises(expected):
            await negotiate_outbound(ours, CONNECTION, ["/b", "/a"])

    async def test_cancelling_resets_the_stream(self, autojump_clock: trio.testing.MockClock) -> None:
        negotiations: list[Callable[[Muxed], Awaitable[object]]] = [
            lambda muxed: negotiate_outbound(muxed, CONNECTION, ["/b", "/a"]),
            lambda muxed: negotiate_inbound(muxed, CONNECTION, {"/a"}),
        ]
        for negotiate in negotiations:
            ours, _theirs = muxed_pair()
            with trio.move_on_after(10) as scope:
                await negotiate(ours)
            assert scope.cancelled_caught
            assert ours.code == StreamCode.NEGOTIATION_FAILED

    async def test_reset_and_close(self) -> None:
        for end in ("reset", "aclose"):
            ours, _theirs = muxed_pair()
            stream = NegotiatedStream(ours, CONNECTION, "/a", b"unread")
            if end == "reset":
                stream.reset(StreamCode.RATE_LIMITED)
                assert ours.code == StreamCode.RATE_LIMITED
            else:
                await stream.aclose()
            with pytest.raises((StreamReset, trio.ClosedResourceError)):
                await stream.receive_some()


async def lazy_pair() -> tuple[LazyStream, Muxed, Muxed]:
    ours, theirs = muxed_pair()
    stream = await negotiate_outbound(ours, CONNECTION, ["/a"])
    assert isinstance(stream, LazyStream)
    return stream, ours, theirs


class TestLazy:
    async def test_proposal_and_first_bytes_in_one_flight(self) -> None:
        stream, ours, theirs = await lazy_pair()
        assert ours.sent == []
        await stream.send_all(b"hello")
        await stream.send_all(b"again")
        assert ours.sent == [HEADER + message("/a") + b"hello", b"again"]
        inbound = await negotiate_inbound(theirs, CONNECTION, {"/a"})
        assert await inbound.receive_some() == b"helloagain"
        await inbound.send_all(b"answer")
        assert await stream.receive_some() == b"answer"
        assert stream.receive_some == ours.receive_some
        assert stream.send_all == ours.send_all

    async def test_a_large_first_piece_is_not_copied_whole(self) -> None:
        stream, ours, _theirs = await lazy_pair()
        await stream.send_all(b"a" * 200_000)
        assert [len(piece) for piece in ours.sent] == [len(HEADER + message("/a")) + 65_536, 200_000 - 65_536]

    async def test_receiving_first_sends_the_proposal_alone(self) -> None:
        stream, ours, theirs = await lazy_pair()
        await theirs.send_all(HEADER + message("/a") + b"pushed")
        assert await stream.receive_some(4) == b"push"
        assert await stream.receive_some(4) == b"ed"
        assert ours.sent == [HEADER + message("/a")]

    @pytest.mark.parametrize("verb", ["send_eof", "aclose"])
    async def test_ending_first_sends_the_proposal_alone(self, verb: str) -> None:
        stream, _ours, theirs = await lazy_pair()
        await getattr(stream, verb)()
        assert await theirs.receive_some() == HEADER + message("/a")
        assert await theirs.receive_some() == b""

    async def test_a_byte_at_a_time(self) -> None:
        stream, _ours, theirs = await lazy_pair()
        for byte in HEADER + message("/a") + b"xy":
            await theirs.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        assert b"".join([bytes(await stream.receive_some(1)) for _ in range(2)]) == b"xy"

    @pytest.mark.parametrize(
        "answered", [HEADER + message("na"), HEADER + message("/b"), b"HTTP/1.1 400 Bad Request\r\n\r\n", HEADER]
    )
    async def test_no_agreement(self, answered: bytes) -> None:
        stream, ours, theirs = await lazy_pair()
        await stream.send_all(b"taken for granted")
        await theirs.send_all(answered)
        await theirs.send_eof()
        with pytest.raises(NegotiationError, match="no /a with bob"):
            await stream.receive_some()
        assert ours.code == StreamCode.NEGOTIATION_FAILED
        with pytest.raises(StreamReset):
            await stream.receive_some()
        with pytest.raises(StreamReset):
            await stream.send_all(b"more")

    @pytest.mark.parametrize(("code", "expected"), [(0x1001, NegotiationError), (0x1002, StreamReset)])
    async def test_a_reset_instead_of_an_answer(self, code: int, expected: type[Exception]) -> None:
        stream, _ours, theirs = await lazy_pair()
        await stream.send_all(b"x")
        theirs.reset(code)
        with pytest.raises(expected):
            await stream.receive_some()

    async def test_sending_while_the_proposal_leaves(self) -> None:
        stream, ours, theirs = await lazy_pair()
        await theirs.send_all(HEADER + message("/a") + b"x")
        ours.may_send = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await wait_all_tasks_blocked()
            nursery.start_soon(stream.send_all, b"second")
            await wait_all_tasks_blocked()
            ours.may_send.set()
        assert ours.sent == [HEADER + message("/a"), b"second"]

    async def test_an_answer_that_does_not_come(self, autojump_clock: trio.testing.MockClock) -> None:
        ours, theirs = muxed_pair()
        stream = await negotiate_outbound(ours, CONNECTION, ["/a"], answer_seconds=10)
        await theirs.send_all(HEADER)
        with pytest.raises(NegotiationError, match="no answer in time"):
            await stream.receive_some()
        assert trio.current_time() == pytest.approx(10)
        assert ours.code == StreamCode.NEGOTIATION_FAILED

    async def test_reset_before_anything_left(self) -> None:
        stream, ours, _theirs = await lazy_pair()
        stream.reset(7)
        assert (ours.code, ours.sent) == (7, [])
        for call in (stream.receive_some(), stream.send_all(b"x")):
            with pytest.raises(StreamReset):
                await call

    async def test_cancelled_before_the_proposal_left(self) -> None:
        stream, ours, theirs = await lazy_pair()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.receive_some()
        assert scope.cancelled_caught
        assert ours.code is None
        await theirs.send_all(HEADER + message("/a") + b"still here")
        assert await stream.receive_some() == b"still here"

    async def test_cancelled_while_waiting_for_the_answer(self, autojump_clock: trio.testing.MockClock) -> None:
        stream, _ours, theirs = await lazy_pair()
        await theirs.send_all(HEADER)
        with trio.move_on_after(1):
            await stream.receive_some()
        await theirs.send_all(message("/a") + b"still here")
        assert await stream.receive_some() == b"still here"

    async def test_cancelled_while_the_proposal_leaves(self) -> None:
        stream, ours, _theirs = await lazy_pair()
        with trio.CancelScope() as scope:
            scope.cancel()
            await stream.send_all(b"x")
        assert scope.cancelled_caught
        assert ours.code == StreamCode.NONE
        with pytest.raises(StreamReset):
            await stream.receive_some()

    async def test_closing_when_the_peer_has_gone(self) -> None:
        stream, _ours, theirs = await lazy_pair()
        theirs.reset()
        await stream.aclose()
        await stream.aclose()

    async def test_closed_before_the_answer(self) -> None:
        stream, _ours, _theirs = await lazy_pair()
        await stream.send_all(b"x")
        await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()

    async def test_it_is_a_stream(self) -> None:
        async def pair() -> tuple[NegotiatedStream, NegotiatedStream]:
            ours, theirs = muxed_pair()
            outbound = LazyStream(ours, CONNECTION, "/a")
            await theirs.send_all(HEADER + message("/a"))
            inbound = NegotiatedStream(theirs, CONNECTION, "/a")
            await outbound.wait_send_all_might_not_block()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(outbound.send_all, b"first")
                await theirs.stream.receive_some(len(HEADER + message("/a")))
                assert await inbound.receive_some(5) == b"first"
            return outbound, inbound

        await check_half_closeable_stream(pair, None)
