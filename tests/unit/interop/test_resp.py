"""RESP: the decoder under any bytes and any chunking, the client against the server."""

from __future__ import annotations

import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from interop.harness.resp import (
    MAX_DEPTH,
    MAX_ITEMS,
    MAX_MESSAGE_BYTES,
    Reply,
    RespClient,
    RespDecoder,
    ServerError,
    encode_command,
)
from interop.harness.resp_server import MAX_ELEMENTS, MAX_KEYS, RespServer, open_resp_server
from talos.errors import MessageTooLarge, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

words = st.lists(st.binary(max_size=40), min_size=1, max_size=5)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(words, max_size=5), st.lists(st.integers(min_value=0)))
def test_any_chunking_gives_the_same_commands(commands: list[list[bytes]], places: list[int]) -> None:
    data = b"".join(encode_command(*command) for command in commands)
    decoder = RespDecoder()
    found = [reply for chunk in cut(data, places) for reply in decoder.feed(chunk)]
    assert found == commands


line = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"*1", b"*2", b"*-1", b"$-1", b"$3", b"abc", b":12", b"+OK", b"-ERR", b"*99", b"$99999999999"]),
)


@given(st.lists(line, max_size=20).map(b"\r\n".join))
def test_any_bytes_give_values_or_a_remote_fault(data: bytes) -> None:
    decoder = RespDecoder()
    try:
        whole = decoder.feed(data)
    except RemoteProtocolError:
        return
    again = RespDecoder()
    pieces = [reply for byte in data for reply in again.feed(bytes([byte]))]
    assert list(map(repr, pieces)) == list(map(repr, whole))


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"+OK\r\n", b"OK"),
        (b":42\r\n", 42),
        (b":-7\r\n", -7),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"$0\r\n\r\n", b""),
        (b"$5\r\na\r\nbc\r\n", b"a\r\nbc"),
        (b"*2\r\n:1\r\n*1\r\n$1\r\nx\r\n", [1, [b"x"]]),
    ],
)
def test_values(data: bytes, reply: Reply) -> None:
    assert RespDecoder().feed(data) == [reply]


def test_an_error_is_a_value() -> None:
    (reply,) = RespDecoder().feed(b"-WRONGTYPE no \xff\r\n")
    assert isinstance(reply, ServerError)
    assert str(reply).startswith("WRONGTYPE")


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b"\r\n",
        b":\r\n",
        b":1.5\r\n",
        b"$x\r\n",
        b"$-2\r\n",
        b"$3\r\nabcde",
        b"*1\r\n" * (MAX_DEPTH + 1),
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        RespDecoder().feed(data)


@pytest.mark.parametrize(
    "data",
    [
        b"$%d\r\n" % (MAX_MESSAGE_BYTES + 1),
        b"*%d\r\n" % (MAX_ITEMS + 1),
        b"+" + b"x" * MAX_MESSAGE_BYTES,
        b"*2\r\n" + (b"$40000\r\n" + b"x" * 40000 + b"\r\n") + b"$40000\r\n" + b"x" * 30000,
    ],
)
def test_limits(data: bytes) -> None:
    with pytest.raises(MessageTooLarge):
        RespDecoder().feed(data)


@asynccontextmanager
async def joined(server: RespServer) -> AsyncIterator[RespClient]:
    """A client of `server` over memory streams."""
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.serve, theirs)
        async with ours:
            yield RespClient(ours)


async def test_strings() -> None:
    async with joined(RespServer()) as client:
        assert await client.get("k") is None
        await client.set("k", "first")
        await client.set("k", "second")
        assert await client.get("k") == "second"
        await client.delete("k")
        await client.delete("k")
        assert await client.get("k") is None


async def test_lists() -> None:
    async with joined(RespServer()) as client:
        assert await client.lpop("k") is None
        await client.rpush("k", "a")
        await client.rpush("k", "b")
        assert await client.lpop("k") == "a"
        assert await client.blpop("k") == "b"
        assert await client.lpop("k") is None


async def test_blpop_waits_for_a_push_of_its_own_key(autojump_clock: trio.testing.MockClock) -> None:
    server = RespServer()
    async with joined(server) as waiting, joined(server) as pushing:
        popped: list[str] = []

        async def pop() -> None:
            popped.append(await waiting.blpop("k"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pop)
            await trio.testing.wait_all_tasks_blocked()
            await pushing.rpush("other", "no")
            await trio.testing.wait_all_tasks_blocked()
            assert popped == []
            await pushing.rpush("k", "yes")
        assert popped == ["yes"]


async def test_the_wrong_kind_of_value_says_so() -> None:
    async with joined(RespServer()) as client:
        await client.set("string", "v")
        await client.rpush("list", "v")
        for refused in (
            client.rpush("string", "v"),
            client.lpop("string"),
            client.blpop("string"),
            client.get("list"),
        ):
            with pytest.raises(ServerError, match="WRONGTYPE"):
                await refused


async def test_keys_and_elements_are_bounded() -> None:
    async with joined(RespServer()) as client:
        for _ in range(MAX_ELEMENTS):
            await client.rpush("list", "v")
        with pytest.raises(ServerError, match="OOM"):
            await client.rpush("list", "v")
        for n in range(MAX_KEYS - 1):
            await client.set(str(n), "v")
        await client.set("0", "again")
        with pytest.raises(ServerError, match="OOM"):
            await client.set("one more", "v")
        with pytest.raises(ServerError, match="OOM"):
            await client.rpush("one more", "v")


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (encode_command(b"ping"), b"+PONG\r\n"),
        (encode_command(b"FLUSHALL"), b"-ERR unknown command"),
        (encode_command(b"GET"), b"-ERR unknown command"),
        (b":1\r\n", b"-ERR a command is"),
        (b"*1\r\n:1\r\n", b"-ERR a command is"),
        (b"nonsense\r\n", b"-ERR Protocol error"),
    ],
)
async def test_other_commands(sent: bytes, answer: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RespServer().serve, theirs)
        await ours.send_all(sent)
        assert (await ours.receive_some()).startswith(answer)
        await ours.aclose()


async def test_a_connection_that_breaks_is_left_quietly() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(RespServer().serve, theirs)
        await ours.send_all(b"*1\r\n")
        ours.send_stream.close()
        ours.receive_stream.close()


@pytest.mark.parametrize(
    ("method", "answer"),
    [("get", b":1\r\n"), ("lpop", b"*1\r\n$1\r\nx\r\n"), ("blpop", b"*-1\r\n"), ("get", b"")],
)
async def test_an_answer_of_another_kind_is_the_servers_fault(method: str, answer: bytes) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    if answer:
        await theirs.send_all(answer)
    else:
        await theirs.send_eof()
    with pytest.raises(RemoteProtocolError):
        await getattr(RespClient(ours), method)("k")


async def test_over_tcp() -> None:
    async with open_resp_server() as address:
        host, _, port = address.rpartition(":")
        stream = await trio.open_tcp_stream(host, int(port))
        async with stream:
            client = RespClient(stream)
            await client.set("k", "v" * 1000)
            assert await client.get("k") == "v" * 1000
