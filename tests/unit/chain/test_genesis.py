"""Parameters: one encoding, sane limits, authors that are bound by their identities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from talos.chain.entry import Entry, Kind
from talos.chain.genesis import Author, Mode, Params, params_of
from talos.errors import ConfigError, ProofInvalid
from talos.identity.peer_id import PeerId
from tests.unit.chain.memory_chain import IDENTITY, KEYS, RANDOM, author, genesis, make_entry, make_params


def test_parameters_have_one_encoding() -> None:
    for params in (make_params(), make_params(Mode.SHARED, 3, prev_chain=b"\1" * 32, finality_depth=5)):
        data = params.encode()
        assert Params.decode(data) == params
        for bad in (data[:-1], data + b"\0", data[:80], b"\2" + data[1:], b"\1\2" + data[2:]):
            with pytest.raises(ProofInvalid):
                Params.decode(bad)
        for cut in range(0, len(data), 7):
            with pytest.raises(ProofInvalid):
                Params.decode(data[:cut])


def test_names() -> None:
    feed, shared = make_params(), make_params(Mode.SHARED, 2)
    peer = PeerId.from_key(IDENTITY.public_key)
    assert feed.origin == f"talos.invalid/chain/{peer}/e512b53de949b605"
    assert shared.origin == f"talos.invalid/chain/shared/{shared.chain_id.hex()[:16]}"
    assert shared.index_of(KEYS[1].public_key.data) == 1
    assert shared.author(KEYS[1].public_key.data) is shared.authors[1]
    assert shared.author(KEYS[5].public_key.data) is None is shared.index_of(KEYS[5].public_key.data)


@pytest.mark.parametrize(
    "changes",
    [
        {"authors": ()},
        {"authors": (author(0), author(1))},
        {"mode": Mode.SHARED, "authors": ()},
        {"mode": Mode.SHARED, "authors": (author(0), author(0))},
        {"mode": Mode.SHARED, "authors": tuple(Author(bytes((n,)) * 32, b"", bytes(64)) for n in range(65))},
        {"random": b"short"},
        {"prev_tip": b"short"},
        {"bits_min": 7},
        {"bits_max": 33},
        {"bits_min": 12, "bits_max": 11},
        {"max_block": 1_000_001},
        {"max_item": 100_001},
        {"max_items": 4097},
        {"max_entry": 4097},
        {"finality_depth": 0},
    ],
)
def test_values_out_of_range(changes: dict[str, Any]) -> None:
    with pytest.raises(ProofInvalid):
        replace(make_params(), **changes)


def test_an_author_is_bound_by_its_identity() -> None:
    params, good = make_params(), author()
    other = PeerId.from_key(KEYS[3].public_key).to_bytes()
    for bad in (
        replace(good, audit_pk=KEYS[1].public_key.data),
        replace(good, peer_id=other),
        replace(good, peer_id=b"\x12\x20" + bytes(32)),  # a hash holds no key
        replace(good, peer_id=b"junk"),
        replace(good, bind_sig=bytes(64)),
        author(rand=b"\x05" * 16),
    ):
        with pytest.raises(ProofInvalid):
            Params.decode(replace(params, authors=(bad,)).encode())


def test_an_audit_key_of_small_order_is_refused() -> None:
    from talos.chain.genesis import bind

    weak = bind(bytes(32), IDENTITY, random=RANDOM, created_ms=make_params().created_ms)
    with pytest.raises(ProofInvalid):
        Params.decode(replace(make_params(), authors=(weak,)).encode())


def test_fields_that_do_not_fit() -> None:
    with pytest.raises(ConfigError):
        replace(make_params(), authors=(replace(author(), peer_id=bytes(70_000)),)).encode()


def test_the_genesis_holds_its_parameters() -> None:
    params = make_params()
    assert params_of(genesis(params).items[0].entry) == params
    with pytest.raises(ProofInvalid, match="SENT"):
        params_of(make_entry(1))
    with pytest.raises(ProofInvalid):
        params_of(Entry(Kind.CONFIG, 1, (b"junk",)).encode())
