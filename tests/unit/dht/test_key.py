"""The key space: published ids, distances, and keys made to lie somewhere."""

from __future__ import annotations

import hashlib
import random

import pytest

from talos.dht.key import KAD_BITS, MAX_SEARCH_BITS, common_prefix, distance, kad_id, preimage
from talos.errors import LocalProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

SEED = bytes.fromhex("7e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d")


def test_the_id_of_a_peer_is_the_hash_of_its_multihash() -> None:
    peer = PeerId.from_key(PrivateKey.from_seed(SEED).public_key)
    assert kad_id(peer.raw) == 0xDFD53212A4BD2BEDA3EA8E82D08285370C70A70CFE9C588E28754B23C8033121


def test_the_example_of_the_specification() -> None:
    """ipfs/specs, routing/kad-dht, Kademlia Keyspace: the hex form; the base58 beside it there is another peer's."""
    raw = bytes.fromhex("0024080112209e3b433cbd31c2b8a6ebbdca998bd0f4c2141c9c9af5422e976051b1e63af14d")
    assert kad_id(raw) == 0xE43D28F0996557C0D5571D75C62A57A59D7AC1D30A51ECEDCDB9D5E4AFA56100


def test_distance_is_xor_and_a_prefix_is_what_it_leaves_alone() -> None:
    assert distance(0b1100, 0b1010) == 0b0110
    assert common_prefix(5, 5) == KAD_BITS
    assert common_prefix(0, 1) == KAD_BITS - 1
    assert common_prefix(0, 1 << 255) == 0


@pytest.mark.parametrize("bits", [0, 1, 7, 10])
def test_a_preimage_lies_where_it_should(bits: int) -> None:
    near = kad_id(b"somewhere")
    exact = preimage(near, bits, random.Random(1), exact=True)
    assert common_prefix(kad_id(exact), near) == bits
    assert PeerId(exact).raw == exact, "servers that take only peer ids take it"
    assert common_prefix(kad_id(preimage(near, bits, random.Random(2), exact=False)), near) >= bits


def test_two_preimages_are_two() -> None:
    rng = random.Random(3)
    assert preimage(0, 3, rng, exact=True) != preimage(0, 3, rng, exact=True)


@pytest.mark.parametrize("bits", [-1, MAX_SEARCH_BITS + 1])
def test_no_search_without_an_end(bits: int) -> None:
    with pytest.raises(LocalProtocolError, match="preimage"):
        preimage(0, bits, random.Random(1), exact=True)


def test_the_cache_gives_what_the_hash_gives() -> None:
    for _ in range(2):
        assert kad_id(b"x") == int.from_bytes(hashlib.sha256(b"x").digest(), "big")
