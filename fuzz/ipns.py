"""IPNS records: parsed and judged under a name, or refused."""

from __future__ import annotations

from talos.dht import ipns
from talos.errors import BadSignature, RecordRejected, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import fields

KEY = PrivateKey.from_seed(bytes(32))
NAME = b"/ipns/" + PeerId.from_key(KEY.public_key).raw
NOW = 1.8e9


def target(data: bytes) -> None:
    """The bytes as a record, and as the data of one that is signed: a valid one is the best of itself."""
    signed = fields.bytes_field(8, KEY.sign(ipns.SIGNATURE_PREFIX + data)) + fields.bytes_field(9, data)
    for value in (data, signed):
        try:
            ipns.validate(NAME, value, NOW)
        except (RemoteProtocolError, RecordRejected, BadSignature):
            continue
        if ipns.select(NAME, [value, value]) != 0:
            raise AssertionError("of two equal records the first is the better one")
        if ipns.parse(value).expires_ns <= NOW * 1e9:
            raise AssertionError("an expired record passed")
