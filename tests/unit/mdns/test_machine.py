"""One link's conversation: what is told, what is believed, and packets as others make them."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import ip_network

import dns.flags
import dns.message
import dns.rrset
import pytest

from talos.addr import parse
from talos.errors import ConfigError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mdns.config import META_SERVICE, PUBLIC_SERVICE, MdnsConfig, service_name
from talos.mdns.machine import Found, Link, MdnsMachine, Neighbourhood, Reply
from talos.mdns.wire import encode_query


def peer(number: int) -> PeerId:
    return PeerId.from_key(PrivateKey.from_seed(bytes((number,)) * 32).public_key)


OWN, OTHER = peer(1), peer(2)
LAN = Link("eth0", 2, (ip_network("192.168.1.0/24"), ip_network("fd00:1::/64"), ip_network("fe80::/64")))
THERE = ("192.168.1.7", 5353)
HERE = parse("/ip4/192.168.1.5/tcp/4001")
NAME = "a" * 32
INSTANCE = f"{NAME}.{PUBLIC_SERVICE}"


def machine(**changes: int) -> MdnsMachine:
    made = MdnsMachine(OWN, NAME, LAN, MdnsConfig(**changes))  # type: ignore[arg-type]
    made.announce([HERE])
    return made


def ask(name: str = PUBLIC_SERVICE, kind: str = "PTR", number: int = 0) -> bytes:
    query = dns.message.make_query(name + ".", kind)
    query.id, query.flags = number, dns.flags.Flag(0)
    return query.to_wire()


def told(*records: tuple[str, str, str], ttl: int = 120, additional: int = 99) -> bytes:
    """An answer of (name, type, text) records; those from `additional` on stand in that section."""
    message = dns.message.Message(id=0)
    message.flags = dns.flags.QR | dns.flags.AA
    for number, (name, kind, text) in enumerate(records):
        section = message.additional if number >= additional else message.answer
        section.append(dns.rrset.from_text(name + ".", ttl, "IN", kind, text))
    return message.to_wire()


def announcement(*addrs: str, name: str = "somebody", who: PeerId = OTHER, ttl: int = 120) -> bytes:
    instance = f"{name}.{PUBLIC_SERVICE}"
    text = " ".join(f'"dnsaddr={addr}/p2p/{who}"' for addr in addrs)
    return told((PUBLIC_SERVICE, "PTR", instance + "."), (instance, "TXT", text), ttl=ttl, additional=1)


def reply(effects: list[object]) -> dns.message.Message:
    (effect,) = effects
    assert isinstance(effect, Reply)
    return dns.message.from_wire(effect.data)


# ------------------------------------------------------------------------------------------------- telling


def test_a_query_is_answered_with_the_name_and_beside_it_the_addresses() -> None:
    answer = reply(list(machine().receive(encode_query(PUBLIC_SERVICE), THERE, 0.0)))
    assert answer.id == 0
    assert answer.flags == dns.flags.QR | dns.flags.AA
    assert [rrset.to_text() for rrset in answer.answer] == [f"{PUBLIC_SERVICE}. 120 IN PTR {INSTANCE}."]
    text, server, host = answer.additional
    assert text.to_text() == f'{INSTANCE}. 120 IN TXT "dnsaddr={HERE}/p2p/{OWN}"'
    assert server.to_text() == f"{INSTANCE}. 120 IN SRV 0 0 4001 {NAME}.local."
    assert host.to_text() == f"{NAME}.local. 120 IN A 192.168.1.5"
    assert str(OWN) not in INSTANCE


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        (INSTANCE, "TXT", ["TXT"]),
        (INSTANCE, "SRV", ["SRV"]),
        (INSTANCE, "ANY", ["TXT", "SRV"]),
        (f"{NAME}.local", "A", ["A"]),
        (INSTANCE.upper(), "TXT", ["TXT"]),
        (META_SERVICE, "PTR", ["PTR"]),
        (PUBLIC_SERVICE, "ANY", ["PTR"]),
    ],
)
def test_names_are_answered_directly(name: str, kind: str, expected: list[str]) -> None:
    answer = reply(list(machine().receive(ask(name, kind), THERE, 0.0)))
    assert [dns.rdatatype.to_text(rrset.rdtype) for rrset in answer.answer] == expected


@pytest.mark.parametrize(
    ("name", "kind"),
    [(f"{NAME}.local", "AAAA"), ("_other._udp.local", "PTR"), (f"b.{PUBLIC_SERVICE}", "TXT"), (PUBLIC_SERVICE, "MX")],
)
def test_what_is_not_ours_is_not_answered(name: str, kind: str) -> None:
    assert machine().receive(ask(name, kind), THERE, 0.0) == []


def test_an_ipv6_address_has_its_record() -> None:
    talk = machine()
    talk.announce([parse("/ip6/fd00:1::5/tcp/4001")])
    answer = reply(list(talk.receive(ask(f"{NAME}.local", "AAAA"), THERE, 0.0)))
    assert answer.answer[0].to_text() == f"{NAME}.local. 120 IN AAAA fd00:1::5"


def test_only_what_can_be_dialled_over_the_link_is_told() -> None:
    talk = machine(max_addrs=2)
    others = [
        parse("/ip4/127.0.0.1/tcp/1"),
        parse("/ip4/192.168.2.5/tcp/1"),
        parse("/ip4/5.6.7.8/tcp/1"),
        parse("/dns4/a.local/tcp/1"),
        parse("/ip6/fe80::1/tcp/1"),
        parse(f"/ip4/192.168.1.9/tcp/1/p2p/{OTHER}/p2p-circuit"),
        parse("/ip4/192.168.1.5/tcp/1/tls/sni/" + "a" * 63 + "." + "b" * 63 + "." + "c" * 60 + "/ws"),
    ]
    talk.announce(others)
    assert talk.receive(ask(), THERE, 0.0) == [], "nothing to tell"
    assert talk.goodbye() is None
    talk.announce([*others, HERE, parse("/ip4/192.168.1.5/udp/4001"), parse("/ip4/192.168.1.5/tcp/4003")])
    answer = reply(list(talk.receive(ask(), THERE, 0.0)))
    assert len(answer.additional[0][0].strings) == 2


def test_everybody_is_answered_once_a_second_at_most() -> None:
    talk = machine()
    assert talk.receive(ask(), THERE, 10.0)
    assert talk.receive(ask(), ("192.168.1.8", 5353), 10.9) == []
    assert talk.receive(ask(INSTANCE, "TXT"), THERE, 10.9), "another question"
    assert talk.receive(ask(), THERE, 11.0)


def test_what_was_answered_is_kept_for_our_own_names_only() -> None:
    talk = machine()
    query = dns.message.make_query(PUBLIC_SERVICE + ".", "PTR")
    query.flags = dns.flags.Flag(0)
    for number in range(15):
        query.question.append(
            dns.rrset.RRset(dns.name.from_text(f"x{number}.local."), dns.rdataclass.IN, dns.rdatatype.A)
        )
    assert talk.receive(query.to_wire(), THERE, 0.0)
    assert len(talk._answered) == 1


def test_who_knows_the_answer_is_not_told() -> None:
    query = dns.message.make_query(PUBLIC_SERVICE + ".", "PTR")
    query.flags = dns.flags.Flag(0)
    query.answer.append(dns.rrset.from_text(PUBLIC_SERVICE + ".", 60, "IN", "PTR", INSTANCE + "."))
    assert machine().receive(query.to_wire(), THERE, 0.0) == []
    query.answer[0].ttl = 59
    assert machine().receive(query.to_wire(), THERE, 0.0)


def test_a_plain_dns_program_is_answered_alone_and_rarely() -> None:
    talk = machine(direct_answers_per_second=2)
    asker = ("192.168.1.9", 40000)
    first, second, third = (talk.receive(ask(number=77), asker, now) for now in (5.0, 5.5, 5.9))
    assert isinstance(first[0], Reply)
    assert first[0].to == asker
    answer = dns.message.from_wire(first[0].data)
    assert answer.id == 77
    assert answer.question[0].name.to_text() == PUBLIC_SERVICE + "."
    assert answer.answer[0].ttl == 10
    assert second
    assert third == []
    assert talk.receive(ask(), asker, 6.0)
    assert talk.receive(ask("other.local"), asker, 6.0) == []


def test_addresses_that_do_not_fit_the_message_are_left_out() -> None:
    talk = machine(max_message_bytes=700)
    talk.announce([parse(f"/ip4/192.168.1.{n}/tcp/4001") for n in range(1, 16)])
    (effect,) = talk.receive(ask(INSTANCE, "TXT"), THERE, 0.0)
    assert isinstance(effect, Reply)
    assert len(effect.data) <= 700
    assert 3 <= len(dns.message.from_wire(effect.data).answer[0][0].strings) < 15


def test_our_query_and_goodbye_are_understood_by_another() -> None:
    one, two = machine(), MdnsMachine(OTHER, "b" * 32, LAN)
    two.announce([parse("/ip4/192.168.1.7/tcp/1")])
    (asked,) = two.receive(one.query(), ("192.168.1.5", 5353), 0.0)
    assert isinstance(asked, Reply)
    assert one.receive(asked.data, THERE, 0.0) == [Found(OTHER, (parse("/ip4/192.168.1.7/tcp/1"),), 120)]
    goodbye = two.goodbye()
    assert goodbye is not None
    assert one.receive(goodbye, THERE, 0.0) == [Found(OTHER, (parse("/ip4/192.168.1.7/tcp/1"),), 0)]


def test_networks_of_different_keys_do_not_meet() -> None:
    key = bytes(32)
    assert service_name() == PUBLIC_SERVICE
    private = service_name(key)
    assert private == "_p2p-d8e4f52b98b95a7cb5469f446a4980b5._udp.local"
    assert service_name(bytes((1,)) * 32) != private
    one = MdnsMachine(OWN, NAME, LAN, MdnsConfig(service=private))
    one.announce([HERE])
    assert one.receive(ask(), THERE, 0.0) == []
    assert one.receive(announcement("/ip4/192.168.1.7/tcp/1"), THERE, 0.0) == []
    assert one.receive(ask(private), THERE, 0.0)


# ------------------------------------------------------------------------------------------------- believing


def test_only_addresses_of_the_link_are_believed() -> None:
    packet = announcement(
        "/ip4/192.168.1.7/tcp/4001",
        "/ip4/192.168.1.7/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/10.0.0.1/tcp/4001",
        "/ip4/5.6.7.8/tcp/4001",
        f"/ip4/192.168.1.8/tcp/1/p2p/{OWN}/p2p-circuit",
        "/ip6/fd00:1::7/tcp/4001",
    )
    assert machine().receive(packet, THERE, 0.0) == [
        Found(OTHER, (parse("/ip4/192.168.1.7/tcp/4001"), parse("/ip6/fd00:1::7/tcp/4001")), 120)
    ]
    assert machine().receive(announcement("/ip4/10.0.0.1/tcp/4001"), THERE, 0.0) == []


def test_sixteen_addresses_of_a_peer() -> None:
    (found,) = machine().receive(announcement(*(f"/ip4/192.168.1.7/tcp/{port}" for port in range(1, 40))), THERE, 0.0)
    assert isinstance(found, Found)
    assert len(found.addrs) == 16


def test_our_own_answer_is_ignored() -> None:
    talk = machine()
    (effect,) = talk.receive(talk.query(), ("192.168.1.5", 5353), 0.0)
    assert isinstance(effect, Reply)
    assert talk.receive(effect.data, ("192.168.1.5", 5353), 0.0) == []
    assert talk.receive(announcement("/ip4/192.168.1.7/tcp/1", who=OWN), THERE, 0.0) == [], "our id in another's mouth"


@pytest.mark.parametrize(
    "text",
    [
        '"nonsense"',
        '"dnsaddr="',
        '"dnsaddr=/ip4/192.168.1.7/tcp/1"',
        '"dnsaddr=/ip4/192.168.1.7/tcp/1/p2p/QmNot"',
        '"dnsaddr=/ip4/999.1.1.1/tcp/1"',
        r'"dnsaddr=\255\254"',
        '""',
    ],
)
def test_other_strings_are_passed_over(text: str) -> None:
    instance = f"x.{PUBLIC_SERVICE}"
    good = f'"dnsaddr=/ip4/192.168.1.7/tcp/1/p2p/{OTHER}"'
    packet = told((PUBLIC_SERVICE, "PTR", instance + "."), (instance, "TXT", f"{text} {good}"))
    assert machine().receive(packet, THERE, 0.0) == [Found(OTHER, (parse("/ip4/192.168.1.7/tcp/1"),), 120)]


def test_a_text_without_a_pointer_to_it_is_nobodys() -> None:
    text = f'"dnsaddr=/ip4/192.168.1.7/tcp/1/p2p/{OTHER}"'
    for records in (
        [("x." + PUBLIC_SERVICE, "TXT", text)],
        [(PUBLIC_SERVICE, "PTR", f"y.{PUBLIC_SERVICE}."), ("x." + PUBLIC_SERVICE, "TXT", text)],
        [("_other._udp.local", "PTR", f"x.{PUBLIC_SERVICE}."), ("x." + PUBLIC_SERVICE, "TXT", text)],
    ):
        assert machine().receive(told(*records), THERE, 0.0) == []


def test_records_of_another_class_are_not_looked_at() -> None:
    packet = bytearray(announcement("/ip4/192.168.1.7/tcp/1"))
    at = packet.index(b"\x00\x0c\x00\x01")
    packet[at + 2 : at + 4] = b"\x00\x03"
    assert machine().receive(bytes(packet), THERE, 0.0) == []


@pytest.mark.parametrize(
    ("data", "source", "why"),
    [
        (bytes(9001), THERE, "over the limit"),
        (b"", THERE, "not a DNS message"),
        (bytes(11), THERE, "not a DNS message"),
        (bytes(12)[:4] + b"\x00\x01" + bytes(6) + b"\xc0\x0c\x00\x0c\x00\x01", THERE, "not a DNS message"),
        (bytes(12)[:4] + b"\x00\x01" + bytes(6) + b"\x3f" + bytes(20), THERE, "not a DNS message"),
        (b"\x00\x00\x28\x00" + bytes(8), THERE, "neither asks nor answers"),
        (ask(), ("10.0.0.1", 5353), "outside"),
        (bytes(4) + b"\x00\x11" + bytes(6) + b"\x00\x00\x01\x00\x01" * 17, THERE, "too many"),
        (bytes(6) + b"\x00\x80\x00\x40\x00\x41" + bytes(500), THERE, "too many"),
        (announcement("/ip4/192.168.1.7/tcp/1"), ("192.168.1.7", 40000), "another port"),
    ],
)
def test_hostile_packets(data: bytes, source: tuple[str, int], why: str) -> None:
    """Among them a name that points to itself, and one that is cut off."""
    with pytest.raises(RemoteProtocolError, match=why):
        machine().receive(data, source, 0.0)


def test_a_link_local_source_is_on_the_link() -> None:
    assert machine().receive(ask(), ("fe80::1%eth0", 5353), 0.0)
    assert replace(LAN, networks=(ip_network("192.168.1.0/24"),)).holds_host("fe80::1")


# ------------------------------------------------------------------------------------------------- others' packets


def record(name: bytes, kind: int, rdclass: int, data: bytes) -> bytes:
    return name + struct.pack(">HHIH", kind, rdclass, 120, len(data)) + data


def qname(text: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in text.split(".")) + b"\x00"


def dnsaddr(text: str) -> bytes:
    string = f"dnsaddr={text}/p2p/{OTHER}".encode()
    return bytes((len(string),)) + string


FOUND = [Found(OTHER, (parse("/ip4/192.168.1.7/tcp/4001"), parse("/ip4/192.168.1.7/udp/4001/quic-v1")), 120)]
ADDRS = ("/ip4/192.168.1.7/tcp/4001", "/ip4/192.168.1.7/udp/4001/quic-v1")


def test_as_rust_tells_it() -> None:
    """The name stands without the service; a TXT record for each address, with the cache-flush bit."""
    name = qname("Xa9" * 12)
    packet = struct.pack(">HHHHHH", 7, 0x8400, 0, 1, 0, 2)
    packet += record(qname(PUBLIC_SERVICE), 12, 1, name)
    packet += b"".join(record(name, 16, 0x8001, dnsaddr(addr)) for addr in ADDRS)
    assert machine().receive(packet, THERE, 0.0) == FOUND


def test_as_js_tells_it() -> None:
    """All records are answers, a TXT record for each address."""
    instance = qname(f"{'Q' * 32}.{PUBLIC_SERVICE}")
    packet = struct.pack(">HHHHHH", 0, 0x8400, 0, 3, 0, 0)
    packet += record(qname(PUBLIC_SERVICE), 12, 1, instance)
    packet += b"".join(record(instance, 16, 1, dnsaddr(addr)) for addr in ADDRS)
    assert machine().receive(packet, THERE, 0.0) == FOUND


def test_as_go_tells_it() -> None:
    """One TXT record with all addresses, SRV and A with the cache-flush bit, names compressed."""
    service = qname(PUBLIC_SERVICE)
    packet = struct.pack(">HHHHHH", 0, 0x8400, 0, 1, 0, 3)
    packet += service + struct.pack(">HHIH", 12, 1, 120, 1 + 32 + 2)
    instance = len(packet)
    packet += b"\x20" + b"g" * 32 + b"\xc0\x0c"
    pointer = struct.pack(">H", 0xC000 | instance)
    packet += record(pointer, 33, 0x8001, struct.pack(">HHH", 0, 0, 4001) + qname("g.local"))
    packet += record(pointer, 16, 0x8001, b"".join(dnsaddr(addr) for addr in ADDRS))
    packet += record(qname("g.local"), 1, 0x8001, bytes((192, 168, 1, 7)))
    assert machine().receive(packet, THERE, 0.0) == FOUND


def test_a_string_of_256_bytes_cannot_be_and_a_false_length_is_refused() -> None:
    instance = qname(f"x.{PUBLIC_SERVICE}")
    packet = struct.pack(">HHHHHH", 0, 0x8400, 0, 2, 0, 0) + record(qname(PUBLIC_SERVICE), 12, 1, instance)
    with pytest.raises(RemoteProtocolError):
        machine().receive(packet + record(instance, 16, 1, b"\xff" + b"x" * 200), THERE, 0.0)


# ------------------------------------------------------------------------------------------------- the neighbourhood


def found(number: int, *, port: int = 1, ttl: int = 120) -> Found:
    return Found(peer(number), (parse(f"/ip4/192.168.1.7/tcp/{port}"),), ttl)


def test_a_peer_is_news_once_and_again_with_other_addresses() -> None:
    near = Neighbourhood()
    assert near.take(found(2), 0.0)
    assert not near.take(found(2), 1.0)
    assert near.take(found(2, port=9), 2.0)
    assert near.peers(121.9) == {peer(2): (parse("/ip4/192.168.1.7/tcp/9"),)}
    assert near.peers(122.0) == {}
    assert near.take(found(2, port=9), 130.0), "it was gone"


def test_who_says_goodbye_is_gone() -> None:
    near = Neighbourhood()
    near.take(found(2), 0.0)
    assert not near.take(found(2, ttl=0), 1.0)
    assert near.peers(1.0) == {}
    assert not near.take(found(3, ttl=0), 1.0)


def test_so_many_new_peers_a_minute() -> None:
    near = Neighbourhood(MdnsConfig(new_peers_per_minute=2))
    assert [near.take(found(number), 5.0) for number in (2, 3, 4)] == [True, True, False]
    assert near.take(found(2, port=9), 6.0), "one that is known is no new one"
    assert not near.take(found(4), 64.9)
    assert near.take(found(4), 65.0)


def test_so_many_peers_in_all() -> None:
    near = Neighbourhood(MdnsConfig(max_peers=2))
    for number in (2, 3):
        near.take(found(number), 0.0)
    near.take(found(2), 1.0)
    near.take(found(4), 2.0)
    assert set(near.peers(3.0)) == {peer(2), peer(4)}


@pytest.mark.parametrize(
    "wrong",
    [
        {"service": ""},
        {"service": "a" * 64 + ".local"},
        {"port": 0},
        {"ttl_seconds": 0},
        {"query_seconds": 0},
        {"first_queries_seconds": (-1.0,)},
        {"max_message_bytes": 9001},
        {"max_addrs": 0},
        {"dials_at_once": 0},
    ],
)
def test_configurations_that_cannot_be(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MdnsConfig(**wrong)  # type: ignore[arg-type]


def test_a_compressed_name_in_a_record_that_we_do_not_need_does_no_harm() -> None:
    """Zeroconf ends its answers with an NSEC record whose name is compressed, as mDNS allows and plain DNS does not."""
    packet = bytearray(announcement("/ip4/192.168.1.7/tcp/1"))
    struct.pack_into(">H", packet, 10, 2)
    packet += record(b"\xc0\x0c", 47, 0x8001, b"\xc0\x0c\x00\x01\x40")
    assert machine().receive(bytes(packet), THERE, 0.0) == [Found(OTHER, (parse("/ip4/192.168.1.7/tcp/1"),), 120)]
