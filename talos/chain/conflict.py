"""Two blocks of one author for one height: what they prove, and what follows for the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.chain.block import HEADER_BYTES, Header, block_id, check_signature
from talos.chain.checkpoint import opened_by, verifiers_of
from talos.chain.effects import Alarm, AlarmKind
from talos.chain.effects import Evidence as KeepEvidence
from talos.chain.evidence import Evidence, Statements
from talos.chain.genesis import Mode
from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from talos.chain.effects import Effect, Stored
    from talos.chain.state import ChainState

__all__ = ["checkpoint_conflict", "covered", "equivocation", "read_signed"]

MAX_STATUS_NOTE = 4096


def read_signed(state: ChainState, signed: bytes, height: int) -> Header:
    """The header of this height that an author of the chain has signed, whatever else is wrong with it."""
    header = Header.decode(signed[:HEADER_BYTES])
    author = state.params.author(header.author_pk)
    if header.chain_id != state.params.chain_id or author is None or header.height != height:
        raise ProofInvalid("the header is not what was asked for")
    check_signature(author.key, block_id(signed[:HEADER_BYTES]), signed[HEADER_BYTES:])
    return header


def equivocation(state: ChainState, ours: Stored, signed: bytes) -> list[Effect]:
    """Another signed header at the height of ours: evidence where one author signed both; a feed freezes."""
    header = Header.decode(signed[:HEADER_BYTES])
    if ours.header.author_pk != header.author_pk:
        return []
    file = Evidence(Statements.HEADERS, ours.raw + ours.sig, signed).encode()
    text = f"author {header.author_pk.hex()} signed two blocks at height {header.height}"
    if state.params.mode is Mode.SHARED:
        return [KeepEvidence(file), Alarm(AlarmKind.EQUIVOCATION, text)]
    state.frozen_at = header.height
    return [KeepEvidence(file), Alarm(AlarmKind.FROZEN, f"{text}: the chain is frozen")]


def checkpoint_conflict(state: ChainState, note: bytes) -> list[Effect]:
    """A checkpoint of a feed beside the block of ours that has its size. ProofInvalid for what is no checkpoint."""
    checkpoint, _ = opened_by(note, verifiers_of(state.params), max_bytes=MAX_STATUS_NOTE)
    ours = state.source.ending_at(checkpoint.size) if state.params.mode is Mode.FEED else None
    if ours is None or ours.header.log_root == checkpoint.root or state.frozen_at is not None:
        return []
    state.frozen_at = ours.header.height
    file = Evidence(Statements.HEADER_AND_NOTE, ours.raw + ours.sig, note).encode()
    text = f"author {ours.header.author_pk.hex()} signed two roots at size {checkpoint.size}: the chain is frozen"
    return [KeepEvidence(file), Alarm(AlarmKind.FROZEN, text)]


def covered(state: ChainState, note: bytes) -> int | None:
    """The size of a feed's checkpoint, where our copy reaches it and has the same root. The signature was checked."""
    checkpoint, _ = opened_by(note, verifiers_of(state.params), max_bytes=MAX_STATUS_NOTE)
    ours = state.source.ending_at(checkpoint.size) if state.params.mode is Mode.FEED else None
    return checkpoint.size if ours is not None and ours.header.log_root == checkpoint.root else None
