"""Messages of relays: what has to be on the wire, and what is refused."""

from __future__ import annotations

import pytest

from talos.errors import BadSignature, LocalProtocolError, RemoteProtocolError
from talos.identity.envelope import Envelope
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.relay.wire import (
    HopMessage,
    HopType,
    Limit,
    Reservation,
    Status,
    StopMessage,
    StopType,
    Voucher,
    decode_hop,
    decode_stop,
    encode_hop,
    encode_stop,
    open_voucher,
    seal_voucher,
)

KEY = PrivateKey.generate()
PEER = PeerId.from_key(KEY.public_key)
OTHER = PeerId.from_key(PrivateKey.generate().public_key)


def test_types_of_zero_are_on_the_wire() -> None:
    assert encode_hop(HopMessage(type=HopType.RESERVE)) == bytes.fromhex("0800")
    assert encode_stop(StopMessage(type=StopType.CONNECT)) == bytes.fromhex("0800")


def test_ok_is_a_hundred_and_numbered_differently_in_hop_and_stop() -> None:
    assert encode_hop(HopMessage(type=HopType.STATUS, status=Status.OK)) == bytes.fromhex("08022864")
    assert encode_stop(StopMessage(type=StopType.STATUS, status=Status.OK)) == bytes.fromhex("08012064")


@pytest.mark.parametrize("data", [b"", b"\x08\x09", b"\xff", b"\x08\x00\x12\x02\x0a\x00"])
def test_what_is_no_message(data: bytes) -> None:
    for decode in (decode_hop, decode_stop):
        with pytest.raises(RemoteProtocolError):
            decode(data)


def test_messages_come_back() -> None:
    granted = Reservation(1_800_000_000, (b"one", b"two"), b"voucher")
    hop = HopMessage(type=HopType.STATUS, peer=PEER, reservation=granted, limit=Limit(120, 9), status=7)
    assert decode_hop(encode_hop(hop)) == hop
    stop = StopMessage(type=StopType.CONNECT, peer=PEER, limit=Limit(0, 1), status=0)
    assert decode_stop(encode_stop(stop)) == stop
    with pytest.raises(LocalProtocolError):
        encode_hop(HopMessage(type=HopType.STATUS, limit=Limit(1 << 32)))


def test_a_voucher_is_its_relays_own() -> None:
    voucher = Voucher(PEER, OTHER, 1_800_000_000)
    sealed = seal_voucher(KEY, voucher)
    assert open_voucher(sealed) == voucher
    with pytest.raises(RemoteProtocolError, match="another peer"):
        open_voucher(seal_voucher(PrivateKey.generate(), voucher))
    with pytest.raises(BadSignature):
        open_voucher(sealed[:-1] + bytes([sealed[-1] ^ 1]))
    with pytest.raises(RemoteProtocolError):
        open_voucher(Envelope.seal(KEY, "libp2p-relay-rsvp", b"\x03\x02", b"\xff").raw)
    with pytest.raises(BadSignature):
        open_voucher(Envelope.seal(KEY, "libp2p-peer-record", b"\x03\x02", b"").raw)
