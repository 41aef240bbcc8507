"""mDNS on real sockets of the loopback interface, and what interfaces and networks do to it."""
# ruff: noqa: SIM117 - nodes outside, services inside

from __future__ import annotations

import errno
import socket
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_network
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.abc import AddressesChanged, PeerConnected, ServiceFault
from talos.addr import parse, split_peer
from talos.host import presets
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mdns import MdnsConfig, PeerFound, interface, open_mdns, service_name
from talos.mdns.machine import Link
from talos.mdns.wire import encode_query
from tests.unit.mdns.test_machine import announcement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from talos.abc import Event
    from tests.conftest import OpenNodes

LOOPBACK = ("127.0.0.1", 0)
QUICK: dict[str, Any] = {"first_queries_seconds": (0.0, 0.05, 0.2, 0.5, 1.0), "query_seconds": 2.0}
LISTENING = presets.testing(listen="/ip4/127.0.0.1/tcp/0")


@pytest.fixture
def loopback() -> str:
    """The loopback interface's name, where multicast goes through it."""
    name = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
    config = MdnsConfig(interfaces=(name,), port=_free_port())
    (link,) = interface.links(config)
    opened = interface.open_sockets(link, config)
    with ExitStack() as stack:
        for sock, _ in opened:
            stack.enter_context(sock)
        for sock, group in opened:
            if sock.family == socket.AF_INET:
                sock.settimeout(1.0)
                try:
                    sock.sendto(b"anybody?", group)
                    assert sock.recv(100) == b"anybody?"
                except OSError as error:
                    pytest.skip(f"no multicast over {name} here: {error}")
                return name
    pytest.skip(f"no multicast socket on {name}")


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(LOOPBACK)
        port: int = sock.getsockname()[1]
        return port


async def until(condition: Callable[[], object], seconds: float = 9.0) -> None:
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - packets of another task, over a real socket
            await trio.sleep(0.01)


async def test_two_nodes_on_one_machine_find_and_dial_each_other(loopback: str, open_nodes: OpenNodes) -> None:
    config = MdnsConfig(interfaces=(loopback,), port=_free_port(), **QUICK)
    async with open_nodes(LISTENING, LISTENING) as (one, two):
        events: list[Event] = []
        with one.observe(events.append):
            async with open_mdns(one, config) as near_one:
                async with open_mdns(two, config) as near_two:
                    await until(lambda: two.peer_id in near_one.peers and one.peer_id in near_two.peers)
                    await until(lambda: any(isinstance(event, PeerConnected) for event in events))
                    assert near_one.peers[two.peer_id] == tuple(split_peer(addr)[0] for addr in two.addrs)
                    assert near_one.links == (loopback,)
                    assert set(near_one.peers[two.peer_id]) <= set(one.peerstore.addrs(two.peer_id))
                await until(lambda: two.peer_id not in near_one.peers)  # it has said goodbye
        assert [event.peer for event in events if isinstance(event, PeerFound)] == [two.peer_id]


async def test_private_networks_do_not_see_each_other(loopback: str, open_nodes: OpenNodes) -> None:
    port = _free_port()
    public = MdnsConfig(interfaces=(loopback,), port=port, connect=False, **QUICK)
    private = replace(public, service=service_name(b"k" * 32))
    async with open_nodes(LISTENING, LISTENING, LISTENING, LISTENING) as nodes:
        one, two, three, four = nodes
        async with (
            open_mdns(one, public) as near,
            open_mdns(two, private) as private_near,
            open_mdns(three, public),
            open_mdns(four, private),
        ):
            await until(lambda: three.peer_id in near.peers and four.peer_id in private_near.peers)
            assert set(near.peers) == {three.peer_id}
            assert set(private_near.peers) == {four.peer_id}


async def test_zeroconf_and_a_node_find_each_other(loopback: str, open_nodes: OpenNodes) -> None:
    """Another implementation, with its threads and its compressed names, on mDNS's own port."""
    zeroconf = pytest.importorskip("zeroconf")
    stranger = PeerId.from_key(PrivateKey.generate().public_key)
    text = f"dnsaddr=/ip4/127.0.0.1/tcp/9/p2p/{stranger}".encode()
    config = MdnsConfig(interfaces=(loopback,), connect=False, **QUICK)
    names: list[str] = []

    def seen(*, name: str, **_: object) -> None:
        names.append(name)

    zc = zeroconf.Zeroconf(interfaces=["127.0.0.1"])
    try:
        info = zeroconf.ServiceInfo(
            "_p2p._udp.local.",
            "stranger._p2p._udp.local.",
            addresses=[socket.inet_aton("127.0.0.1")],
            port=9,
            properties=bytes((len(text),)) + text,
            server="stranger.local.",
        )
        await trio.to_thread.run_sync(lambda: zc.register_service(info, allow_name_change=False))
        async with open_nodes(LISTENING) as (node,):
            async with open_mdns(node, config) as near:
                await until(lambda: near.peers.get(stranger) == (parse("/ip4/127.0.0.1/tcp/9"),))
                browser = zeroconf.ServiceBrowser(zc, "_p2p._udp.local.", handlers=[seen])
                await until(lambda: any(name != info.name for name in names))
                name = next(name for name in names if name != info.name)
                told = await trio.to_thread.run_sync(lambda: zc.get_service_info("_p2p._udp.local.", name, 3000))
                assert told is not None
                assert f"dnsaddr={node.addrs[0]}".encode() in told.text
                await trio.to_thread.run_sync(browser.cancel)
    finally:
        await trio.to_thread.run_sync(zc.close)


# ------------------------------------------------------------------------------------- with sockets of our own


class Net:
    """What interfaces there are, and the far end of the only socket."""

    LINK = Link("lo", 1, (ip_network("127.0.0.0/8"),), "127.0.0.1")

    def __init__(self) -> None:
        self.links = [self.LINK]
        self.opened = 0
        self.far = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.far.bind(LOOPBACK)
        self.far.settimeout(3.0)
        self.near: list[socket.socket] = []

    @property
    def config(self) -> MdnsConfig:
        return MdnsConfig(port=self.far.getsockname()[1], connect=False, rescan_seconds=0.05)

    def open_sockets(self, link: Link, config: MdnsConfig) -> list[tuple[socket.socket, tuple[str, int]]]:
        self.opened += 1
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind(LOOPBACK)
        self.near.append(sock)
        return [(sock, self.far.getsockname())]

    def send(self, data: bytes) -> None:
        self.far.sendto(data, self.near[-1].getsockname())

    async def receive(self) -> bytes:
        data: bytes = await trio.to_thread.run_sync(self.far.recv, 9000)
        return data


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    made = Net()
    monkeypatch.setattr(interface, "links", lambda config: list(made.links))
    monkeypatch.setattr(interface, "open_sockets", made.open_sockets)
    yield made
    made.far.close()


OTHER = PeerId.from_key(PrivateKey.from_seed(b"2" * 32).public_key)


async def test_it_asks_at_once_answers_and_counts_what_it_ignores(net: Net, open_nodes: OpenNodes) -> None:
    async with open_nodes(LISTENING) as (node,):
        async with open_mdns(node, net.config) as near:
            assert await net.receive() == encode_query("_p2p._udp.local")
            net.send(b"garbage")
            net.send(announcement("/ip4/127.0.0.1/tcp/9", who=OTHER))
            await until(lambda: OTHER in near.peers)
            assert near.ignored == 1
            net.send(encode_query("_p2p._udp.local"))
            assert str(node.peer_id).encode() in await net.receive()
        assert b"_p2p" in await net.receive()  # goodbye


async def test_it_asks_again_and_again_while_the_link_stays(net: Net, open_nodes: OpenNodes) -> None:
    async with open_nodes(LISTENING) as (node,):
        async with open_mdns(node, replace(net.config, first_queries_seconds=(), query_seconds=0.06)) as near:
            for _ in range(3):
                assert await net.receive() == encode_query("_p2p._udp.local")
            assert net.opened == 1
            assert near.links == ("lo",)


async def test_new_addresses_are_told(net: Net, open_nodes: OpenNodes) -> None:
    async with open_nodes(presets.testing()) as (node,):
        async with open_mdns(node, net.config):
            await net.receive()
            node.emit(AddressesChanged((parse("/ip4/127.0.0.1/tcp/77"),)))
            net.send(encode_query("_p2p._udp.local"))
            assert b"/ip4/127.0.0.1/tcp/77/p2p/" in await net.receive()
            node.emit(PeerFound(OTHER, ()))


async def test_interfaces_come_and_go(net: Net, open_nodes: OpenNodes) -> None:
    net.links = []
    async with open_nodes(LISTENING) as (node,):
        async with open_mdns(node, net.config) as near:
            assert near.links == ()
            net.links = [net.LINK]
            await until(lambda: near.links == ("lo",))
            net.links = []
            await until(lambda: near.links == ())
            net.links = [net.LINK]
            await until(lambda: net.opened == 2)


async def test_a_socket_that_fails_is_opened_again(net: Net, open_nodes: OpenNodes) -> None:
    events: list[Event] = []
    async with open_nodes(LISTENING) as (node,):
        with node.observe(events.append):
            async with open_mdns(node, net.config) as near:
                (talk,) = near._talks

                async def broken(size: int) -> Any:
                    raise OSError(errno.ENETDOWN, "network is down")

                talk.sock = SimpleNamespace(recvfrom=broken, sendto=talk.sock.sendto, close=talk.sock.close)  # type: ignore[assignment]
                net.send(b"wakes it up")
                await until(lambda: net.opened == 2)
                assert any(isinstance(event, ServiceFault) and event.owner == "mdns" for event in events)


async def test_what_cannot_be_sent_is_left(net: Net, open_nodes: OpenNodes) -> None:
    async with open_nodes(LISTENING) as (node,):
        async with open_mdns(node, net.config) as near:
            (talk,) = near._talks
            talk.group = ("255.255.255.255", 9)  # not allowed without asking
            net.send(encode_query("_p2p._udp.local"))
            net.send(announcement("/ip4/127.0.0.1/tcp/9", who=OTHER))
            await until(lambda: OTHER in near.peers)


async def test_a_link_without_sockets_is_tried_again(
    net: Net, open_nodes: OpenNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []

    def none(link: Link, config: MdnsConfig) -> list[socket.socket]:
        tries.append(link)
        return []

    monkeypatch.setattr(interface, "open_sockets", none)
    async with open_nodes(LISTENING) as (node,):
        async with open_mdns(node, net.config) as near:
            await until(lambda: len(tries) > 2)
            assert near.links == ()


async def test_a_dial_that_fails_is_counted(net: Net, open_nodes: OpenNodes) -> None:
    async with open_nodes(LISTENING) as (node,):
        async with open_mdns(node, replace(net.config, connect=True)) as near:
            net.send(announcement("/ip4/127.0.0.1/tcp/1", who=OTHER))
            await until(lambda: near.failed["DialError"])
            net.send(announcement("/ip4/127.0.0.1/tcp/1", who=OTHER))  # no news
            net.send(b"garbage")
            await until(lambda: near.ignored)
            assert near.failed["DialError"] == 1


# ------------------------------------------------------------------------------------- interfaces


def test_chosen_interfaces_and_those_that_are_up(monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    def entry(family: int, address: str, netmask: str | None) -> SimpleNamespace:
        return SimpleNamespace(family=family, address=address, netmask=netmask)

    up, down = SimpleNamespace(isup=True), SimpleNamespace(isup=False)
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"a": up, "lo": up, "b": down, "bare": up})
    addrs = {
        "a": [
            entry(socket.AF_INET, "192.168.1.5", "255.255.255.0"),
            entry(socket.AF_INET6, "fe80::1%a", "ffff:ffff:ffff:ffff::"),
            entry(socket.AF_INET6, "fd00::1", None),
            entry(socket.AF_INET, "10.0.0.1", None),
            entry(-1, "02:00:00:00:00:00", None),
        ],
        "lo": [entry(socket.AF_INET, "127.0.0.1", "255.0.0.0")],
    }
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: addrs)
    monkeypatch.setattr(socket, "if_nametoindex", lambda name: 7)
    lan = Link("a", 7, (ip_network("192.168.1.0/24"), ip_network("fe80::/64")), "192.168.1.5")
    assert interface.links(MdnsConfig()) == [lan]
    (chosen,) = interface.links(MdnsConfig(interfaces=("lo", "b")))
    assert chosen == Link("lo", 7, (ip_network("127.0.0.0/8"),), "127.0.0.1")


def test_sockets_that_cannot_be_had_are_left_out() -> None:
    nowhere = Link("nowhere", 65_000, (ip_network("127.0.0.0/8"), ip_network("::1/128")), "127.0.0.1")
    assert interface.open_sockets(nowhere, MdnsConfig(port=_free_port())) == []
