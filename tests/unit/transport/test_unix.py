"""Unix sockets beyond the conformance suite: files that are stale, in use, replaced or too long."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from talos.addr import parse
from talos.errors import ConfigError, DialError, ListenError
from talos.transport.unix import Unix, UnixConfig

if TYPE_CHECKING:
    from pathlib import Path

    import trio
    from multiaddr import Multiaddr


def addr_of(path: Path) -> Multiaddr:
    return parse(f"/unix{path}")


async def test_the_file_goes_with_the_listener(tmp_path: Path) -> None:
    path = tmp_path / "s"
    listener = await Unix().listen(addr_of(path))
    assert path.is_socket()
    await listener.aclose()
    assert not path.exists()
    await listener.aclose()


async def test_a_stale_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    listener = await Unix().listen(addr_of(path))
    (await Unix().dial(listener.addr)).close()
    (await listener.accept())[0].close()
    await listener.aclose()


async def test_a_file_that_is_no_socket_stays(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("dear")
    with pytest.raises(ListenError, match="in use"):
        await Unix().listen(addr_of(path))
    assert path.read_text() == "dear"


async def test_a_replaced_file_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    first = await Unix().listen(addr_of(path))
    path.rename(tmp_path / "elsewhere")
    second = await Unix().listen(addr_of(path))
    await first.aclose()
    assert path.is_socket()
    path.unlink()
    await second.aclose()


async def test_paths_that_do_not_fit(tmp_path: Path) -> None:
    addr = addr_of(tmp_path / ("a" * 200))
    with pytest.raises(ListenError, match="too long"):
        await Unix().listen(addr)
    with pytest.raises(DialError, match="too long"):
        await Unix().dial(addr)
    with pytest.raises(ListenError, match="no such file"):
        await Unix().listen(addr_of(tmp_path / "missing" / "s"))


async def test_a_full_backlog_refuses(tmp_path: Path) -> None:
    listener = await Unix(UnixConfig(backlog=1)).listen(addr_of(tmp_path / "s"))
    streams: list[trio.abc.Stream] = []
    with pytest.raises(DialError):  # noqa: PT012
        while len(streams) < 10:
            streams.append(await Unix().dial(listener.addr))
    assert len(streams) >= 1
    with pytest.raises(ListenError, match="in use"):  # a full one is not a stale one
        await Unix().listen(listener.addr)
    for stream in streams:
        await stream.aclose()
    await listener.aclose()


def test_a_backlog_that_makes_no_sense() -> None:
    with pytest.raises(ConfigError):
        UnixConfig(backlog=0)
