import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from talos.errors import BadSignature, ConfigError, RemoteProtocolError
from talos.identity import der, multibase
from talos.identity.certificate import IdentityCertificate, verify
from talos.identity.envelope import Envelope
from talos.identity.keys import PrivateKey, PublicKey
from talos.identity.peer_id import PeerId
from talos.identity.peer_record import PeerRecord, RecordFormat, SignedPeerRecord

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "peer_ids.json").read_text())
PUBLISHED = [PrivateKey.from_bytes(bytes.fromhex(vector["private"])) for vector in VECTORS["keys"]]
NOW = datetime(2026, 1, 1, tzinfo=UTC)

seeds = st.binary(min_size=32, max_size=32)
keys = st.one_of(seeds.map(PrivateKey.from_seed), st.sampled_from(PUBLISHED))
serialized_keys = keys.map(lambda key: key.public_key.to_bytes())


@st.composite
def edits(draw: st.DrawFn, sources: st.SearchStrategy[bytes]) -> tuple[bytes, bytes]:
    """Some bytes, and the same after an edit that changed them."""
    original = draw(sources)
    start = draw(st.integers(0, len(original)))
    end = draw(st.integers(start, min(len(original), start + 4)))
    changed = original[:start] + draw(st.binary(max_size=4)) + original[end:]
    return original, changed


@given(keys)
def test_keys_and_ids_round_trip(key: PrivateKey) -> None:
    public = key.public_key
    assert PublicKey.from_bytes(public.to_bytes()) == public
    peer = PeerId.from_key(public)
    assert PeerId.from_bytes(peer.to_bytes()) == peer
    assert PeerId.parse(str(peer)) == peer
    assert PeerId.parse(peer.cid()) == peer
    assert peer.public_key() in (public, None)


@given(seeds.map(PrivateKey.from_seed))
def test_private_keys_round_trip(key: PrivateKey) -> None:
    assert PrivateKey.from_bytes(key.to_bytes()) == key


@given(st.one_of(st.binary(max_size=60), edits(serialized_keys).map(lambda pair: pair[1])))
def test_a_key_is_refused_or_encodes_to_the_same_bytes(data: bytes) -> None:
    try:
        key = PublicKey.from_bytes(data)
    except (RemoteProtocolError, BadSignature):
        return
    assert key.to_bytes() == data


@given(edits(serialized_keys))
def test_an_edited_key_never_has_the_same_id(pair: tuple[bytes, bytes]) -> None:
    original, changed = pair
    try:
        other = PublicKey.from_bytes(changed)
    except (RemoteProtocolError, BadSignature):
        return
    assert (PeerId.from_key(other) == PeerId.from_key(PublicKey.from_bytes(original))) == (original == changed)


@given(st.one_of(st.text(max_size=140), st.text(multibase.BASE58BTC, max_size=60)))
@example("\ud800")
def test_text_is_an_id_or_a_config_error(text: str) -> None:
    try:
        peer = PeerId.parse(text)
    except ConfigError:
        return
    assert text in (str(peer), peer.cid())


@given(st.binary(max_size=60))
def test_base58_and_base32_round_trip(data: bytes) -> None:
    assert multibase.decode_base58btc(multibase.encode_base58btc(data)) == data
    assert multibase.decode("b" + multibase.encode_bits(data, multibase.BASE32)) == data


@given(st.binary(max_size=60))
def test_der_is_refused_or_encodes_to_the_same_bytes(data: bytes) -> None:
    reader = der.Reader(data)
    try:
        contents = reader.take(der.SEQUENCE)
        reader.end()
    except RemoteProtocolError:
        return
    assert der.encode(der.SEQUENCE, contents) == data


@given(keys, st.text(max_size=40), st.binary(max_size=40), st.binary(max_size=300))
def test_envelopes_round_trip(key: PrivateKey, domain: str, payload_type: bytes, payload: bytes) -> None:
    sealed = Envelope.seal(key, domain, payload_type, payload)
    assert Envelope.open(sealed.raw, {payload_type: domain}) == sealed
    with pytest.raises(BadSignature):
        Envelope.open(sealed.raw, {payload_type: domain + "x"})


@given(
    keys,
    st.lists(st.binary(min_size=1, max_size=100), max_size=10),
    st.integers(0, 2**63 - 1),
    st.sampled_from(RecordFormat),
)
def test_peer_records_round_trip(key: PrivateKey, addrs: list[bytes], seq: int, form: RecordFormat) -> None:
    made = SignedPeerRecord.make(key, addrs, seq, form)
    assert SignedPeerRecord.consume(made.envelope.raw) == made
    assert PeerRecord.from_bytes(made.record.to_bytes()) == made.record


RECORD = SignedPeerRecord.make(PUBLISHED[1], [b"\x04\x7f\0\0\1"], 1)


@given(edits(st.just(RECORD.envelope.raw)))
def test_an_edited_envelope_is_refused_or_says_the_same(pair: tuple[bytes, bytes]) -> None:
    try:
        consumed = SignedPeerRecord.consume(pair[1])
    except (RemoteProtocolError, BadSignature):
        return
    assert consumed.record == RECORD.record
    assert consumed.envelope.raw == pair[1]


@given(seeds)
def test_certificates_prove_their_identity(seed: bytes) -> None:
    key = PrivateKey.from_seed(seed)
    made = IdentityCertificate.make(key, now=NOW)
    assert verify([made.certificate], now=NOW, expected=PeerId.from_key(key.public_key)) == key.public_key
