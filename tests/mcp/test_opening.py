"""Hostile peers at serve: the order of the opening's checks on the wire, and frames that break the protocol."""

from __future__ import annotations

import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from talos.abc import StreamReset
from talos.mcp.limits import McpLimits
from talos.mcp.wire import MAX_OPENING_BYTES, PROTOCOL_ID, Accept, FrameKind, Open, Status, frame, line_header
from talos.wire import varint
from talos.wire.length_prefix import LengthPrefixDecoder
from talos.wire.length_prefix import frame as prefixed
from tests.mcp.harness import INITIALIZE, all_gone, call, tunnel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import Stream
    from tests.mcp.harness import Tunnel

SMALL = McpLimits(max_line=65_536, window=65_536)


@asynccontextmanager
async def raw(t: Tunnel, number: int = 0) -> AsyncIterator[Stream]:
    """A stream to the serving node, on which nothing is said yet."""
    node = t.connecting[number]
    connection = await node.connect(t.serving.peer_id, t.serving.addrs)
    async with await node.open_stream(connection, PROTOCOL_ID) as stream:
        yield stream


async def read_all(stream: Stream) -> bytes:
    data = b""
    with trio.fail_after(10):
        while chunk := await stream.receive_some():
            data += chunk
    return data


def opening(**fields: object) -> bytes:
    fields = {"nonce": secrets.token_bytes(32), "max_line": SMALL.max_line, "window": SMALL.window} | fields
    return prefixed(Open(**fields).encode())  # type: ignore[arg-type]


async def answer(stream: Stream) -> tuple[Accept, LengthPrefixDecoder]:
    decoder = LengthPrefixDecoder(MAX_OPENING_BYTES)
    with trio.fail_after(10):
        while (message := decoder.next_message()) is None:
            decoder.feed(await stream.receive_some())
    return Accept.decode(message), decoder


async def test_a_refusal_is_the_same_bytes_for_peer_and_name() -> None:
    async with tunnel(clients=2, granted=1) as t:
        answers = set()
        for number, fields in (
            (1, {}),
            (1, {"server": "default"}),
            (0, {"server": "no-such"}),
            (1, {"version": 0}),
            (1, {"nonce": b"x"}),
        ):
            async with raw(t, number) as stream:
                await stream.send_all(opening(**fields))
                answers.add(await read_all(stream))
        assert len(answers) == 1
        assert answers == {prefixed(Accept(status=Status.REFUSED).encode())}
        assert not t.server.sessions


async def test_other_statuses() -> None:
    async with tunnel() as t:
        for fields, status in (
            ({"version": 0}, Status.VERSION),
            ({"session": bytes(16), "resume_token": bytes(32), "attach": 1, "nonce": b""}, Status.NO_SESSION),
        ):
            async with raw(t) as stream:
                await stream.send_all(opening(**fields))
                assert (await answer(stream))[0].status is status


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(prefixed(b"\xff\xff\xff"), id="no protobuf"),
        pytest.param(varint.encode(MAX_OPENING_BYTES + 1), id="too long"),
        pytest.param(opening(nonce=b"short"), id="short nonce"),
        pytest.param(opening(max_line=1), id="tiny line"),
        pytest.param(opening(server="UPPER"), id="name"),
    ],
)
async def test_a_malformed_opening_is_reset_and_starts_nothing(data: bytes) -> None:
    async with tunnel() as t:
        async with raw(t) as stream:
            await stream.send_all(data)
            with pytest.raises(StreamReset):
                await read_all(stream)
        assert not t.server.sessions
        assert not t.server.stats.opens_total
        assert await t.client().call("echo", text="others are served") == "others are served"


def line(seq: int, ack: int, body: bytes) -> bytes:
    return line_header(seq, ack, len(body)) + body


LINE = call("echo", text="x")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(line(2, 0, LINE), id="gap"),
        pytest.param(line(1, 0, LINE) + line(1, 0, LINE), id="double"),
        pytest.param(line(1, 99, LINE), id="false ack"),
        pytest.param(b"".join(frame(FrameKind.PING, bytes(8)) for _ in range(11)), id="ping flood"),
        pytest.param(b"\x01\x08", id="unknown kind"),
        pytest.param(frame(FrameKind.ACK, b"\x05"), id="ack of nothing"),
        pytest.param(varint.encode(65_536 + 100) + b"\x01\x01\x00{", id="line too long"),
        pytest.param(frame(FrameKind.RECEIPT, b"x"), id="receipt without the feature"),
    ],
)
async def test_what_breaks_the_protocol_gets_close_3_and_ends_the_server(data: bytes) -> None:
    async with tunnel(limits=SMALL) as t:
        async with raw(t) as stream:
            await stream.send_all(opening())
            accept, decoder = await answer(stream)
            assert accept.status is Status.OK
            pids = t.pids()
            await stream.send_all(data)
            rest = decoder.take_leftover() + await read_all(stream)
            assert b"\x07\x03" in rest
            await stream.send_eof()
        await all_gone(t, *pids)
    closed = [entry for entry in t.serve_log.entries if entry.type == 18]
    assert len(closed) == 1
    assert b"protocol" in closed[0].detail


async def test_a_line_beyond_the_window_breaks_the_protocol() -> None:
    async with tunnel(limits=SMALL) as t, raw(t) as stream:
        await stream.send_all(opening())
        _, decoder = await answer(stream)
        await stream.send_all(line(1, 0, call("stuck", seconds=60)))
        body = call("echo", text="z" * 30_000)
        with trio.move_on_after(10):
            for seq in range(2, 100):
                await stream.send_all(line(seq, 0, body))
        rest = decoder.take_leftover() + await read_all(stream)
        assert b"\x07\x03" in rest


async def test_a_peer_that_says_nothing_does_not_hold_a_server() -> None:
    async with tunnel(limits=McpLimits(opening_seconds=0.3)) as t, raw(t) as stream:
        await stream.send_all(b"\x20")
        with trio.fail_after(5):
            try:
                assert await stream.receive_some() == b""
            except trio.BrokenResourceError:
                pass
        assert not t.server.sessions
        assert await t.client().call("echo", text=INITIALIZE.decode()[:5]) == '{"jso'
