"""Spellings of a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import ConfigError
from talos.identity import did
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

# The vector of the did:key specification.
KEY = bytes.fromhex("2e6fcce36701dc791488e0d0b1745cc1e33a4c1c9fcc41c63bd343dbbe0970e6")
DID = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK"
PEER = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"


def test_known_answer() -> None:
    assert did.did_key(KEY) == DID
    assert did.peer_id_text(KEY) == PEER
    assert did.key_of_did(DID) == did.key_of_peer_id(PEER) == did.key_of_hex(KEY.hex().upper()) == KEY


@given(st.binary(min_size=32, max_size=32))
def test_the_peer_id_is_that_of_the_key(seed: bytes) -> None:
    public = PrivateKey.from_seed(seed).public_key
    assert did.peer_id_text(public.data) == str(PeerId.from_key(public))
    assert did.key_of_did(did.did_key(public.data)) == public.data


@pytest.mark.parametrize("position", range(8, len(DID)))
def test_a_flipped_character_of_a_did_never_gives_the_same_key(position: int) -> None:
    changed = DID[:position] + ("1" if DID[position] != "1" else "2") + DID[position + 1 :]
    try:
        assert did.key_of_did(changed) != KEY
    except ConfigError:
        pass


@pytest.mark.parametrize(
    "text",
    [
        "",
        "did:key:z",
        "did:key:" + PEER,
        DID[:-1],
        DID + "1",
        DID.replace("z6", "f6"),
        "did:web:example.com",
        "did:key:z0OIl",
        "did:key:z" + "1" * 200,
        "did:key:z6LSj72tK8brWgZja8NLRwPigth2T9QRiG1uH9oKZuKjdh9p",  # X25519
    ],
)
def test_what_is_no_did_of_ours(text: str) -> None:
    with pytest.raises(ConfigError):
        did.key_of_did(text)


@pytest.mark.parametrize(
    "text", ["", PEER[:-1], PEER + "1", PEER[:-1] + "0", "1" * 129, "QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk"]
)
def test_what_is_no_peer_id_of_an_ed25519_key(text: str) -> None:
    with pytest.raises(ConfigError):
        did.key_of_peer_id(text)


@pytest.mark.parametrize("text", ["", "xy", KEY.hex()[:-2], KEY.hex() + "00"])
def test_what_is_no_key(text: str) -> None:
    with pytest.raises(ConfigError):
        did.key_of_hex(text)


@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32])
def test_keys_that_prove_nothing_have_no_name(key: bytes) -> None:
    for read, text in (
        (did.key_of_did, did.did_key(key)),
        (did.key_of_peer_id, did.peer_id_text(key)),
        (did.key_of_hex, key.hex()),
    ):
        with pytest.raises(ConfigError, match="refused"):
            read(text)
