import subprocess
import sys
from ipaddress import ip_address

import pytest
from multiaddr import Multiaddr

from talos import addr as addrs
from talos.addr import decode, decode_known, decode_or_skip, parse
from talos.errors import ConfigError, MessageTooLarge, RemoteProtocolError
from talos.identity.peer_id import PeerId
from talos.wire import varint

ID = "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq"
HASHED = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"
PEER, OTHER = PeerId.parse(ID), PeerId.parse(HASHED)
RELAYED = f"/ip4/1.2.3.4/tcp/1/p2p/{HASHED}/p2p-circuit"
TCP = bytes.fromhex("047f000001060fa1")

# Bytes as the public protocol table gives them.
BYTES = {
    "/ip4/127.0.0.1/tcp/4001": "047f000001060fa1",
    "/ip6/::1/udp/1/quic-v1": "29" + "00" * 15 + "01" + "91020001" + "cd03",
    "/ip6zone/eth0/ip6/fe80::1/tcp/1": "2a0465746830" + "29fe80" + "00" * 13 + "01" + "060001",
    "/ip4/1.2.3.0/ipcidr/24": "04010203002b18",
    "/dns/example.com/tcp/443/tls/ws": "350b" + b"example.com".hex() + "0601bb" + "c003" + "dd03",
    "/dns4/a/tcp/1/wss": "360161060001de03",
    "/dns6/a/tcp/1/tls/sni/b": "370161060001c003c1030162",
    "/dnsaddr/a.b": "3803612e62",
    "/ip4/1.2.3.4/udp/1/webrtc-direct": "0401020304910200019802",
    "/ip4/1.2.3.4/tcp/1/http": "0401020304060001e003",
    "/ip4/1.2.3.4/tcp/1/https": "0401020304060001bb03",
    "/ip4/1.2.3.4/tcp/1/tls/http/http-path/a%2Fb": "0401020304060001c003e003e10303612f62",
    "/ip4/1.2.3.4/tcp/1/noise": "0401020304060001c603",
    "/ip4/1.2.3.4/udp/1/quic": "040102030491020001cc03",
    "/unix/tmp/s": "9003" + "05" + b"tmp/s".hex(),
    f"/p2p/{ID}": "a503" + "26" + PEER.to_bytes().hex(),
    f"/p2p/{HASHED}/p2p-circuit/p2p/{ID}": "a503"
    "22" + OTHER.to_bytes().hex() + "a202" + "a503" + "26" + PEER.to_bytes().hex(),
    "/onion3/vww6ybal4bd7szmgncyruucpgfkqahzddi37ktceo3ah7ngmcopnpyyd:1234": (
        "bd03adadec040be047f9658668b11a504f3155001f231a37f54c4476c07fb4cc139ed7e30304d2"
    ),
    "/ip4/1.2.3.4/udp/1/quic-v1/webtransport/certhash/uEiAkH5a4DPGKUuOBjYw0CgwjLa2R_RF71v86aVxlqdKNOQ": (
        "040102030491020001cd03d103d203221220241f96b80cf18a52e3818d8c340a0c232dad91fd117bd6ff3a695c65a9d28d39"
    ),
}


@pytest.mark.parametrize("text", BYTES)
def test_text_and_bytes_of_each_protocol(text: str) -> None:
    address = parse(text)
    assert address.to_bytes().hex() == BYTES[text]
    assert str(address) == text
    assert decode(bytes.fromhex(BYTES[text])) == address


@pytest.mark.parametrize("text", ["/memory/7", "/webrtc", "/garlic32/" + "a" * 51 + "q"])
def test_protocols_without_a_published_example(text: str) -> None:
    assert str(decode(parse(text).to_bytes())) == text


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (f"/ipfs/{ID}", f"/p2p/{ID}"),
        (
            f"/ip4/1.2.3.4/tcp/1/ipfs/{HASHED}/p2p-circuit/ipfs/{ID}",
            f"/ip4/1.2.3.4/tcp/1/p2p/{HASHED}/p2p-circuit/p2p/{ID}",
        ),
        (f"/p2p/{PEER.cid()}", f"/p2p/{ID}"),
        ("/ip4/1.2.3.4/tcp/0080/", "/ip4/1.2.3.4/tcp/80"),
        ("/ip6/0:0::1/tcp/1", "/ip6/::1/tcp/1"),
        ("/unix//tmp/s/", "/unix/tmp/s"),
        ("/unix/tmp/a b", "/unix/tmp/a%20b"),
        ("/dns4/tcp/tcp/1", "/dns4/tcp/tcp/1"),  # a host that is called like a protocol
    ],
)
def test_other_spellings(text: str, same: str) -> None:
    assert str(parse(text)) == same
    assert parse(same) == parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "/",
        "//",
        "/ip4",
        "/ip4/",
        "/foo",
        "/utp",  # known to the library, not to us
        "/ip4/1.2.3.4//tcp/1",
        "/ip4/1.2.3.4/tcp",
        "/ip4/1.2.3.4/tcp/65536",
        "/ip4/1.2.3.4/tcp/-1",
        "/ip4/1.2.3.4/tcp/+1",
        "/ip4/1.2.3.4/tcp/１",
        "/ip4/1.2.3.4/tcp/1_0",
        "/ip4/1.2.3.4/tcp/" + "9" * 4000,
        "/ip4/1.2.3/tcp/1",
        "/ip4/01.2.3.4/tcp/1",
        "/ip4/::1/tcp/1",
        "/ip6/1.2.3.4/tcp/1",
        "/ip6/fe80::1%eth0/tcp/1",
        "/ip6zone/a b/ip6/fe80::1",
        "/ip6zone/é/ip6/fe80::1",
        "/dns4/a b/tcp/1",
        "/dns4/a%2Fb/tcp/1",
        "/dns4/\x00/tcp/1",
        "/dns4/a\u202eb/tcp/1",
        "/dns4/\ud800/tcp/1",
        "/dns4/" + "a" * 254 + "/tcp/1",
        "/dns4/xn--a/tcp/1",
        "/tls/x",
        "/tls=1",
        "/ip4=1.2.3.4",
        "/p2p/x",
        f"/p2p/{ID}0",
        "/p2p/" + "1" * 500,
        "/unix",
        "/unix/",
        "/unix///",
        "/unix/%ff",
        "/unix/%00",
        "/unix/a\\b",
        "/unix/\ud800",
        "/certhash/x",
        "/certhash/u",
        "/onion3/x:1",
        "/garlic32/a",
        "/memory/x",
        "/memory/18446744073709551616",
        "/memory/" + "9" * 2000,
        "/http-path/%zz",
        "/unix/" + "a" * 1025,
        "/tls" * 17,
        "/" + "a" * 5000,
    ],
)
def test_other_texts_are_config_errors(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes.fromhex("047f0000"),  # ip4 cut: the library prints /ip4/0.127.0.0
        bytes.fromhex("84007f000001"),  # a code that is not minimal
        TCP + b"\x80",
        TCP + b"\x06",
        bytes.fromhex("047f00000106"),
        b"\x35",
        b"\x35\x00",  # an empty name
        b"\x35\x81\x00a",  # a length that is not minimal
        b"\x35\x05abc",
        b"\x35\xff\xff\xff\xff\xff\xff\xff\xff\x7fabc",
        b"\x35\x02\xff\xfe",  # not UTF-8
        b"\x35\x03a/b",
        b"\x35\x03a b",
        b"\x35\x03a\x1bb",
        b"\x2a\x01/",
        b"\x2a\x00",
        b"\x90\x03\x02/a",
        b"\x90\x03\x02a/",
        b"\x90\x03\x01\x00",
        b"\xa5\x03\x00",
        b"\xa5\x03\x22" + ID.encode()[:34],
        b"\xa5\x03\x26\x00\x24\x08\x01\x12\x20\x01" + bytes(31),  # a peer with an unsafe key
        b"\xd2\x03\x01x",  # a certhash that is no multihash
        b"\xff" * 12,
    ],
)
def test_malformed_bytes(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)
    with pytest.raises(RemoteProtocolError):
        decode_or_skip(data)


@pytest.mark.parametrize("code", [0, 5, 33, 132, 301, 302, 444, 479, 0x7FFF])
def test_unknown_protocols_are_skipped(code: int) -> None:
    data = TCP + varint.encode(code) + b"anything"
    assert decode_or_skip(data) is None
    with pytest.raises(RemoteProtocolError, match="not known"):
        decode(data)


def test_foreign_memory_address_is_no_fault() -> None:
    with_a_length = varint.encode(777) + b"\x01a"
    assert decode_or_skip(with_a_length) is None
    assert decode_or_skip(parse("/memory/5").to_bytes()) == parse("/memory/5")


def test_addresses_of_a_message() -> None:
    unknown = b"\xff\x01"
    assert decode_known([TCP, unknown, TCP], limit=10) == [decode(TCP)] * 2
    assert decode_known([unknown, TCP, b"malformed is not reached"], limit=2) == [decode(TCP)]
    with pytest.raises(RemoteProtocolError):
        decode_known([TCP, TCP[:-1]], limit=10)


def test_limits() -> None:
    assert len(addrs.components(decode(b"\xc0\x03" * 16))) == addrs.MAX_COMPONENTS
    with pytest.raises(RemoteProtocolError, match="16 components"):
        decode(b"\xc0\x03" * 17)
    longest = b"\x90\x03" + varint.encode(1020) + b"a" * 1020
    assert len(decode(longest).to_bytes()) == addrs.MAX_ADDR_BYTES
    with pytest.raises(MessageTooLarge):
        decode(longest + b"\xc0\x03")


def test_unix_path_before_a_peer_id() -> None:
    address = parse(f"/unix/tmp/a%20b/s/p2p/{ID}")
    assert addrs.split_peer(address) == (parse("/unix/tmp/a%20b/s"), PEER)
    assert addrs.path_of(address) == "/tmp/a b/s"
    assert parse(str(address)) == address
    assert addrs.path_of(parse("/unix/tmp/p2p/x")) == "/tmp/p2p/x"
    assert addrs.path_of(parse(f"/unix/p2p/{ID}")) == f"/p2p/{ID}"
    for text in ("/ip4/1.2.3.4/tcp/1", f"/p2p/{ID}"):
        with pytest.raises(ConfigError):
            addrs.path_of(parse(text))


def test_is_exactly() -> None:
    address = parse("/ip4/127.0.0.1/tcp/1")
    assert addrs.is_exactly(address, "ip4", "tcp")
    assert not addrs.is_exactly(address, "ip4")
    assert not addrs.is_exactly(address, "ip4", "tcp", "ws")
    assert not addrs.is_exactly(address, "ip6", "tcp")
    assert addrs.names_of(parse("/dns/a/tcp/1/tls/ws")) == ("dns", "tcp", "tls", "ws")
    assert addrs.components(address)[1] == ("tcp", b"\x00\x01")


def test_questions_of_an_address_that_the_library_made() -> None:
    assert addrs.is_exactly(Multiaddr("/ip4/127.0.0.1/tcp/1"), "ip4", "tcp")
    with pytest.raises(RemoteProtocolError):
        addrs.components(Multiaddr(b"\x04\x00"))
    with pytest.raises(RemoteProtocolError):
        addrs.components(Multiaddr("/utp"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/ip4/1.2.3.4/tcp/80/ws", ("1.2.3.4", 80)),
        ("/ip6/::1/udp/1/quic-v1", ("::1", 1)),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/2", ("fe80::1%eth0", 2)),
        ("/dns/a.b/tcp/1", ("a.b", 1)),
        ("/dns4/a/tcp/1", ("a", 1)),
        ("/dns6/a/tcp/1", ("a", 1)),
        ("/dnsaddr/a", None),
        ("/ip4/1.2.3.4", None),
        ("/ip4/1.2.3.4/tls", None),
        ("/tls/tcp/1", None),
        ("/memory/1", None),
        ("/ip6zone/a/ip4/1.2.3.4/tcp/1", None),
    ],
)
def test_host_port(text: str, expected: tuple[str, int] | None) -> None:
    if expected is not None:
        assert addrs.host_port(parse(text)) == expected
    else:
        with pytest.raises(ConfigError):
            addrs.host_port(parse(text))


def test_split_and_with_peer() -> None:
    bare = parse("/ip4/1.2.3.4/tcp/1")
    full = addrs.with_peer(bare, PEER)
    assert str(full) == f"/ip4/1.2.3.4/tcp/1/p2p/{ID}"
    assert addrs.split_peer(full) == (bare, PEER)
    assert addrs.split_peer(bare) == (bare, None)
    assert addrs.with_peer(full, PEER) == full
    with pytest.raises(ConfigError):
        addrs.with_peer(full, OTHER)
    alone = parse(f"/p2p/{ID}")
    rest, peer = addrs.split_peer(alone)
    assert (rest.to_bytes(), peer) == (b"", PEER)
    assert addrs.split_peer(rest) == (rest, None)
    assert addrs.with_peer(rest, PEER) == alone


def test_relayed() -> None:
    circuit = parse(RELAYED)
    assert addrs.is_relayed(circuit)
    assert not addrs.is_relayed(parse(f"/ip4/1.2.3.4/tcp/1/p2p/{ID}"))
    assert addrs.split_peer(circuit) == (circuit, None)
    assert addrs.split_peer(addrs.with_peer(circuit, PEER)) == (circuit, PEER)


@pytest.mark.parametrize(
    ("text", "reach"),
    [
        ("/ip4/127.0.0.1/tcp/1", "loopback"),
        ("/ip4/127.255.0.1/tcp/1", "loopback"),
        ("/ip6/::1/tcp/1", "loopback"),
        ("/ip6/::ffff:127.0.0.1/tcp/1", "loopback"),
        ("/ip4/10.1.2.3/tcp/1", "private"),
        ("/ip4/172.31.0.1/tcp/1", "private"),
        ("/ip4/192.168.0.1/tcp/1", "private"),
        ("/ip4/169.254.0.1/tcp/1", "private"),
        ("/ip4/100.64.0.1/tcp/1", "private"),
        ("/ip6/fd00::1/tcp/1", "private"),
        ("/ip6/fe80::1/tcp/1", "private"),
        ("/ip6zone/eth0/ip6/fe80::1/tcp/1", "private"),
        ("/ip6/::ffff:10.0.0.1/tcp/1", "private"),
        ("/ip4/1.2.3.4/tcp/1", "public"),
        ("/ip4/172.32.0.1/tcp/1", "public"),
        ("/ip6/2a00::1/tcp/1", "public"),
        (RELAYED, "public"),
        ("/dns4/example.com/tcp/1", "public"),
        ("/dnsaddr/bootstrap.libp2p.io", "public"),
        ("/ip4/0.0.0.0/tcp/1", "none"),
        ("/ip4/224.0.0.1/tcp/1", "none"),
        ("/ip4/255.255.255.255/tcp/1", "none"),
        ("/ip6/::/tcp/1", "none"),
        ("/ip6/ff0e::1/tcp/1", "none"),
        ("/dns/localhost/tcp/1", "none"),
        ("/dns/LOCALHOST./tcp/1", "none"),
        ("/dns4/printer.local/tcp/1", "none"),
        ("/dns4/db.internal/tcp/1", "none"),
        ("/memory/1", "none"),
        ("/unix/tmp/s", "none"),
        (f"/p2p/{ID}", "none"),
    ],
)
def test_reach(text: str, reach: str) -> None:
    address = parse(text)
    found = {
        "loopback": addrs.is_loopback(address),
        "private": addrs.is_private(address),
        "public": addrs.is_public(address),
    }
    assert [name for name, answer in found.items() if answer] == ([] if reach == "none" else [reach])


def test_empty_address_leads_nowhere() -> None:
    nothing = Multiaddr(b"")
    assert addrs.ip_of(nothing) is None
    assert not addrs.is_public(nothing)


@pytest.mark.parametrize(
    ("address", "group", "blocks"),
    [
        ("1.2.3.4", (4, 16, 0x0102), ((4, 32, 0x01020304),)),
        ("12.2.3.4", (4, 8, 12), ((4, 32, 0x0C020304),)),
        ("73.0.0.1", (4, 8, 73), ((4, 32, 0x49000001),)),
        ("2001:db8:1:2345::1", (6, 32, 0x20010DB8), ((6, 56, 0x20010DB8000123), (6, 48, 0x20010DB80001))),
    ],
)
def test_groups(address: str, group: addrs.IpBlock, blocks: tuple[addrs.IpBlock, ...]) -> None:
    assert addrs.ip_group(ip_address(address)) == group
    assert addrs.limit_blocks(ip_address(address)) == blocks


def test_neighbours_share_a_group() -> None:
    assert addrs.ip_group(ip_address("1.2.3.4")) == addrs.ip_group(ip_address("1.2.200.1"))
    assert addrs.ip_group(ip_address("1.2.3.4")) != addrs.ip_group(ip_address("1.3.3.4"))
    assert addrs.ip_group(ip_address("17.1.1.1")) == addrs.ip_group(ip_address("17.200.1.1"))
    assert addrs.ip_of(parse("/ip6/::ffff:1.2.3.4/tcp/1")) == ip_address("1.2.3.4")


def test_import_loads_no_resolver_and_no_trio() -> None:
    program = (
        "import sys, talos.addr; print(sorted({'trio', 'dns', 'cid', 'netaddr', 'cryptography'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_no_address_in_a_list_says_nothing_against_the_others() -> None:
    good, unknown = parse("/ip4/192.0.2.1/tcp/1"), b"\xff\x7f"
    items = [good.to_bytes(), b"\x04\x01", unknown, good.to_bytes()]
    assert list(addrs.decode_each(items)) == [good, good]
    assert list(addrs.decode_each(items, limit=3)) == [good]


@pytest.mark.parametrize(
    ("addr", "ip", "moved"),
    [
        ("/ip4/10.0.0.1/tcp/9", "192.0.2.7", "/ip4/192.0.2.7/tcp/9"),
        ("/ip6/::1/udp/9/quic-v1", "2001:db8::7", "/ip6/2001:db8::7/udp/9/quic-v1"),
        ("/ip4/10.0.0.1/tcp/9", "2001:db8::7", None),
        ("/dns4/a.example/tcp/9", "192.0.2.7", None),
        ("/unix/tmp%2fs", "192.0.2.7", None),
    ],
)
def test_a_port_at_another_ip_address(addr: str, ip: str, moved: str | None) -> None:
    found = addrs.at_ip(parse(addr), ip_address(ip))
    assert (None if found is None else str(found)) == moved
