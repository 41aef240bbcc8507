"""TCP beyond the conformance suite: options, names, punching, accept errors. On loopback sockets."""

from __future__ import annotations

import errno
import socket

import pytest
import trio
from multiaddr import Multiaddr

from talos.addr import parse
from talos.errors import ConfigError, DialError, ListenError
from talos.transport.resolve import Resolver
from talos.transport.sockets import SocketListener, ip_and_port, ip_component, os_errors_as, tcp_addr
from talos.transport.tcp import Tcp, TcpConfig

ANY = parse("/ip4/127.0.0.1/tcp/0")


@pytest.mark.parametrize(
    ("addr", "matches"),
    [
        ("/ip4/1.2.3.4/tcp/1", True),
        ("/ip6/::1/tcp/1", True),
        ("/ip6zone/lo/ip6/fe80::1/tcp/1", True),
        ("/dns/example.com/tcp/1", True),
        ("/dns4/example.com/tcp/1", True),
        ("/dns6/example.com/tcp/1", True),
        ("/dnsaddr/example.com", False),
        ("/ip4/1.2.3.4", False),
        ("/ip4/1.2.3.4/udp/1", False),
        ("/ip4/1.2.3.4/tcp/1/ws", False),
        ("/unix/tmp/tcp", False),
        ("/memory/1", False),
    ],
)
def test_what_matches(addr: str, *, matches: bool) -> None:
    assert Tcp().matches(parse(addr)) is matches


async def test_options_of_sockets() -> None:
    tcp = Tcp()
    listener = await tcp.listen(ANY)
    assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    assert not listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    dialled = await tcp.dial(listener.addr)
    accepted, remote = await listener.accept()
    for stream in (dialled, accepted):
        assert stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert remote == dialled.local_addr
    assert accepted.local_addr == listener.addr
    dialled.close()
    with pytest.raises(trio.ClosedResourceError):
        await dialled.receive_some()
    assert await accepted.receive_some() == b""
    await accepted.aclose()
    await listener.aclose()


async def test_names_are_tried_in_order() -> None:
    listener = await Tcp().listen(ANY)
    port = str(listener.addr).rpartition("/")[2]
    found = [("::1", 0, 0, 0), ("127.0.0.1", 0)]
    tcp = Tcp(resolver=Resolver(look_up_host=lambda *_: found))
    stream = await tcp.dial(parse(f"/dns/two.example/tcp/{port}"))
    assert stream.socket.getpeername()[0] == "127.0.0.1"
    await stream.aclose()
    await listener.aclose()
    with pytest.raises(DialError) as caught:
        await tcp.dial(parse(f"/dns/two.example/tcp/{port}"))
    assert [str(addr) for addr in caught.value.causes] == [f"/ip6/::1/tcp/{port}", f"/ip4/127.0.0.1/tcp/{port}"]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_punching_comes_from_the_listen_port(family: socket.AddressFamily) -> None:
    if family is socket.AF_INET6 and not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    any_addr = ANY if family is socket.AF_INET else parse("/ip6/::1/tcp/0")
    ours, theirs = Tcp(), Tcp()
    target = await theirs.listen(any_addr)
    with pytest.raises(DialError, match="no port is listened on"):
        await ours.punch(target.addr)
    closed = await ours.listen(any_addr)
    await closed.aclose()
    listener = await ours.listen(any_addr)
    stream = await ours.punch(target.addr)
    accepted, remote = await target.accept()
    assert remote == listener.addr == stream.local_addr
    assert not listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
    with pytest.raises(ListenError, match="in use"):  # and a second node cannot take the port by mistake
        await Tcp().listen(listener.addr)
    for each in (stream, accepted, listener, target):
        await each.aclose()


@pytest.mark.parametrize("addr", ["/ip4/203.0.113.1/tcp/0", "/ip6zone/nonesuch/ip6/fe80::1/tcp/0"])
async def test_listening_where_one_cannot(addr: str) -> None:
    with pytest.raises(ListenError, match="^" + addr):
        await Tcp().listen(parse(addr))
    with pytest.raises(DialError, match=r"^/ip6zone/nonesuch"):
        await Tcp().dial(parse("/ip6zone/nonesuch/ip6/fe80::1/tcp/1"))


class AcceptErrors:
    """A listening socket that fails before it succeeds."""

    def __init__(self, sock: trio.socket.SocketType, *errors: int) -> None:
        self.sock = sock
        self.errors = list(errors)

    async def accept(self) -> object:
        if self.errors:
            number = self.errors.pop(0)
            raise OSError(number, "made up")
        return await self.sock.accept()

    def fileno(self) -> int:
        return self.sock.fileno()

    def close(self) -> None:
        self.sock.close()


async def failing(*errors: int) -> SocketListener:
    listener = await Tcp().listen(ANY)
    listener.socket = AcceptErrors(listener.socket, *errors)  # type: ignore[assignment]
    return listener


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED])
async def test_accept_errors_that_pass(number: int) -> None:
    listener = await failing(number)
    with pytest.raises(OSError, match="made up") as caught:
        await listener.accept()
    assert caught.value.errno == number
    stream = await Tcp().dial(listener.addr)
    accepted, _ = await listener.accept()
    stream.close()
    accepted.close()
    await listener.aclose()


async def test_accept_errors_of_the_newcomer_are_not_ours() -> None:
    listener = await failing(errno.EPROTO, errno.EHOSTUNREACH)
    stream = await Tcp().dial(listener.addr)
    accepted, _ = await listener.accept()
    stream.close()
    accepted.close()
    await listener.aclose()


async def test_a_socket_that_is_gone() -> None:
    listener = await failing(errno.EINVAL)
    with pytest.raises(ListenError, match="made up"):
        await listener.accept()
    await listener.aclose()


def test_socket_addresses_and_multiaddrs() -> None:
    index, name = socket.if_nameindex()[0]
    for text, sockaddr in [
        ("/ip4/1.2.3.4/tcp/5", ("1.2.3.4", 5)),
        ("/ip6/2001:db8::1/tcp/5", ("2001:db8::1", 5)),
        (f"/ip6zone/{name}/ip6/fe80::1/tcp/5", ("fe80::1", 5, 0, index)),
    ]:
        assert ip_and_port(parse(text))[1] == sockaddr
        assert tcp_addr(sockaddr) == parse(text)
    assert ip_and_port(parse("/ip6zone/7/ip6/fe80::1/tcp/5"))[1] == ("fe80::1", 5, 0, 7)
    assert ip_component("fe80::1%eth0", 0) == Multiaddr("/ip6/fe80::1")


def test_errors_name_the_address_and_the_reason() -> None:
    with pytest.raises(DialError, match=r"^/ip4/127.0.0.1/tcp/0: connection refused$"), os_errors_as(DialError, ANY):
        raise ConnectionRefusedError(errno.ECONNREFUSED, "whatever")
    with pytest.raises(DialError, match=r"^/ip4/127.0.0.1/tcp/0: all attempts failed$"), os_errors_as(DialError, ANY):
        raise OSError("all attempts failed")


def test_a_backlog_that_makes_no_sense() -> None:
    with pytest.raises(ConfigError):
        TcpConfig(backlog=0)


async def test_a_hole_may_be_entered_from_the_other_side() -> None:
    ours, theirs = Tcp(), Tcp()
    here, there = await ours.listen(ANY), await theirs.listen(ANY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.accept)
        with here.expecting(there.socket.getsockname()) as coming:
            stream = await theirs.punch(here.addr)
            sock = await coming.receive()
            assert sock.getpeername() == there.socket.getsockname()
            sock.close()
            assert await stream.receive_some() == b""
            await stream.aclose()
        nursery.cancel_scope.cancel()
    await here.aclose()
    await there.aclose()


async def test_who_came_through_a_hole_and_was_not_taken_is_closed() -> None:
    ours, theirs = Tcp(), Tcp()
    here, there = await ours.listen(ANY), await theirs.listen(ANY)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.accept)
        with here.expecting(there.socket.getsockname()) as coming:
            stream = await theirs.punch(here.addr)
            while not coming.statistics().current_buffer_used:  # noqa: ASYNC110 - the kernel hands it over
                await trio.sleep(0.001)
        assert await stream.receive_some() == b""
        await stream.aclose()
        nursery.cancel_scope.cancel()
    await here.aclose()
    await there.aclose()
