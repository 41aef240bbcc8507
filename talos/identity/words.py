"""Recovery words: 32 bytes as 24 words of BIP39's English list, and 8 words to compare aloud.

BIP39's step from words to a seed (PBKDF2) is not used: the words are the 32 bytes. The list,
`words_english.txt`, is `bip-0039/english.txt` of https://github.com/bitcoin/bips as published, one word a line,
and a test holds its SHA-256. Errors never quote a word.
"""

from __future__ import annotations

import hashlib
import unicodedata
from functools import cache
from pathlib import Path

from talos.errors import WalletError

__all__ = ["WORD_COUNT", "decode", "encode", "spoken", "word_list"]

WORD_COUNT = 24
MAX_TEXT_LENGTH = 1024
ROOT_BYTES = 32
SPOKEN_WORDS = 8
_BITS = 11  # of the 2,048 words
_PREFIX = 4  # so many letters are enough to tell each word from all others
_CHECK_BITS = WORD_COUNT * _BITS - ROOT_BYTES * 8


@cache
def word_list() -> tuple[str, ...]:
    """The 2,048 words in order."""
    return tuple(Path(__file__).with_name("words_english.txt").read_text(encoding="ascii").split())


def encode(root: bytes) -> tuple[str, ...]:
    """The 24 words of 32 bytes."""
    number = int.from_bytes(root, "big") << _CHECK_BITS | hashlib.sha256(root).digest()[0]
    return _words(number, WORD_COUNT)


def decode(text: str) -> bytes:
    """The 32 bytes of 24 words in any case, each whole or by its first four letters or more.

    WalletError names the position of the first word that is not in the list, or says that the checksum is wrong.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise WalletError(f"recovery words are longer than {MAX_TEXT_LENGTH} characters")
    typed = unicodedata.normalize("NFKC", text).lower().split()
    if len(typed) != WORD_COUNT:
        raise WalletError(f"{WORD_COUNT} recovery words are needed, not {len(typed)}")
    number = 0
    for position, word in enumerate(typed, 1):
        index = _index_of(word)
        if index is None:
            raise WalletError(f"recovery word {position} is not in the list")
        number = number << _BITS | index
    root = (number >> _CHECK_BITS).to_bytes(ROOT_BYTES, "big")
    if hashlib.sha256(root).digest()[0] != number & (1 << _CHECK_BITS) - 1:
        raise WalletError("the checksum of the recovery words is wrong: one is another word, or two are swapped")
    return root


def spoken(key: bytes, other: bytes) -> tuple[str, ...]:
    """Eight words that two people compare to know that each has the other's Ed25519 key; the order does not matter."""
    digest = hashlib.sha256(b"talos/sas/v1\n" + min(key, other) + max(key, other)).digest()
    return _words(int.from_bytes(digest[: SPOKEN_WORDS * _BITS // 8], "big"), SPOKEN_WORDS)


def _words(number: int, count: int) -> tuple[str, ...]:
    words = word_list()
    return tuple(words[number >> place * _BITS & len(words) - 1] for place in reversed(range(count)))


@cache
def _positions() -> dict[str, int]:
    """Index by whole word and by the first four letters, which are another word for none of them."""
    positions = {word[:_PREFIX]: index for index, word in enumerate(word_list())}
    return positions | {word: index for index, word in enumerate(word_list())}


def _index_of(typed: str) -> int | None:
    index = _positions().get(typed)
    if index is None and len(typed) > _PREFIX:
        index = _positions().get(typed[:_PREFIX])
        if index is not None and not word_list()[index].startswith(typed):
            return None
    return index
