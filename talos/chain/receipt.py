"""Receipts: the promise of the receiver of a message to have it in its log.

receipt     = u8 1 ‖ 16 msg_id ‖ 32 sealed_hash ‖ lp(sender) ‖ lp(receiver) ‖ lp(origin) ‖ u64 log_size_hint
            ‖ u64 received_ms ‖ u32 max_merge_s ‖ u64 seen_size ‖ 32 seen_root
receipt_sig = Sign(identity, "talos/receipt/v1\n" ‖ receipt)
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from talos.errors import BadSignature, LocalProtocolError, ProofInvalid

if TYPE_CHECKING:
    from talos.abc import SignedReceipt
    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId

__all__ = ["Receipt", "check_receipt", "sign_receipt"]

MAX_MERGE_SECONDS = 86_400
MAX_RECEIPT_BYTES = 4096
_DOMAIN = b"talos/receipt/v1\n"
_FRONT: Final = struct.Struct(">B16s32s")
_BACK: Final = struct.Struct(">QQIQ32s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    msg_id: bytes
    sealed_hash: bytes
    sender: bytes
    receiver: bytes
    origin: bytes
    log_size_hint: int
    received_ms: int
    max_merge_seconds: int = MAX_MERGE_SECONDS
    seen_size: int = 0
    seen_root: bytes = bytes(32)

    def encode(self) -> bytes:
        parts = [_FRONT.pack(1, self.msg_id, self.sealed_hash)]
        for part in (self.sender, self.receiver, self.origin):
            if len(part) > 0xFFFF:
                raise LocalProtocolError("a receipt's field is over 65535 bytes")
            parts.append(len(part).to_bytes(2, "big") + part)
        parts.append(
            _BACK.pack(self.log_size_hint, self.received_ms, self.max_merge_seconds, self.seen_size, self.seen_root)
        )
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """The receipt in exactly these bytes, or ProofInvalid."""
        if not _FRONT.size <= len(data) <= MAX_RECEIPT_BYTES or data[0] != 1:
            raise ProofInvalid("a receipt of another version or size")
        _, msg_id, sealed = _FRONT.unpack_from(data)
        parts, position = [], _FRONT.size
        for _ in range(3):
            start = position + 2
            position = start + int.from_bytes(data[position:start], "big")
            parts.append(data[start:position])
        if len(data) != position + _BACK.size:
            raise ProofInvalid("a receipt of another length than its fields")
        hint, received, merge, seen, root = _BACK.unpack_from(data, position)
        return cls(
            msg_id=msg_id,
            sealed_hash=sealed,
            sender=parts[0],
            receiver=parts[1],
            origin=parts[2],
            log_size_hint=hint,
            received_ms=received,
            max_merge_seconds=merge,
            seen_size=seen,
            seen_root=root,
        )


def sign_receipt(receipt: Receipt, identity: PrivateKey) -> SignedReceipt:
    from talos.abc import SignedReceipt

    body = receipt.encode()
    return SignedReceipt(body, identity.sign(_DOMAIN + body))


def check_receipt(
    receipt: SignedReceipt, *, msg_id: bytes, sealed_hash: bytes, sender: PeerId, receiver: PeerId
) -> None:
    """ProofInvalid unless `receiver` promises, under its own key, exactly this message of `sender`."""
    key = receiver.public_key()
    if key is None:
        raise ProofInvalid(f"the id of {receiver} does not hold a key that could have signed")
    try:
        key.verify(_DOMAIN + receipt.body, receipt.sig)
    except BadSignature as error:
        raise ProofInvalid(f"the receipt is not signed by {receiver}") from error
    promised = Receipt.decode(receipt.body)
    if (promised.msg_id, promised.sealed_hash) != (msg_id, sealed_hash):
        raise ProofInvalid("the receipt is for another message")
    if (promised.sender, promised.receiver) != (sender.to_bytes(), receiver.to_bytes()):
        raise ProofInvalid("the receipt is between other peers")
