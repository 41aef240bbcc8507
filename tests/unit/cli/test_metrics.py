"""The page of numbers: for loopback and the token alone, within bounds."""

from __future__ import annotations

import socket
import stat
from typing import TYPE_CHECKING

import pytest
import trio

from talos.cli import metrics
from talos.errors import ConfigError, ListenError

if TYPE_CHECKING:
    from pathlib import Path

TEXT = "talos_mcp_children 1\n"


async def ask(url: str, request: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").removesuffix("/metrics").rpartition(":")
    async with await trio.open_tcp_stream(host.strip("[]"), int(port)) as stream:
        await stream.send_all(request)
        await stream.send_eof()
        return b"".join([piece async for piece in stream])


async def test_statuses(tmp_path: Path) -> None:
    token_file = tmp_path / "run" / "metrics.token"
    async with metrics.open_metrics("127.0.0.1:0", token_file, lambda: TEXT) as url:
        assert stat.S_IMODE(token_file.stat().st_mode) == 0o600
        key = b"Authorization: Bearer " + token_file.read_bytes().strip() + b"\r\n"
        for request, status in (
            (b"GET /metrics HTTP/1.1\r\n" + key + b"\r\n", b"200"),
            (b"GET /metrics?x=1 HTTP/1.0\r\nHost: x\r\n" + key.replace(b"Auth", b"aUTH") + b"\r\n", b"200"),
            (b"GET /metrics HTTP/1.1\r\n\r\n", b"401"),
            (b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer " + b"0" * 64 + b"\r\n\r\n", b"401"),
            (b"GET /metrics HTTP/1.1\r\n" + key + key + b"\r\n", b"401"),
            (b"GET / HTTP/1.1\r\n\r\n", b"401"),
            (b"GET / HTTP/1.1\r\n" + key + b"\r\n", b"404"),
            (b"POST /metrics HTTP/1.1\r\n" + key + b"\r\n", b"405"),
            (b"GET /metrics\r\n" + key + b"\r\n", b"400"),
            (b"GET /metrics HTTP/1.1\r\n" + key, b"400"),
            (b"\x16\x03\x01\xff\xff", b"400"),
            (b"", b"400"),
            (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (16_384 - 26), b"400"),
        ):
            answer = await ask(url, request)
            assert answer.split(b" ")[1] == status, request[:80]
            assert answer.endswith(TEXT.encode()) == (status == b"200")
            assert int(answer.partition(b"Content-Length: ")[2].partition(b"\r\n")[0]) == len(
                answer.partition(b"\r\n\r\n")[2]
            )
    assert not token_file.exists()


async def test_each_run_has_its_own_token(tmp_path: Path) -> None:
    tokens = set()
    for _ in range(3):
        async with metrics.open_metrics("[::1]:0" if socket.has_ipv6 else "127.0.0.1:0", tmp_path / "r" / "t", str):
            tokens.add((tmp_path / "r" / "t").read_bytes())
    assert len(tokens) == 3


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:1", "192.0.2.1:1", "localhost:1", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536", ":1", "[::]:1"]
)
async def test_only_loopback(tmp_path: Path, listen: str) -> None:
    with pytest.raises(ConfigError, match="loopback"):
        async with metrics.open_metrics(listen, tmp_path / "r" / "t", str):
            pytest.fail("it listens")


async def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ListenError, match="cannot be served"):
            async with metrics.open_metrics(f"127.0.0.1:{taken.getsockname()[1]}", tmp_path / "r" / "t", str):
                pytest.fail("it listens")


async def test_idle_ones_hold_sixteen_slots_for_five_seconds(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    token_file = tmp_path / "r" / "t"
    async with metrics.open_metrics("127.0.0.1:0", token_file, lambda: TEXT) as url:
        port = int(url.removesuffix("/metrics").rpartition(":")[2])
        autojump_clock.autojump_threshold = float("inf")
        idle = [await trio.open_tcp_stream("127.0.0.1", port) for _ in range(metrics.MAX_REQUESTS)]
        request = b"GET /metrics HTTP/1.1\r\nAuthorization: Bearer " + token_file.read_bytes().strip() + b"\r\n\r\n"
        await trio.testing.wait_all_tasks_blocked(0.05)
        late = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            assert not await late.receive_some()  # closed unread
        except trio.BrokenResourceError:
            pass
        autojump_clock.jump(metrics.REQUEST_SECONDS + 1)
        for stream in idle:
            assert not await stream.receive_some()
        assert (await ask(url, request)).endswith(TEXT.encode())
        for stream in (*idle, late):
            await stream.aclose()
