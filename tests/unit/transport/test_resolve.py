"""Names: what is replaced, in which order, and where it stops."""

from __future__ import annotations

import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from talos.addr import parse
from talos.errors import ConfigError, DialError, NotSupported
from talos.transport.resolve import Resolver, ResolverConfig, needs_resolving

if TYPE_CHECKING:
    from collections.abc import Sequence

PEER = "/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"
OTHER = "/p2p/12D3KooWPjceQrSwdWXPyLLeABRXmuqt69Rg3sBYbU1Nft9HyQ6X"
V4 = ("192.0.2.1", 0)
V6 = ("2001:db8::1", 0, 0, 0)


class Names:
    """Name servers of a test."""

    def __init__(
        self, hosts: dict[str, list[tuple[Any, ...]]] | None = None, texts: dict[str, list[str]] | None = None
    ):
        self.hosts = hosts or {}
        self.texts = texts or {}
        self.asked: list[tuple[str, int]] = []

    def look_up_host(self, name: str, family: int) -> Sequence[tuple[Any, ...]]:
        self.asked.append((name, family))
        if name not in self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        wanted = {socket.AF_UNSPEC: (2, 4), socket.AF_INET: (2,), socket.AF_INET6: (4,)}[socket.AddressFamily(family)]
        return [sockaddr for sockaddr in self.hosts[name] if len(sockaddr) in wanted]

    def look_up_text(self, name: str, timeout_seconds: float) -> Sequence[str]:
        self.asked.append((name, 0))
        if name not in self.texts:
            raise OSError("the DNS query name does not exist")
        return self.texts[name]

    async def resolve(self, text: str, **limits: Any) -> list[str]:
        resolver = Resolver(ResolverConfig(**limits), look_up_host=self.look_up_host, look_up_text=self.look_up_text)
        return [str(addr) for addr in await resolver.resolve(parse(text))]


async def test_an_address_without_a_name_is_itself() -> None:
    names = Names()
    for text in ("/ip4/192.0.2.1/tcp/1", f"/ip6/::1/tcp/1{PEER}", "/memory/1", "/unix/dns4/x"):
        assert not needs_resolving(parse(text))
        assert await names.resolve(text) == [text]
    assert names.asked == []


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("dns", ["/ip6/2001:db8::1", "/ip4/192.0.2.1"]), ("dns4", ["/ip4/192.0.2.1"]), ("dns6", ["/ip6/2001:db8::1"])],
)
async def test_the_name_alone_is_replaced_ipv6_first(kind: str, expected: list[str]) -> None:
    names = Names({"example.com": [V4, V6, V4]})
    for tail in ("", "/tcp/4001", f"/tcp/443/wss{PEER}/p2p-circuit{OTHER}"):
        assert needs_resolving(parse(f"/{kind}/example.com{tail}"))
        assert await names.resolve(f"/{kind}/example.com{tail}") == [found + tail for found in expected]


async def test_scoped_results_keep_their_zone() -> None:
    index, name = socket.if_nameindex()[0]
    names = Names({"neighbour.local": [("fe80::1%" + name, 0, 0, index), ("fe80::2", 0, 0, 4_000_000)]})
    assert await names.resolve("/dns6/neighbour.local/tcp/1") == [
        f"/ip6zone/{name}/ip6/fe80::1/tcp/1",
        "/ip6zone/4000000/ip6/fe80::2/tcp/1",
    ]


async def test_unknown_names() -> None:
    with pytest.raises(DialError, match=r"cannot resolve /dns4/nowhere\.invalid/tcp/1: .*not known"):
        await Names().resolve("/dns4/nowhere.invalid/tcp/1")
    with pytest.raises(DialError, match="no address"):
        await Names({"empty.example": []}).resolve("/dns4/empty.example/tcp/1")
    with pytest.raises(DialError, match="does not exist"):
        await Names().resolve("/dnsaddr/nowhere.invalid")


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "a" * 300, "a b"])
async def test_entries_with_names_that_are_none(name: str) -> None:
    resolver = Resolver(look_up_text=lambda *_: [f"dnsaddr=/dns4/{name}/tcp/1"])
    with pytest.raises(DialError, match=r"cannot resolve /dnsaddr/x\.example"):
        await resolver.resolve(parse("/dnsaddr/x.example"))


async def test_dnsaddr() -> None:
    names = Names(
        {"host.example": [V4]},
        {
            "_dnsaddr.boot.example": [
                f"dnsaddr=/ip4/192.0.2.7/tcp/4001{PEER}",
                f"dnsaddr=/dns4/host.example/tcp/4001{PEER}",
                f"dnsaddr=/dnsaddr/more.example{PEER}",
                f"dnsaddr=/ip4/192.0.2.8/tcp/4001{OTHER}",
                "v=spf1 -all",
                "dnsaddr=/not/an/address" + PEER,
            ],
            "_dnsaddr.more.example": [f"dnsaddr=/ip6/::1/tcp/1{PEER}", f"dnsaddr=/ip6/::1/tcp/2{OTHER}"],
        },
    )
    theirs = [f"/ip4/192.0.2.7/tcp/4001{PEER}", f"/ip4/192.0.2.1/tcp/4001{PEER}", f"/ip6/::1/tcp/1{PEER}"]
    assert await names.resolve(f"/dnsaddr/boot.example{PEER}") == theirs
    assert await names.resolve("/dnsaddr/boot.example") == [*theirs, f"/ip4/192.0.2.8/tcp/4001{OTHER}"]


async def test_endless_recursion_ends() -> None:
    names = Names(texts={f"_dnsaddr.{n}.example": [f"dnsaddr=/dnsaddr/{n + 1}.example"] for n in range(50)})
    with pytest.raises(DialError, match="too many names"):
        await names.resolve("/dnsaddr/0.example")
    assert len(names.asked) == 1 + 4
    names = Names(texts={"_dnsaddr.x.example": ["dnsaddr=/dnsaddr/x.example"] * 50})
    with pytest.raises(DialError, match="too many names"):
        await names.resolve("/dnsaddr/x.example")
    assert len(names.asked) == 16


async def test_results_are_cut() -> None:
    many = [f"dnsaddr=/ip4/192.0.2.{n}/tcp/1" for n in range(200)]
    names = Names({"h.example": [(f"192.0.2.{n}", 0) for n in range(200)]}, {"_dnsaddr.x.example": many})
    assert len(await names.resolve("/dnsaddr/x.example")) == 100
    assert len(await names.resolve("/dns4/h.example/tcp/1")) == 100
    assert len(await names.resolve("/dnsaddr/x.example", max_results=3)) == 3


async def test_a_name_server_that_does_not_answer() -> None:
    asked, answer = threading.Event(), threading.Event()

    def hang(name: str, family: int) -> Sequence[tuple[Any, ...]]:
        asked.set()
        answer.wait()
        return [V4]

    resolver = Resolver(ResolverConfig(timeout_seconds=0.05, threads=1), look_up_host=hang)
    try:
        for _ in range(2):  # the second one does not even get a thread
            with pytest.raises(DialError, match="time is up"):
                await resolver.resolve(parse("/dns4/slow.example/tcp/1"))
        assert asked.is_set()
    finally:
        answer.set()


async def test_without_dnspython(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("dns", "dns.exception", "dns.resolver"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(NotSupported, match="dnspython"):
        await Resolver().resolve(parse("/dnsaddr/bootstrap.example"))


async def test_txt_records_as_dnspython_gives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import dns.exception
    import dns.resolver

    class Record:
        strings = (b"dnsaddr=/ip4/192.0.2.1", b"/tcp/4001")

    def answer(name: str, kind: str, lifetime: float) -> list[Record]:
        assert (name, kind, lifetime) == ("_dnsaddr.boot.example", "TXT", 5.0)
        return [Record()]

    monkeypatch.setattr(dns.resolver, "resolve", answer)
    assert [str(each) for each in await Resolver().resolve(parse("/dnsaddr/boot.example"))] == [
        "/ip4/192.0.2.1/tcp/4001"
    ]

    def fail(name: str, kind: str, lifetime: float) -> list[Record]:
        raise dns.exception.Timeout

    monkeypatch.setattr(dns.resolver, "resolve", fail)
    with pytest.raises(DialError):
        await Resolver().resolve(parse("/dnsaddr/boot.example"))


async def test_the_system_resolver() -> None:
    assert "/ip4/127.0.0.1/tcp/1" in [str(each) for each in await Resolver().resolve(parse("/dns4/localhost/tcp/1"))]


async def test_cancelling() -> None:
    with trio.CancelScope() as scope:
        scope.cancel()
        await Resolver(look_up_host=lambda *_: [V4]).resolve(parse("/dns4/x.example/tcp/1"))
    assert scope.cancelled_caught


@pytest.mark.parametrize(
    "limits", [{"threads": 0}, {"timeout_seconds": 0}, {"max_results": 0}, {"max_names": 0}, {"max_depth": 0}]
)
def test_limits_that_make_no_sense(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        ResolverConfig(**limits)
