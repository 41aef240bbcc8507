"""Perf between nodes."""
# ruff: noqa: SIM117 - nodes outside, services inside

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import Stream, StreamReset
from talos.errors import ConfigError, NegotiationError, RemoteProtocolError, StreamCode
from talos.perf import PERF, PerfConfig, open_perf, perf

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.host.config import NodeConfig

    MakeConfig = Callable[..., NodeConfig]


@pytest.mark.parametrize(
    ("upload", "download", "write_size"),
    [(0, 0, 65_536), (1, 1, 1), (300_000, 0, 1024), (0, 300_000, 65_536), (70_000, 70_001, 200_000)],
)
async def test_bytes_go_both_ways(
    memory_config: MakeConfig, open_nodes: Any, upload: int, download: int, write_size: int
) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_perf(a):
        await b.connect(a.peer_id, a.addrs)
        result = await perf(b, a.peer_id, upload=upload, download=download, write_size=write_size)
        assert (result.upload, result.download) == (upload, download)
        assert 0 < result.upload_seconds <= result.seconds


async def test_nothing_is_sent_before_the_upload_has_ended(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_perf(a):
        connection = await b.connect(a.peer_id, a.addrs)
        async with await b.open_stream(connection, PERF) as stream:
            for byte in (5).to_bytes(8, "big"):
                await stream.send_all(bytes([byte]))
            await stream.send_all(b"upload")
            with trio.move_on_after(0.05) as early:
                await stream.receive_some()
            assert early.cancelled_caught
            await stream.send_eof()
            got = b""
            async for chunk in stream:
                got += chunk
            assert len(got) == 5


async def test_the_largest_number_is_legal(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_perf(a):
        connection = await b.connect(a.peer_id, a.addrs)
        async with await b.open_stream(connection, PERF) as stream:
            await stream.send_all(b"\xff" * 8)
            await stream.send_eof()
            received = 0
            while received < 1_000_000:
                received += len(await stream.receive_some())
            stream.reset()


async def test_it_is_off_unless_it_is_opened(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b):
        await b.connect(a.peer_id, a.addrs)
        with pytest.raises((NegotiationError, trio.BrokenResourceError)):
            await perf(b, a.peer_id, download=1)


async def test_only_listed_peers_are_served(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config(), memory_config()) as (a, b, c):
        async with open_perf(a, PerfConfig(allowed_peers=frozenset({b.peer_id}))):
            for node in (b, c):
                await node.connect(a.peer_id, a.addrs)
            assert (await perf(b, a.peer_id, download=10)).download == 10
            with pytest.raises(StreamReset) as caught:
                await perf(c, a.peer_id, download=10)
            assert caught.value.code == StreamCode.GATED


async def test_a_number_that_is_cut_is_a_fault_of_the_peer(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_perf(a):
        connection = await b.connect(a.peer_id, a.addrs)
        async with await b.open_stream(connection, PERF) as stream:
            await stream.send_all(bytes(7))
            await stream.send_eof()
            with pytest.raises(StreamReset) as caught:
                await stream.receive_some()
            assert caught.value.code == StreamCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize("sent", [9, 11, 100_000])
async def test_another_number_of_bytes_is_a_remote_fault(memory_config: MakeConfig, open_nodes: Any, sent: int) -> None:
    async def answer(stream: Stream) -> None:
        async for _ in stream:
            pass
        await stream.send_all(bytes(sent))

    async with open_nodes(memory_config(), memory_config()) as (a, b):
        with a.mounted(PERF, answer):
            await b.connect(a.peer_id, a.addrs)
            with pytest.raises(RemoteProtocolError, match="asked for 10 bytes"):
                await perf(b, a.peer_id, download=10)


@pytest.mark.parametrize("header", [b"", b"\xff" * 8])
async def test_a_peer_that_moves_nothing_loses_its_stream(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock, header: bytes
) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_perf(a, PerfConfig(stalled_seconds=3)):
        connection = await b.connect(a.peer_id, a.addrs)
        async with await b.open_stream(connection, PERF) as stream:
            await stream.send_all(header)
            if header:
                await stream.send_eof()
            await trio.sleep(4)
            with pytest.raises(StreamReset):
                async for _ in stream:
                    pass


@pytest.mark.parametrize("wrong", [{"download": 1 << 64}, {"download": -1}, {"upload": -1}, {"write_size": 0}])
async def test_impossible_numbers_are_refused(
    memory_config: MakeConfig, open_nodes: Any, wrong: dict[str, int]
) -> None:
    async with open_nodes(memory_config()) as (a,):
        with pytest.raises(ValueError, match="perf moves"):
            await perf(a, a.peer_id, **wrong)


def test_a_time_is_needed() -> None:
    with pytest.raises(ConfigError):
        PerfConfig(stalled_seconds=0)
