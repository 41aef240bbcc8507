"""What peers asked for, read from the database: for worker threads, on a connection of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.chain.checkpoint import open_checkpoint, verifiers_of
from talos.chain.effects import ServeBlock, ServeBlocks, ServeHeaders, ServeProof
from talos.chain.entry import Entry, leaf_hash, party
from talos.chain.merkle import leaf_path
from talos.chain.messages import Code, Response, WireProof
from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from talos.chain.block import Block
    from talos.chain.effects import Serve
    from talos.chain.genesis import Params
    from talos.chain.messages import ProofReq
    from talos.chain.reading import Reading

__all__ = ["answer"]

MAX_BODY_BYTES = 4 * 1024 * 1024


def answer(reading: Reading, params: Params, k_priv: bytes | None, serve: Serve, peer: bytes) -> Response:
    """The response to one request; NOT_FOUND for all that is not there or not for this peer. StoreCorrupt."""
    what, request = serve.what, serve.request_id
    try:
        match what:
            case ServeHeaders(start, end):
                found = tuple(stored.raw + stored.sig for stored in reading.headers(start, end))
                return Response(id=request, headers=found)
            case ServeBlocks(start, end):
                return _blocks(reading, request, start, end)
            case ServeBlock(block_id):
                stored = reading.header_of(block_id)
                if stored is None:
                    return Response(id=request, code=Code.NOT_FOUND)
                return Response(id=request, blocks=(reading.block(stored),))
            case ServeProof(wanted, counterparty_only):
                only = (k_priv, peer) if counterparty_only else None
                return Response(id=request, proof=_proof(reading, params, wanted, only))
    except ProofInvalid:
        return Response(id=request, code=Code.NOT_FOUND)


def _blocks(reading: Reading, request: int, start: int, end: int) -> Response:
    """As many as 4 MB hold, and at least one."""
    blocks: list[Block] = []
    size = 0
    for stored in reading.headers(start, end):
        block = reading.block(stored)
        size += block.size
        if blocks and size > MAX_BODY_BYTES:
            break
        blocks.append(block)
    return Response(id=request, blocks=tuple(blocks), code=Code.OK if blocks else Code.NOT_FOUND)


def _proof(reading: Reading, params: Params, wanted: ProofReq, only: tuple[bytes | None, bytes] | None) -> WireProof:
    """ProofInvalid: there is none, or the peer is not the other side of the message."""
    index = wanted.index
    if wanted.msg_id is not None:
        index = _index_of(reading, wanted.msg_id, only)
    if index is None:
        raise ProofInvalid("nothing is asked for")
    note = reading.checkpoint()
    if note is None:
        raise ProofInvalid("there is no checkpoint yet")
    size = open_checkpoint(note, verifiers_of(params)).size
    if wanted.tree_size and wanted.tree_size != size:
        size, note = wanted.tree_size, b""
    stored = reading.containing(index)
    if index >= size or size > reading.log_size() or stored is None or wanted.old_size > size:
        raise ProofInvalid("the tree does not reach so far")
    items = reading.items_of(stored)
    number = index - stored.header.first_index
    return WireProof(
        index=index,
        tree_size=size,
        inclusion=tuple(reading.tiles.inclusion(index, size)),
        consistency=tuple(reading.tiles.consistency(wanted.old_size, size)) if wanted.old_size else (),
        checkpoint=note,
        entry=items[number].entry,
        header=stored.raw,
        header_sig=stored.sig,
        block_path=tuple(leaf_path([leaf_hash(item.entry) for item in items], number)),
    )


def _index_of(reading: Reading, msg_id: bytes, only: tuple[bytes | None, bytes] | None) -> int | None:
    for position in reading.positions(msg_id):
        index = reading.index_of(position)
        if only is None:
            return index
        k_priv, peer = only
        if k_priv is not None:
            hidden = Entry.decode(reading.entry_at(index)).fields[1]
            if hidden in {party(k_priv, direction, msg_id, peer) for direction in (1, 2)}:
                return index
    return None
