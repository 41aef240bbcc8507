"""The key space (kad-dht, distance): SHA-256 of a peer id or a key, as a number; distance is XOR."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import TYPE_CHECKING

from talos.errors import LocalProtocolError

if TYPE_CHECKING:
    import random

__all__ = ["KAD_BITS", "common_prefix", "distance", "kad_id", "preimage"]

KAD_BITS = 256
MAX_SEARCH_BITS = 16
"""How much of a kad id `preimage` looks for: each bit doubles its work."""

_SHA2_256 = b"\x12\x20"
_from_bytes = int.from_bytes


@lru_cache(maxsize=16_384)  # the same peers come up in answer after answer
def kad_id(data: bytes) -> int:
    """Where the peer id or record key `data` lies."""
    return _from_bytes(hashlib.sha256(data).digest(), "big")


def distance(one: int, other: int) -> int:
    """How far two kad ids are apart."""
    return one ^ other


def common_prefix(one: int, other: int) -> int:
    """How many bits two kad ids begin with in common; 256 when they are the same."""
    return KAD_BITS - (one ^ other).bit_length()


def preimage(near: int, bits: int, rng: random.Random, *, exact: bool) -> bytes:
    """A key whose kad id shares `bits` bits with `near`, and with `exact` not the next one.

    It has the form of a peer id, which is all that some servers take. Hashes 2^bits times on average, with `exact`
    twice that: about a millisecond for 10 bits.
    """
    if not 0 <= bits <= MAX_SEARCH_BITS:
        raise LocalProtocolError(f"cannot look for a preimage of {bits} bits")
    wanted = near >> (KAD_BITS - bits - 1)
    if exact:
        wanted, shift = wanted ^ 1, 32 - bits - 1
    else:
        wanted, shift = wanted >> 1, 32 - bits
    sha256, start = hashlib.sha256, _SHA2_256 + rng.randbytes(24)
    number = rng.getrandbits(63)
    while True:
        key = start + number.to_bytes(8, "big")
        if _from_bytes(sha256(key).digest()[:4], "big") >> shift == wanted:
            return key
        number += 1
