"""What opens our own entries, kept beside the chain and sealed: `meta`, and the receipt or line that came with it.

    k_box = HKDF(k_priv, info "talos/chain-box/v1\\n")
    box   = u8 flags ‖ ChaCha20-Poly1305(k_box, nonce, u32 n ‖ n bytes meta ‖ extra, AD = entry)
    nonce = H("talos/chain-box-nonce/v1\\n" ‖ leaf ‖ flags)[:12]          flags: 1 when there is an extra

An entry fixes what its box holds, so a nonce never seals two contents.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from talos.chain.entry import Entry, Kind, Meta, leaf_hash, open_meta, sealed_hash
from talos.errors import LocalProtocolError, ProofInvalid

__all__ = ["Boxes", "Opened"]

HAS_EXTRA = 0x01
MAX_EXTRA_BYTES = 100_000


@dataclass(frozen=True, slots=True)
class Opened:
    """An entry with what it only commits to, compared."""

    meta: Meta | None
    meta_bytes: bytes
    extra: bytes
    """The line of a tunnel under its salt, or a receipt's body and signature; empty where none was kept."""


class Boxes:
    """Seals and opens the boxes of one chain."""

    __slots__ = ("_aead", "k_priv")

    def __init__(self, k_priv: bytes) -> None:
        self.k_priv = k_priv
        kdf = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=b"talos/chain-box/v1\n")
        self._aead = ChaCha20Poly1305(kdf.derive(k_priv))

    def seal(self, entry: bytes, leaf: bytes, meta: bytes, extra: bytes) -> bytes:
        """LocalProtocolError when `extra` is over the limit of an item."""
        if len(extra) > MAX_EXTRA_BYTES:
            raise LocalProtocolError(f"a blob of {len(extra)} bytes is over {MAX_EXTRA_BYTES}")
        flags = b"\x01" if extra else b"\x00"
        return flags + self._aead.encrypt(_nonce(leaf, flags), len(meta).to_bytes(4, "big") + meta + extra, entry)

    def open(self, data: bytes, box: bytes) -> Opened:
        """What is in the box of the entry `data`. ProofInvalid unless all of it is what the entry says."""
        return self.open_entry(Entry.decode(data), data, leaf_hash(data), box)

    def open_entry(self, entry: Entry, data: bytes, leaf: bytes, box: bytes) -> Opened:
        """As `open`, of an entry that was decoded and hashed before."""
        flags = box[:1]
        try:
            plain = self._aead.decrypt(_nonce(leaf, flags), box[1:], data)
        except InvalidTag as error:
            raise ProofInvalid("the box does not open with this chain's key") from error
        size = int.from_bytes(plain[:4], "big")
        meta, extra = plain[4 : 4 + size], plain[4 + size :]
        opened = open_meta(entry, meta, self.k_priv) if entry.meta_commit is not None else None
        if extra:
            _check_extra(entry, extra)
        return Opened(opened, meta, extra)


def _nonce(leaf: bytes, flags: bytes) -> bytes:
    return sha256(b"talos/chain-box-nonce/v1\n" + leaf + flags).digest()[:12]


def _check_extra(entry: Entry, extra: bytes) -> None:
    if entry.kind is Kind.RECEIPT_GOT:
        named, found = entry.fields[2], sha256(b"talos/receipt-hash/v1\n" + extra).digest()
    else:
        named, found = entry.sealed_hash or b"", sealed_hash(extra)
    if not hmac.compare_digest(found, named):
        raise ProofInvalid("what was kept beside the entry is not what it names")
