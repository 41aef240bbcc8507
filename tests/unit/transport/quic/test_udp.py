"""The socket: datagrams arrive as they were sent, gathered or not; what cannot go out is lost, what broke is told."""

from __future__ import annotations

import errno
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from talos.transport.quic.config import QuicConfig
from talos.transport.quic.udp import BATCH, UdpSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOPBACK = ("127.0.0.1", 0)
SECONDS = 30.0


@contextmanager
def sockets(*, offload: bool) -> Iterator[tuple[UdpSocket, UdpSocket]]:
    config = QuicConfig(offload=offload)
    a, b = UdpSocket(socket.AF_INET, LOOPBACK, config), UdpSocket(socket.AF_INET, LOOPBACK, config)
    try:
        yield a, b
    finally:
        a.close()
        b.close()
        b.close()


async def datagrams(sock: UdpSocket, count: int) -> list[bytes]:
    """The next `count`, cut at their borders."""
    found: list[bytes] = []
    with trio.fail_after(SECONDS):
        while len(found) < count:
            for received in await sock.receive():
                size = received.segment
                found += [received.data[at : at + size] for at in range(0, len(received.data), size)]
    return found


@pytest.mark.parametrize("offload", [True, False])
async def test_borders_and_order_are_kept(offload: bool) -> None:
    sizes = [1200] * 40 + [700] + [1200] * 3 + [1300, 1300, 50, 60, 1]
    sent = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    with sockets(offload=offload) as (a, b):
        await a.send([(data, b.address) for data in sent])
        assert await datagrams(b, len(sent)) == sent
        assert a.datagrams_out == b.datagrams_in == len(sent)
        if a.segments:
            assert a.sends < len(sent) / 3
        else:
            assert a.sends == len(sent)


async def test_one_call_takes_no_more_than_the_kernel_does() -> None:
    with sockets(offload=True) as (a, b):
        sent = [(bytes(100), b.address)] * (2 * BATCH + 1)
        await a.send(sent)
        assert len(await datagrams(b, len(sent))) == len(sent)
        assert a.sends >= 3


async def test_addresses_are_not_mixed() -> None:
    with sockets(offload=True) as (a, b), sockets(offload=True) as (c, _):
        await a.send([(b"to b", b.address), (b"to c", c.address), (b"to b", b.address)])
        assert await datagrams(b, 2) == [b"to b", b"to b"]
        assert await datagrams(c, 1) == [b"to c"]


async def test_a_device_that_takes_no_segments_gets_them_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with sockets(offload=True) as (a, b):
        whole = a._socket

        class WithoutSegments:
            def __getattr__(self, name: str) -> object:
                return getattr(whole, name)

            def sendmsg(self, *_arguments: object) -> int:
                raise OSError(errno.EIO, "no segments")

        a._socket = WithoutSegments()  # type: ignore[assignment]
        a.segments = True
        await a.send([(b"one", b.address), (b"two", b.address)])
        assert await datagrams(b, 2) == [b"one", b"two"]
        assert not a.segments
        a._socket = whole


async def test_what_is_too_large_is_lost_and_the_rest_goes_on() -> None:
    with sockets(offload=True) as (a, b):
        await a.send([(bytes(70_000), b.address), (b"next", b.address)])
        assert await datagrams(b, 1) == [b"next"]


async def test_a_port_where_nobody_listens_comes_back() -> None:
    with sockets(offload=True) as (a, b):
        nobody = b.address
        b.close()
        await a.send([(b"anybody?", nobody)])
        with trio.fail_after(SECONDS):
            assert await a.receive() == []
        (returned,) = a.undelivered()
        assert (returned.data, returned.address, returned.errno) == (b"anybody?", nobody, errno.ECONNREFUSED)
        assert a.undelivered() == []


async def test_closing_wakes_who_reads() -> None:
    with sockets(offload=True) as (a, _):
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await a.receive()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            a.close()
        assert a.closed


async def test_a_full_socket_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with sockets(offload=False) as (a, b):
        whole, full = a._socket, [True]

        class Full:
            def __getattr__(self, name: str) -> object:
                return getattr(whole, name)

            def sendto(self, data: bytes, address: tuple[str, int]) -> int:
                if full:
                    full.clear()
                    raise BlockingIOError
                return whole.sendto(data, address)

            def fileno(self) -> int:
                return whole.fileno()

        a._socket = Full()  # type: ignore[assignment]
        await a.send([(b"patience", b.address)])
        assert await datagrams(b, 1) == [b"patience"]
        a._socket = whole
