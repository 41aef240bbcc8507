"""Proofs made from a chain's database, each checked before it is given out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.chain.checkpoint import Checkpoint, open_checkpoint, verifiers_of
from talos.chain.entry import leaf_hash, party
from talos.chain.merkle import leaf_path
from talos.chain.proof import BlockProof, LogProof, Opening
from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from talos.chain.box import Boxes
    from talos.chain.genesis import Params
    from talos.chain.reading import Reading
    from talos.identity.keys import PrivateKey

__all__ = ["block_proof", "find_index", "log_proof", "opening"]


def find_index(reading: Reading, ident: bytes | int, *, boxes: Boxes | None = None, peer: bytes | None = None) -> int:
    """The number in the log of the entry with this number, message id or message key.

    `peer` chooses among the entries of one message by their counterparty. ProofInvalid: none, or several.
    """
    if isinstance(ident, int):
        if reading.containing(ident) is None:
            raise ProofInvalid(f"there is no entry {ident}")
        return ident
    found = [reading.index_of(position) for position in reading.positions(ident)]
    if peer is not None and boxes is not None and len(ident) == 16:
        hidden = {party(boxes.k_priv, direction, ident, peer) for direction in (1, 2)}
        found = [index for index in found if _party_of(reading.entry_at(index)) in hidden]
    if not found:
        raise ProofInvalid(f"message {ident.hex()} is not in this chain")
    if len(found) > 1:
        numbers = ", ".join(map(str, found))
        raise ProofInvalid(f"message {ident.hex()} has several entries: {numbers}; name one by its number")
    return found[0]


def log_proof(
    reading: Reading, params: Params, ident: bytes | int, *, key: PrivateKey | None, peer: bytes | None = None,
    boxes: Boxes | None = None,
) -> LogProof:  # fmt: skip
    """The `.tlog-proof` of one entry: under the newest checkpoint that covers it, or one signed here with `key`.

    ProofInvalid: there is no such entry, it was pruned, or no checkpoint covers it.
    """
    index = find_index(reading, ident, boxes=boxes, peer=peer)
    entry = reading.entry_at(index)
    note = _covering(reading, params, index, key)
    size = open_checkpoint(note, verifiers_of(params)).size
    proof = LogProof(index, tuple(reading.tiles.inclusion(index, size)), note, entry)
    try:
        proof.verify(verifiers_of(params))
    except ProofInvalid as error:
        raise reading.corrupt("tile", index, "the proof that it gives does not hold") from error
    return proof


def block_proof(reading: Reading, params: Params, index: int) -> BlockProof:
    """The proof of an entry under its block's header. ProofInvalid: not there, or pruned."""
    stored = reading.containing(index)
    if stored is None:
        raise ProofInvalid(f"there is no entry {index}")
    items = reading.items_of(stored)
    number = index - stored.header.first_index
    path = leaf_path([leaf_hash(item.entry) for item in items], number)
    proof = BlockProof(items[number].entry, number, tuple(path), stored.raw, stored.sig)
    try:
        proof.verify({author.audit_pk for author in params.authors}, chain_id=params.chain_id)
    except ProofInvalid as error:
        raise reading.corrupt("header", stored.header.height, "the proof under it does not hold") from error
    return proof


def opening(reading: Reading, boxes: Boxes, entry: bytes, key: bytes, sealed: bytes = b"") -> Opening:
    """What shows who and when of one entry. ProofInvalid where nothing was kept to open it."""
    from talos.chain.entry import Entry, salt

    box = reading.box(key)
    if not box:
        raise ProofInvalid("nothing is kept that opens this entry")
    opened = boxes.open(entry, box)
    if not opened.meta_bytes:
        raise ProofInvalid("this entry commits to nothing that could be opened")
    blob = sealed or opened.extra
    return Opening(salt(boxes.k_priv, Entry.decode(entry).kind, opened.meta_bytes), opened.meta_bytes, blob or None)


def _covering(reading: Reading, params: Params, index: int, key: PrivateKey | None) -> bytes:
    note = reading.checkpoint()
    if note is not None and open_checkpoint(note, verifiers_of(params)).size > index:
        return note
    if key is None:
        raise ProofInvalid(f"no checkpoint covers entry {index} yet")
    stored = reading.containing(index)
    assert stored is not None
    return Checkpoint(params.origin, stored.header.log_size, stored.header.log_root).sign(key)


def _party_of(entry: bytes) -> bytes:
    from talos.chain.entry import Entry

    fields = Entry.decode(entry).fields
    return fields[1] if len(fields) > 1 else b""
