from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.abc import ServiceFault
from talos.dht import key_namespace
from talos.dht.records import IPNS_QUORUM, Namespace, Namespaces, accept_anything, default_namespaces
from talos.errors import RecordRejected
from talos.identity.key_record import DAY_MS, KeyRecord
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from talos.abc import Event

KEY = PrivateKey.from_seed(bytes(32))
PEER = PeerId.from_key(KEY.public_key)
OTHER = PrivateKey.from_seed(b"\1" * 32)
NOW_MS = 1_800_000_000_000
NOW = NOW_MS / 1000


def namespaces(events: list[Event] | None = None, **more: Namespace) -> Namespaces:
    known = {**default_namespaces("/ipfs/kad/1.0.0"), **more}
    emit = (events if events is not None else []).append
    return Namespaces(known, max_bytes=1000, emit=emit, clock=lambda: NOW)


def key_record(
    key: PrivateKey = KEY, seq: int = 1, days: int = 7, not_before_ms: int = NOW_MS, name: str = ""
) -> bytes:
    return KeyRecord(
        identity=key.public_key.data,
        x25519=bytes(32),
        seq=seq,
        not_before_ms=not_before_ms,
        not_after_ms=not_before_ms + days * DAY_MS,
        name=name,
    ).seal(key)


@pytest.mark.parametrize("key", [b"", b"/", b"pk/x", b"/pk", b"/pk/", b"//x", b"/other/x", b"\xff", b"/\xff/x"])
def test_a_key_without_a_known_namespace_is_refused(key: bytes) -> None:
    with pytest.raises(RecordRejected):
        namespaces().validate(key, b"value")


def test_a_value_over_the_limit_is_refused() -> None:
    known = namespaces(example=accept_anything())
    known.validate(b"/example/x", bytes(1000))
    with pytest.raises(RecordRejected):
        known.validate(b"/example/x", bytes(1001))


def test_ipns_is_for_the_swarms_of_ipfs() -> None:
    assert default_namespaces("/talos/kad/1.0.0").keys() == {"pk", "talos"}
    assert default_namespaces("/ipfs/kad/1.0.0").keys() == {"pk", "talos", "ipns"}
    assert namespaces().quorum(b"/ipns/x", 3) == IPNS_QUORUM
    assert namespaces().quorum(b"/pk/x", 3) == 3


def test_a_public_key_stands_under_its_own_id() -> None:
    known = namespaces()
    assert known.is_valid(b"/pk/" + PEER.raw, KEY.public_key.to_bytes())
    assert not known.is_valid(b"/pk/" + PEER.raw, OTHER.public_key.to_bytes())
    assert not known.is_valid(b"/pk/" + PEER.raw, b"no key")
    assert not known.is_valid(b"/pk/nobody", KEY.public_key.to_bytes())


def test_without_a_selector_the_first_stays() -> None:
    assert namespaces().best(b"/pk/x", [b"1", b"2"]) == b"1"


def test_where_there_are_no_rules_the_last_is_right() -> None:
    assert namespaces(example=accept_anything()).best(b"/example/x", [b"1", b"2"]) == b"2"


def test_a_validator_that_fails_has_refused() -> None:
    def fail(_key: bytes, _value: bytes, _now: float) -> None:
        raise ZeroDivisionError

    events: list[Event] = []
    with pytest.raises(RecordRejected):
        namespaces(events, broken=Namespace(validate=fail)).validate(b"/broken/x", b"value")
    assert [type(event) for event in events] == [ServiceFault]


@pytest.mark.parametrize("place", [-1, 2, None])
def test_a_selector_that_fails_leaves_the_first(place: int | None) -> None:
    def select(_key: bytes, _values: object) -> int:
        if place is None:
            raise ZeroDivisionError
        return place

    known = namespaces(odd=Namespace(validate=lambda *_: None, select=select))
    assert known.best(b"/odd/x", [b"1", b"2"]) == b"1"


class TestKeyRecords:
    def test_one_of_the_peer_is_valid(self) -> None:
        assert namespaces().is_valid(key_namespace.key_of(PEER), key_record())

    @pytest.mark.parametrize(
        "value",
        [
            key_record(OTHER),
            key_record(not_before_ms=NOW_MS - 8 * DAY_MS),
            key_record()[:-1] + b"\0",
            b"",
        ],
        ids=["of another", "expired", "signature", "empty"],
    )
    def test_others_are_not(self, value: bytes) -> None:
        assert not namespaces().is_valid(key_namespace.key_of(PEER), value)

    @pytest.mark.parametrize(
        "key",
        [
            b"/talos/names/" + str(PEER).encode(),
            b"/talos/keys/" + PEER.cid().encode(),
            b"/talos/keys/" + str(PEER).encode() + b"/x",
            b"/talos/keys/\xff",
            b"/talos/keys/" + str(PeerId(b"\x12\x20" + bytes(32))).encode(),
        ],
        ids=["another kind", "as a CID", "longer", "no text", "a hash"],
    )
    def test_they_stand_under_one_spelling_of_one_kind_of_peer(self, key: bytes) -> None:
        assert not namespaces().is_valid(key, key_record())

    def test_the_higher_sequence_number_wins_and_then_the_smaller_bytes(self) -> None:
        older, newer, same = key_record(seq=1), key_record(seq=2), key_record(seq=2, name="b")
        best = min(newer, same)
        known, key = namespaces(), key_namespace.key_of(PEER)
        for values in ([older, newer, same], [same, newer, older], [newer, older, same]):
            assert known.best(key, values) == best
