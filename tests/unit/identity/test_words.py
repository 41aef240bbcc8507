"""Recovery words."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import WalletError
from talos.identity import words

ROOT = bytes(range(32))
WORDS = words.encode(ROOT)


def test_the_list_is_that_of_bip39() -> None:
    data = Path(words.__file__).with_name("words_english.txt").read_bytes()
    assert hashlib.sha256(data).hexdigest() == "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
    assert len(words.word_list()) == len({word[:4] for word in words.word_list()}) == 2048


def test_known_answers() -> None:
    assert WORDS[:5] == ("abandon", "amount", "liar", "amount", "expire")
    assert WORDS[-4:] == ("range", "attend", "journey", "unaware")
    # From the test vectors of BIP39, 32 bytes each.
    assert words.encode(bytes(32)) == ("abandon",) * 23 + ("art",)
    assert words.encode(b"\xff" * 32) == ("zoo",) * 23 + ("vote",)


@given(st.binary(min_size=32, max_size=32))
def test_words_give_the_root_back(root: bytes) -> None:
    text = "  ".join(words.encode(root))
    assert words.decode(text) == words.decode(text.upper()) == root
    assert words.decode("\n".join(word[:4] for word in words.encode(root))) == root


@given(st.binary(min_size=32, max_size=32), st.integers(0, 23), st.sampled_from(words.word_list()))
def test_another_word_is_another_root_or_an_error(root: bytes, position: int, word: str) -> None:
    changed = list(words.encode(root))
    changed[position] = word
    try:
        found = words.decode(" ".join(changed))
    except WalletError:
        found = None
    assert (found == root) == (tuple(changed) == words.encode(root))


def test_a_longer_prefix_passes_and_a_longer_word_does_not() -> None:
    assert words.decode(" ".join(("aband", *WORDS[1:]))) == ROOT
    for wrong in ("abandons", "abanxy", "xxxx", "aba"):
        with pytest.raises(WalletError, match="recovery word 1 is not in the list") as caught:
            words.decode(" ".join((wrong, *WORDS[1:])))
        assert wrong not in str(caught.value)


def test_errors_name_the_position_or_the_checksum() -> None:
    with pytest.raises(WalletError, match="recovery word 24 is not"):
        words.decode(" ".join((*WORDS[:-1], "talos")))
    with pytest.raises(WalletError, match="checksum"):
        words.decode(" ".join((WORDS[1], WORDS[0], *WORDS[2:])))
    with pytest.raises(WalletError, match="24 recovery words are needed, not 23"):
        words.decode(" ".join(WORDS[1:]))
    with pytest.raises(WalletError, match="longer than 1024"):
        words.decode("a" * 1025)


def test_spoken_words() -> None:
    sender = bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")
    recipient = bytes.fromhex("8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394")
    expected = ["fluid", "omit", "employ", "limb", "powder", "uphold", "essay", "gravity"]
    assert list(words.spoken(sender, recipient)) == list(words.spoken(recipient, sender)) == expected
