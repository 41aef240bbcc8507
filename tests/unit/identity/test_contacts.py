"""Names for peers: what they may be, how they are kept, and how an agent learns of a change."""

from __future__ import annotations

import json
import multiprocessing
from functools import partial
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import ConfigError, LimitExceeded, WalletError
from talos.identity import contacts
from talos.identity.contacts import AddressBook, Contact, Contacts, NameTaken, change, check_alias, load
from talos.identity.did import did_key
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from pathlib import Path

ADDR = "/ip4/192.0.2.1/tcp/8766"


def peer(number: int) -> PeerId:
    return PeerId.from_key(PrivateKey.from_seed(bytes((number,)) * 32).public_key)


def contact(name: str, number: int, *addrs: str) -> Contact:
    return Contact(name=name, peer=str(peer(number)), addrs=addrs)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "contacts.toml"


@pytest.mark.parametrize("name", ["bob", "Bob.2", "b", "7", "a_b-c", "Zoë", "鮑勃", "x" * 64])
def test_what_can_be_a_name(name: str) -> None:
    check_alias(name)


@pytest.mark.parametrize(
    "name",
    ["", "-bob", ".", "_x", "*", "a b", "a/b", "a\u202eb", "a\n", "x" * 65, "\ufdfa" * 8, "a:b", "b\x1b[2J", "a…b"],
)
def test_what_cannot(name: str) -> None:
    with pytest.raises(ConfigError, match="a name has"):
        check_alias(name)


@pytest.mark.parametrize(
    "name",
    [
        "talos1abc",
        "TALOS1",
        "ta-los1x",
        str(peer(1)),
        str(peer(1)).lower(),
        str(peer(1))[:12],
        peer(1).cid(),
        peer(1).cid().upper(),
        "ab" * 32,
        "AB" * 32,
        "QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk",
        "１２D3KooWabcd",
    ],
)
def test_no_name_has_the_shape_of_a_key(name: str) -> None:
    with pytest.raises(ConfigError, match=r"looks like|a name has"):
        check_alias(name)
    assert contacts.has_key_shape(name)
    assert not contacts.has_key_shape(did_key(bytes(32)))  # which the colon forbids


def test_names_are_one_whatever_their_spelling() -> None:
    known = Contacts().adding(contact("Straße", 1)).adding(contact("bob", 2))
    for spelling in ("STRASSE", "straße", "ｓtrasse"):
        found = known.named(spelling)
        assert found is not None
        assert found.peer == str(peer(1))
    assert known.named("carol") is None
    with pytest.raises(NameTaken, match="another peer"):
        known.adding(contact("BOB", 3))
    with pytest.raises(NameTaken, match="contact already: bob"):
        known.adding(contact("robert", 2))
    with pytest.raises(ConfigError, match="two contacts of one name"):
        Contacts(by_name=(contact("bob", 1), contact("Bob", 2)))
    with pytest.raises(ConfigError, match="two contacts of one peer"):
        Contacts(by_name=(contact("bob", 1), contact("rob", 1)))


def test_a_contact_gets_other_addresses_and_goes() -> None:
    known = Contacts().adding(contact("bob", 1)).adding(contact("bob", 1, ADDR))
    assert known.of(str(peer(1))) == contact("bob", 1, ADDR)
    assert known.removing("BOB") == Contacts()
    assert known.blocking(str(peer(1))).unblocking(str(peer(1))) == known


def test_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contacts, "MAX_CONTACTS", 1)
    with pytest.raises(LimitExceeded):
        Contacts().adding(contact("a", 1)).adding(contact("b", 2))
    monkeypatch.setattr(contacts, "MAX_BLOCKED", 1)
    with pytest.raises(LimitExceeded):
        Contacts().blocking(str(peer(1))).blocking(str(peer(2)))
    for addrs in (("/x",) * 9, ("/" * 513,)):
        with pytest.raises(ConfigError, match="at most 8 addresses"):
            contact("a", 1, *addrs)
    with pytest.raises(ConfigError, match="not a peer id"):
        Contacts().blocking("bob")


NAMES = st.text(st.characters(categories=("L", "Nd")) | st.sampled_from("._-"), min_size=1, max_size=20).filter(
    lambda name: name[0] not in "._-" and _is_alias(name)
)


def _is_alias(name: str) -> bool:
    try:
        check_alias(name)
    except ConfigError:
        return False
    return True


@given(st.lists(NAMES, max_size=5, unique_by=contacts.folded), st.sets(st.integers(0, 20), max_size=5))
def test_what_is_written_is_read_again(names: list[str], blocked: set[int]) -> None:
    import tomllib

    known = Contacts(blocked=frozenset(str(peer(number)) for number in blocked))
    for number, name in enumerate(names):
        known = known.adding(contact(name, number, *[ADDR] * (number % 3)))
    assert contacts._decode(tomllib.loads(contacts._encode(known).decode())) == known


def test_the_file_is_private_and_written_as_a_whole(path: Path) -> None:
    assert load(path) == Contacts()
    change(path, lambda known: known.adding(contact("bob", 1, ADDR)))
    assert path.stat().st_mode & 0o777 == 0o600
    written = path.stat().st_ino
    change(path, lambda known: known.adding(contact("bob", 1, ADDR)))
    assert path.stat().st_ino == written, "nothing changed, so nothing is written"
    assert load(path).by_name == (contact("bob", 1, ADDR),)
    path.chmod(0o644)
    with pytest.raises(WalletError):
        load(path)


@pytest.mark.parametrize(
    "text",
    [
        "[contact.bob",
        "[contact.bob]\n",
        "[friends]\n",
        'contact = "bob"\n',
        f'[contact.bob]\npeer = "{peer(1).cid()}"\n',
        f'[contact.talos1]\npeer = "{peer(1)}"\n',
        f'[contact.bob]\npeer = "{peer(1)}"\n[contact.BOB]\npeer = "{peer(2)}"\n',
        '[blocked]\npeers = ["bob"]\n',
        "x = " + "[" * 5000,
    ],
)
def test_a_damaged_file_is_told(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"contacts\.toml is damaged"):
        load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is damaged"):
        AddressBook(path)


def test_an_agent_sees_each_change_and_outlives_a_damaged_file(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    book = AddressBook(path)
    assert not book.known(peer(1))
    change(path, lambda known: known.adding(contact("bob", 1, ADDR)).blocking(str(peer(2))))
    assert book.known(peer(1))
    assert (book.name_of(str(peer(1))), book.name_of(str(peer(2)))) == ("bob", None)
    assert (book.blocked(peer(1)), book.blocked(peer(2))) == (False, True)
    assert book.addrs() == {str(peer(1)): (ADDR,)}
    path.write_text("damaged")
    assert book.blocked(peer(2)), "who was blocked stays blocked"
    assert "stay as they were" in caplog.text
    path.unlink()
    assert not book.blocked(peer(2))


def _add(path: Path, number: int) -> None:
    change(path, lambda known: known.adding(contact(f"peer{number}", number)))


def test_programs_at_once_undo_nothing_of_each_other(path: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(partial(_add, path), range(12))
    assert len(load(path).by_name) == 12
    assert json.dumps(sorted(one.name for one in load(path).by_name)).count("peer") == 12
