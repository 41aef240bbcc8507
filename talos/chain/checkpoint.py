"""Checkpoints: what a chain's log was at one size, signed (C2SP tlog-checkpoint v1.0.0, without extension lines).

    text = origin ‖ "\\n" ‖ decimal size ‖ "\\n" ‖ base64(root) ‖ "\\n"

The audit key signs it as a note under the origin's name.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.chain.note import MAX_NOTE_BYTES, Verifier, open_note, sign_note, strict_base64
from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.chain.genesis import Params
    from talos.chain.note import Opened
    from talos.identity.keys import PrivateKey

__all__ = ["Checkpoint", "open_checkpoint", "opened_by", "verifiers_of"]

MAX_SIZE = (1 << 63) - 1
HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The root of a log at a size."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The checkpoint in exactly this text, or ProofInvalid."""
        lines = text.split("\n")
        if len(lines) != 4 or lines[3] or not lines[0]:
            raise ProofInvalid("a checkpoint has three lines")
        origin, size, root = lines[:3]
        found = cls(origin, read_decimal(size, "the size of a checkpoint"), strict_base64(root, "the root"))
        if len(found.root) != HASH_BYTES:
            raise ProofInvalid(f"the root of a checkpoint has {HASH_BYTES} bytes, not {len(found.root)}")
        return found

    def sign(self, key: PrivateKey) -> bytes:
        """The note by which others know it."""
        return sign_note(self.text, ((self.origin, key),))


def read_decimal(text: str, what: str) -> int:
    """A number written in the one way, at most 2^63 - 1, or ProofInvalid."""
    if len(text) > len(str(MAX_SIZE)) or not (text.isascii() and text.isdecimal()) or str(int(text)) != text:
        raise ProofInvalid(f"{what} is no decimal number")
    if (value := int(text)) > MAX_SIZE:
        raise ProofInvalid(f"{what} is over {MAX_SIZE}")
    return value


def open_checkpoint(data: bytes, verifiers: Iterable[Verifier], *, max_bytes: int = MAX_NOTE_BYTES) -> Checkpoint:
    """The checkpoint that a key of its own origin has signed, or ProofInvalid."""
    return opened_by(data, verifiers, max_bytes=max_bytes)[0]


def opened_by(
    data: bytes, verifiers: Iterable[Verifier], *, max_bytes: int = MAX_NOTE_BYTES
) -> tuple[Checkpoint, frozenset[bytes]]:
    """The checkpoint, and the public keys of its origin that signed it."""
    opened: Opened = open_note(data, verifiers, max_bytes=max_bytes)
    found = Checkpoint.parse(opened.text)
    signers = frozenset(signer.public for signer in opened.signers if signer.name == found.origin)
    if not signers:
        raise ProofInvalid(f"the checkpoint is of {found.origin}, and not signed by a key of that name")
    return found, signers


def verifiers_of(params: Params) -> tuple[Verifier, ...]:
    """The keys that may sign checkpoints of this chain."""
    return tuple(Verifier(params.origin, author.audit_pk) for author in params.authors)
