"""Receipts: a promise under the receiver's key, for one message between two peers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from talos.chain.receipt import Receipt, check_receipt, sign_receipt
from talos.errors import LocalProtocolError, ProofInvalid
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from talos.abc import SignedReceipt

SENDER, RECEIVER = (PrivateKey.from_seed(bytes((n,)) * 32) for n in (1, 2))
FROM, TO = PeerId.from_key(SENDER.public_key), PeerId.from_key(RECEIVER.public_key)
RECEIPT = Receipt(
    msg_id=b"\x01" * 16,
    sealed_hash=b"\x02" * 32,
    sender=FROM.to_bytes(),
    receiver=TO.to_bytes(),
    origin=b"talos.invalid/log/x",
    log_size_hint=7,
    received_ms=8,
)


def check(receipt: SignedReceipt, sender: PeerId = FROM, receiver: PeerId = TO) -> None:
    check_receipt(receipt, msg_id=b"\x01" * 16, sealed_hash=b"\x02" * 32, sender=sender, receiver=receiver)


def test_a_signed_receipt_holds_and_no_changed_one_does() -> None:
    signed = sign_receipt(RECEIPT, RECEIVER)
    check(signed)
    for part in ("body", "sig"):
        data = getattr(signed, part)
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1
            with pytest.raises(ProofInvalid):
                check(replace(signed, **{part: bytes(changed)}))


@pytest.mark.parametrize(
    "other",
    [{"msg_id": b"\x03" * 16}, {"sealed_hash": b"\x03" * 32}, {"sender": TO.to_bytes()}, {"receiver": b"someone"}],
)
def test_a_receipt_for_something_else_is_refused(other: dict[str, bytes]) -> None:
    with pytest.raises(ProofInvalid, match=r"another message|other peers"):
        check(sign_receipt(replace(RECEIPT, **other), RECEIVER))  # type: ignore[arg-type]


def test_only_the_receiver_can_promise() -> None:
    with pytest.raises(ProofInvalid, match="not signed"):
        check(sign_receipt(RECEIPT, SENDER))
    hashed = PeerId(b"\x12\x20" + b"\x09" * 32)
    with pytest.raises(ProofInvalid, match="does not hold a key"):
        check(sign_receipt(RECEIPT, RECEIVER), receiver=hashed)


def test_one_encoding_is_accepted() -> None:
    data = RECEIPT.encode()
    assert Receipt.decode(data) == RECEIPT
    for wrong in (
        *(data[:length] for length in range(len(data))),
        data + b"\x00",
        b"\x02" + data[1:],
        data + bytes(9000),
    ):
        with pytest.raises(ProofInvalid):
            Receipt.decode(wrong)


def test_a_field_must_fit() -> None:
    with pytest.raises(LocalProtocolError):
        replace(RECEIPT, origin=bytes(0x10000)).encode()
