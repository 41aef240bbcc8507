import json
from pathlib import Path
from typing import Any

import pytest

from talos.errors import ConfigError, RemoteProtocolError
from talos.identity import multibase
from talos.identity.keys import PublicKey
from talos.identity.peer_id import PeerId

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[2] / "vectors" / "peer_ids.json").read_text())
ED25519 = PeerId.parse("12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq")
SHA256 = PeerId.parse("QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N")

each_key = pytest.mark.parametrize("vector", VECTORS["keys"], ids=lambda vector: vector["type"])


@each_key
def test_id_of_a_published_key(vector: dict[str, Any]) -> None:
    key = PublicKey.from_bytes(bytes.fromhex(vector["public"]))
    peer = PeerId.from_key(key)
    assert str(peer) == vector["peer_id"]
    assert PeerId.parse(vector["peer_id"]) == peer
    assert PeerId.from_bytes(bytes(peer)) == peer
    assert PeerId.parse(peer.cid()) == peer
    assert peer.public_key() == (key if vector["type"] in ("ed25519", "secp256k1") else None)


@pytest.mark.parametrize("vector", VECTORS["texts"], ids=lambda vector: vector["text"][:8])
def test_published_texts(vector: dict[str, Any]) -> None:
    peer = PeerId.parse(vector["text"])
    assert vector["text"] in (str(peer), peer.cid())
    if vector["same_as"]:
        assert PeerId.parse(vector["same_as"]) == peer


@each_key
def test_every_changed_byte_of_an_id_is_refused_or_another_id(vector: dict[str, Any]) -> None:
    raw = PeerId.parse(vector["peer_id"]).to_bytes()
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        try:
            other = PeerId.from_bytes(bytes(changed))
        except RemoteProtocolError:
            continue
        assert other.to_bytes() == bytes(changed)
        assert str(other) != vector["peer_id"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x12\x20" + bytes(31),
        b"\x12\x20" + bytes(33),
        b"\x12\x1f" + bytes(32),
        b"\x11\x14" + bytes(20),  # sha1
        b"\x13\x40" + bytes(64),  # sha2-512
        ED25519.to_bytes() + b"\0",
        ED25519.to_bytes()[:-1],
        b"\x00\x2b\x08\x00\x12\x27" + bytes(39),  # inlined, but longer than 42
        b"\x00\xa4\x00" + ED25519.to_bytes()[2:],  # a length that is not minimal
        b"\x00\x04\x08\x01\x12\x00",  # inlined, but no key
    ],
)
def test_other_multihashes_are_refused(raw: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PeerId.from_bytes(raw)


def test_id_of_an_unsafe_key_is_refused() -> None:
    with pytest.raises(RemoteProtocolError, match="key that is refused"):
        PeerId.from_bytes(b"\x00\x24\x08\x01\x12\x20\x01" + bytes(31))


ALPHABETS = {**multibase._BITS, **{prefix: (alphabet, False) for prefix, alphabet in multibase._NUMBER.items()}}


def in_multibase(prefix: str, data: bytes) -> str:
    alphabet, padded = ALPHABETS[prefix]
    if prefix in multibase._BITS:
        body = multibase.encode_bits(data, alphabet)
        group = 8 if len(alphabet) == 32 else 4
        return prefix + body + "=" * (-len(body) % group if padded else 0)
    number, digits = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, len(alphabet))
        digits = alphabet[digit] + digits
    return prefix + digits


@pytest.mark.parametrize("prefix", sorted(set(ALPHABETS) - {"0"}))  # base 2 is over the length limit
def test_cid_in_any_multibase(prefix: str) -> None:
    assert PeerId.parse(in_multibase(prefix, b"\x01\x72" + ED25519.to_bytes())) == ED25519
    assert PeerId.parse(in_multibase(prefix, b"\x01\x72" + SHA256.to_bytes())) == SHA256


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "Qm",
        "x",
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3p0",  # 0 is not in base58btc
        "12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pqq",
        " 12D3KooWBtg3aaRMjxwedh83aGiUkwSxDwUZkzuJcfaqUmo7R3pq",
        in_multibase("b", b"\x01\x70" + SHA256.to_bytes()),  # dag-pb
        in_multibase("b", b"\x02\x72" + SHA256.to_bytes()),
        in_multibase("b", b"\x01\x72" + SHA256.to_bytes() + b"\0"),
        "B" + SHA256.cid()[1:],
        SHA256.cid() + "a",
        "é" * 20,
        "z" + "1" * 20,
        in_multibase("b", b"\x01\x72\x00\x24\x08\x01\x12\x20\x01" + bytes(31)),  # an unsafe key
    ],
)
def test_other_texts_are_config_errors(text: str) -> None:
    with pytest.raises(ConfigError):
        PeerId.parse(text)


def test_long_text_is_refused_unread() -> None:
    with pytest.raises(ConfigError, match="longer than 128"):
        PeerId.parse("1" * 129)
    with pytest.raises(ConfigError, match="neither"):
        PeerId.parse("1" * 128)


def test_ids_are_values() -> None:
    again = PeerId.from_bytes(ED25519.to_bytes())
    assert again == ED25519
    assert hash(again) == hash(ED25519)
    assert ED25519 != SHA256
    assert sorted([SHA256, ED25519]) == [ED25519, SHA256]
    assert again >= ED25519
    assert str(ED25519) != ED25519
    with pytest.raises(TypeError):
        _ = ED25519 < "text"
    with pytest.raises(AttributeError):
        ED25519.raw = b""  # type: ignore[misc]
    assert repr(ED25519) == f"PeerId({ED25519})"
    assert str(ED25519) is str(ED25519)  # printed once
