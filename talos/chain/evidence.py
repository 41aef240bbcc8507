"""Evidence of equivocation: two statements of one author that cannot both be true, in a file that convinces anybody.

    file = "talos/evidence/v1\\n" ‖ u8 type ‖ two statements
    type 1: two signed headers, 296 bytes each       type 2: two notes, u32 length each       type 3: a header, a note

- Two headers: one chain, author and height, different blocks; in a shared chain on one parent too, for after a switch
  of branches an author may rightly sign a height again on another parent.
- Two notes, or in a feed a header and a note: one origin and tree size, one signer, different roots. (A header of a
  shared chain may have been orphaned; beside a checkpoint it proves nothing.)
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from talos.chain.block import HEADER_BYTES, SIGNED_HEADER_BYTES, Header, block_id, check_signature
from talos.chain.checkpoint import opened_by, verifiers_of
from talos.chain.genesis import Mode
from talos.chain.note import MAX_NOTE_BYTES
from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from talos.chain.genesis import Params

__all__ = ["CONFLICT_MAGIC", "MAGIC", "MAX_EVIDENCE_BYTES", "Evidence", "Statements", "conflicting"]

MAGIC = b"talos/evidence/v1\n"
CONFLICT_MAGIC = b"talos/conflict/v1\n"
MAX_EVIDENCE_BYTES = len(MAGIC) + 1 + 2 * (4 + MAX_NOTE_BYTES)


class Statements(enum.IntEnum):
    """What the two statements are."""

    HEADERS = 1
    NOTES = 2
    HEADER_AND_NOTE = 3


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two statements as their bytes stood; nothing of them is verified yet."""

    type: Statements
    first: bytes
    second: bytes

    def encode(self) -> bytes:
        parts = [MAGIC, bytes((self.type,))]
        for is_note, statement in zip(_NOTES[self.type], (self.first, self.second), strict=True):
            parts.append(len(statement).to_bytes(4, "big") + statement if is_note else statement)
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The evidence in exactly these bytes, or ProofInvalid."""
        start = len(MAGIC) + 1
        if not data.startswith(MAGIC) or len(data) < start or data[start - 1] not in tuple(Statements):
            raise ProofInvalid("this is no evidence of a version and type that are known")
        kind = Statements(data[start - 1])
        statements = []
        for is_note in _NOTES[kind]:
            size = SIGNED_HEADER_BYTES
            if is_note:
                size = int.from_bytes(data[start : start + 4], "big")
                start += 4
                if size > MAX_NOTE_BYTES:
                    raise ProofInvalid(f"a note of {size} bytes is over {MAX_NOTE_BYTES}")
            statements.append(data[start : start + size])
            start += size
        if start != len(data):
            raise ProofInvalid("evidence of another length than its statements")
        return cls(kind, *statements)

    def verify(self, params: Params) -> str:
        """What it proves against an author of this chain, in words, or ProofInvalid."""
        match self.type:
            case Statements.HEADERS:
                return _two_headers(params, self.first, self.second)
            case Statements.NOTES:
                return _two_notes(params, self.first, self.second)
            case _:
                return _header_and_note(params, self.first, self.second)


_NOTES = {
    Statements.HEADERS: (False, False),
    Statements.NOTES: (True, True),
    Statements.HEADER_AND_NOTE: (False, True),
}


def conflicting(entry: bytes) -> bytes:
    """The file that keeps the second content of a message key; the first is in the chain. It accuses nobody."""
    return CONFLICT_MAGIC + entry


def _signed_header(params: Params, statement: bytes) -> Header:
    header = Header.decode(statement[:HEADER_BYTES])
    author = params.author(header.author_pk)
    if header.chain_id != params.chain_id or author is None:
        raise ProofInvalid("a header is of another chain, or of none of its authors")
    check_signature(author.key, block_id(statement[:HEADER_BYTES]), statement[HEADER_BYTES:])
    return header


def _two_headers(params: Params, first: bytes, second: bytes) -> str:
    one, other = _signed_header(params, first), _signed_header(params, second)
    if (one.author_pk, one.height) != (other.author_pk, other.height) or one == other:
        raise ProofInvalid("the headers are of different authors or heights, or the same")
    if params.mode is Mode.SHARED and one.prev_id != other.prev_id:
        raise ProofInvalid("the headers have different parents, which a shared chain allows")
    return f"author {one.author_pk.hex()} signed two blocks at height {one.height} of chain {params.chain_id.hex()}"


def _two_notes(params: Params, first: bytes, second: bytes) -> str:
    verifiers = verifiers_of(params)
    one, signers = opened_by(first, verifiers)
    other, also = opened_by(second, verifiers)
    both = sorted(signers & also)
    if not both:
        raise ProofInvalid("the checkpoints are not signed by one key")
    if one.size != other.size or one.root == other.root:
        raise ProofInvalid("the checkpoints are of different sizes, or the same")
    return f"author {both[0].hex()} signed two roots at size {one.size} of {one.origin}"


def _header_and_note(params: Params, first: bytes, second: bytes) -> str:
    if params.mode is Mode.SHARED:
        raise ProofInvalid("a header of a shared chain may have been orphaned")
    header = _signed_header(params, first)
    checkpoint, _ = opened_by(second, verifiers_of(params))
    if header.log_size != checkpoint.size or header.log_root == checkpoint.root:
        raise ProofInvalid("header and checkpoint are of different sizes, or agree")
    return f"author {header.author_pk.hex()} signed two roots at size {header.log_size} of {checkpoint.origin}"
