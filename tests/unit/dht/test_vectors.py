"""The vectors of docs/protocols/dht-records.md: what is there is what is written here, and what is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from talos.addr import parse
from talos.dht import default_namespaces, key_namespace, provider_key
from talos.dht.key import kad_id
from talos.dht.peer import PeerInfo
from talos.dht.records import Namespaces
from talos.dht.wire import Message, MessageType, Record, decode, encode
from talos.identity.key_record import KeyRecord
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

ROOT = Path(__file__).resolve().parents[3]
VECTORS = json.loads((ROOT / "tests/vectors/dht_records.json").read_text())
KEY = PrivateKey.from_seed(bytes.fromhex(VECTORS["seed"]))
PEER = PeerId.from_key(KEY.public_key)
KEYS = VECTORS["key_record"]


def test_the_identity() -> None:
    assert str(PEER) == VECTORS["peer_id"]
    assert f"{kad_id(PEER.raw):064x}" == VECTORS["kad_id"]


def test_the_key_record() -> None:
    record = KeyRecord(
        identity=KEY.public_key.data,
        x25519=bytes.fromhex(KEYS["x25519"]),
        seq=KEYS["seq"],
        not_before_ms=KEYS["not_before_ms"],
        not_after_ms=KEYS["not_after_ms"],
        name=KEYS["name"],
    )
    assert record.seal(KEY).hex() == KEYS["value"]
    assert key_namespace.key_of(PEER).decode() == KEYS["key"]


@pytest.mark.parametrize(("seconds", "lasts"), [(1.8e9, True), (2.0e9, False)])
def test_each_value_is_valid_while_it_lasts(seconds: float, lasts: bool) -> None:
    namespaces = default_namespaces("/ipfs/kad/1.0.0")
    known = Namespaces(namespaces, max_bytes=10_240, emit=lambda _: None, clock=lambda: seconds)
    assert known.is_valid(KEYS["key"].encode(), bytes.fromhex(KEYS["value"])) == lasts
    ipns, pk = VECTORS["ipns"], VECTORS["pk"]
    assert known.is_valid(bytes.fromhex(ipns["key"]), bytes.fromhex(ipns["value"])) == lasts
    assert known.is_valid(bytes.fromhex(pk["key"]), bytes.fromhex(pk["value"]))


def test_the_messages() -> None:
    key, value = KEYS["key"].encode(), bytes.fromhex(KEYS["value"])
    file = provider_key(VECTORS["provider_key"]["text"])
    assert file.hex() == VECTORS["provider_key"]["key"]
    provider = PeerInfo(PEER, (parse("/ip4/127.0.0.1/tcp/4001"),))
    messages = {
        "find_node": Message(MessageType.FIND_NODE, PEER.raw),
        "put_value": Message(MessageType.PUT_VALUE, key, Record(key, value)),
        "add_provider": Message(MessageType.ADD_PROVIDER, file, providers=(provider,)),
    }
    for name, message in messages.items():
        assert encode(message).hex() == VECTORS["messages"][name]
        assert decode(bytes.fromhex(VECTORS["messages"][name])) == message


def test_the_page_has_them() -> None:
    page = (ROOT / "docs/protocols/dht-records.md").read_text()
    joined = "".join(page.split())
    for text in (VECTORS["kad_id"], KEYS["key"], KEYS["value"], VECTORS["provider_key"]["key"]):
        assert text in joined
