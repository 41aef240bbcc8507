"""Names of peers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.addr import parse
from talos.cli.exits import Failure
from talos.cli.names import Name, is_alias, parse_name, ticket
from talos.cli.output import short
from talos.identity import multibase
from talos.identity.contacts import Contact, Contacts
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

KEY = bytes.fromhex("2e6fcce36701dc791488e0d0b1745cc1e33a4c1c9fcc41c63bd343dbbe0970e6")
PEER = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"
DID = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
ADDRS = (parse("/ip4/192.168.1.7/tcp/8766"), parse("/dns4/alice.example/tcp/8766"))
TICKET = (
    "talos1aexg7thdm4a5y6iurdqnbmlulta6gosmdsp4yqoghpjuhw56bfyomaqiatakqaihayrd4erwbvqwy2ldmuxgk6dbnvygyzigei7oihxmb4"
)
QM = "QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk"


def failure(text: str, *known: str) -> Failure:
    with pytest.raises(Failure) as caught:
        parse_name(text, known)
    return caught.value


def test_the_known_ticket() -> None:
    assert ticket(KEY, ADDRS) == TICKET
    name = parse_name(TICKET)
    assert (name.peer_text, name.key, name.addrs()) == (PEER, KEY, ADDRS)


def test_every_form_names_the_same_peer() -> None:
    forms = [
        PEER,
        DID,
        KEY.hex(),
        KEY.hex().upper(),
        ticket(KEY),
        PeerId.parse(PEER).cid(),
        f" {PEER}\n",
        TICKET.upper(),
    ]
    spaced = "-".join(TICKET[start : start + 5] for start in range(0, len(TICKET), 5)).replace("-", " - \n", 3)
    for form in [*forms, spaced, f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}"]:
        name = parse_name(form)
        assert (name.peer_text, name.key, str(name.peer_id())) == (PEER, KEY, PEER)


@given(st.binary(min_size=32, max_size=32))
def test_every_printed_form_resolves_back(seed: bytes) -> None:
    key = PrivateKey.from_seed(seed).public_key
    peer = str(PeerId.from_key(key))
    for form in (peer, short(peer), short(peer).replace("…", ".."), peer[:12], ticket(key.data, ADDRS)):
        assert parse_name(form, [peer, PEER]).key == key.data


def test_a_multiaddr_keeps_its_address() -> None:
    name = parse_name(f"/dns4/alice.example/tcp/8766/p2p/{PEER}/")
    assert name.addrs() == (parse("/dns4/alice.example/tcp/8766"),)
    circuit = f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit/p2p/{PEER}"
    assert parse_name(circuit).addr_texts == (f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}/p2p-circuit",)


def test_a_peer_of_another_key_type_has_a_name_without_a_key() -> None:
    assert parse_name(QM) == Name(QM, None)


@pytest.mark.parametrize("position", range(len("talos1"), len(TICKET)))
def test_each_flipped_character_of_a_ticket_is_found(position: int) -> None:
    for other in "ab7":
        if TICKET[position] != other:
            changed = TICKET[:position] + other + TICKET[position + 1 :]
            assert failure(changed).code == "ticket_damaged"


def test_each_cut_of_a_ticket_is_found() -> None:
    for length in range(len("talos1"), len(TICKET)):
        assert failure(TICKET[:length]).code == "ticket_damaged"
    assert failure(TICKET + "a").code == "ticket_damaged"
    assert failure(TICKET[:-1] + "0").code == "ticket_damaged"


def made(body: bytes) -> str:
    """A ticket of any body with a checksum that fits."""
    import hashlib

    check = hashlib.sha256(b"talos/ticket/v1\n" + body).digest()[:4]
    return "talos1" + multibase.encode_bits(body + check, multibase.BASE32)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x02" + KEY + b"\0", "ticket_damaged"),
        (b"\x01" + KEY, "ticket_damaged"),
        (b"\x01" + KEY + b"\x05" + b"\x01a" * 5, "ticket_damaged"),
        (b"\x01" + KEY + b"\x01", "ticket_damaged"),
        (b"\x01" + KEY + b"\x01\x09ab", "ticket_damaged"),
        (b"\x01" + KEY + b"\0x", "ticket_damaged"),
        (b"\x01" + bytes(32) + b"\0", "peer_unknown"),
        (b"", "ticket_damaged"),
    ],
)
def test_a_ticket_of_a_strange_body(body: bytes, code: str) -> None:
    assert failure(made(body)).code == code


def test_a_damaged_address_in_a_ticket_is_found_when_it_is_needed() -> None:
    with pytest.raises(Failure) as caught:
        parse_name(made(b"\x01" + KEY + b"\x01\x02\xff\xff")).addrs()
    assert caught.value.code == "ticket_damaged"
    with pytest.raises(Failure) as caught:
        parse_name(f"/ip4/300.0.0.1/tcp/1/p2p/{PEER}").addrs()
    assert caught.value.code == "usage"


def test_tickets_hold_four_addresses_and_no_long_one() -> None:
    many = [parse(f"/ip4/192.0.2.{number}/tcp/1") for number in range(9)]
    assert parse_name(ticket(KEY, many)).addrs() == tuple(many[:4])
    long = parse("/dns4/" + ".".join(["a" * 60] * 4) + "/tcp/1/dns4/" + ".".join(["a" * 60] * 4))
    assert parse_name(ticket(KEY, [long, *many])).addrs() == tuple(many[:4])


def test_short_forms_need_one_known_peer() -> None:
    other = PEER[:14] + "2" * (len(PEER) - 18) + PEER[-4:]
    assert failure("12D3KooWCwdo…1Mjs").code == "peer_unknown"
    found = failure("12D3KooWCwdo", PEER, other)
    assert (found.code, found.tried) == ("peer_ambiguous", (PEER, other))
    assert failure("12D3KooWCwd…", "x").code == "peer_unknown"  # too short a head


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "peer_unknown"),
        ("bbo", "peer_unknown"),
        ("*", "peer_unknown"),
        ('"Alice"', "peer_unknown"),
        ("12D3KooW", "peer_unknown"),
        (PEER[:-1], "peer_unknown"),
        (PEER + "x", "peer_unknown"),
        (DID[:-1], "peer_unknown"),
        ("did:web:x", "peer_unknown"),
        ("0" * 64, "peer_unknown"),
        (QM[:-1], "peer_unknown"),
        ("/ip4/192.0.2.1/tcp/1", "usage"),
        (f"/p2p/{PEER}", "usage"),
        ("/ip4/192.0.2.1/tcp/1/p2p/", "usage"),
        ("/ip4/192.0.2.1/tcp/1/p2p/bob", "peer_unknown"),
        ("x" * 1025, "usage"),
    ],
)
def test_what_names_nobody(text: str, code: str) -> None:
    assert failure(text).code == code


BOOK = (
    Contacts()
    .adding(Contact(name="Bob", peer=PEER, addrs=("/ip4/192.0.2.1/tcp/1",)))
    .adding(Contact(name="robert", peer=QM))
)


@pytest.mark.parametrize("text", ["bob", "BOB", " Bob\n", "ｂob"])
def test_a_contact_is_named_by_its_alias(text: str) -> None:
    name = parse_name(text, contacts=BOOK)
    assert (name.peer_text, name.key, name.alias, name.shown) == (PEER, KEY, "Bob", "Bob")
    assert name.addrs() == (parse("/ip4/192.0.2.1/tcp/1"),)
    assert is_alias(text)


def test_a_contacts_addresses_come_with_every_form_of_it() -> None:
    for form in (PEER, DID, KEY.hex(), short(PEER), PEER[:12]):
        assert parse_name(form, contacts=BOOK).addr_texts == ("/ip4/192.0.2.1/tcp/1",)
        assert not is_alias(form)
    both = parse_name(TICKET, contacts=BOOK)
    assert both.addrs() == (parse("/ip4/192.0.2.1/tcp/1"), *ADDRS)
    assert not is_alias(TICKET)


def test_who_is_no_contact_is_told_with_the_nearest() -> None:
    with pytest.raises(Failure, match="nobody matches 'bbo'") as caught:
        parse_name("bbo", contacts=BOOK)
    assert (caught.value.code, caught.value.hint) == ("peer_unknown", "did you mean Bob?")
    assert "talos contacts add" in failure("bob").hint
    assert parse_name(PEER).shown == short(PEER)
