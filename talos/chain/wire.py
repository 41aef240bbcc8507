"""Protobuf ↔ the messages of `/talos/chain/1.0.0`. What does not have its one form raises RemoteProtocolError."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from talos.chain.block import HEADER_BYTES, SIGNATURE_BYTES, Block, Item
from talos.chain.messages import (
    MAX_BLOCKS,
    MAX_HEADERS,
    MAX_LOCATOR,
    Code,
    Message,
    ProofReq,
    Range,
    Request,
    Response,
    Status,
    WireProof,
)
from talos.errors import MessageTooLarge, ProofInvalid, RemoteProtocolError
from talos.wire.pb import chain_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_FRAME", "MAX_REQUEST", "MAX_STATUS", "decode", "encode"]

MAX_STATUS = 8 * 1024
MAX_REQUEST = 4 * 1024
MAX_FRAME = 4 * 1024 * 1024 + 64 * 1024
"""A response; the others are smaller."""
WORK_BYTES = 32
HASH_BYTES = 32
ID_BYTES = 16
MAX_ITEMS = 4096
MAX_PATH = 63


def encode(message: Message) -> bytes:
    match message:
        case Status():
            return _status(message)
        case Request():
            return _request(message)
        case Response():
            return _response(message)


def decode(data: bytes) -> Message:
    """The message in these bytes. RemoteProtocolError for any that is not whole, or over its own limit."""
    frame = pb.ChainMessage()
    try:
        frame.ParseFromString(bytes(data))
    except DecodeError as error:
        raise RemoteProtocolError("a chain message is not in protobuf") from error
    kind = frame.WhichOneof("kind")
    if kind == "status":
        _limit(data, MAX_STATUS, "status")
        return _read_status(frame.status)
    if kind == "request":
        _limit(data, MAX_REQUEST, "request")
        return _read_request(frame.request)
    if kind == "response":
        return _read_response(frame.response)
    raise RemoteProtocolError("a chain message is empty")


def _status(status: Status) -> bytes:
    found = pb.ChainStatus(
        chain_id=status.chain_id,
        height=status.height,
        total_work=status.total_work.to_bytes(WORK_BYTES, "big"),
        tip_id=status.tip_id,
        log_size=status.log_size,
        log_root=status.log_root,
        checkpoint=status.checkpoint,
        min_height=status.min_height,
        min_index=status.min_index,
        now_ms=status.now_ms,
    )
    return pb.ChainMessage(status=found).SerializeToString()


def _read_status(found: pb.ChainStatus) -> Status:
    _sized(found.chain_id, HASH_BYTES, "a chain's id", empty=True)
    if found.chain_id:
        for value, size in ((found.total_work, WORK_BYTES), (found.tip_id, HASH_BYTES), (found.log_root, HASH_BYTES)):
            _sized(value, size, "a value of a status")
    return Status(
        chain_id=found.chain_id,
        height=found.height,
        total_work=int.from_bytes(found.total_work, "big"),
        tip_id=found.tip_id,
        log_size=found.log_size,
        log_root=found.log_root,
        checkpoint=found.checkpoint,
        min_height=found.min_height,
        min_index=found.min_index,
        now_ms=found.now_ms,
    )


def _request(request: Request) -> bytes:
    found = pb.ChainRequest(chain_id=request.chain_id, id=request.id, locator=request.locator)
    if request.headers is not None:
        found.headers.start, found.headers.end = request.headers
        found.headers.SetInParent()
    elif request.blocks is not None:
        found.blocks.start, found.blocks.end = request.blocks
        found.blocks.SetInParent()
    elif request.block_id is not None:
        found.block_id = request.block_id
    elif request.proof is not None:
        _write_proof_request(found.proof, request.proof)
    return pb.ChainMessage(request=found).SerializeToString()


def _write_proof_request(found: pb.ProofReq, proof: ProofReq) -> None:
    if proof.msg_id is not None:
        found.msg_id = proof.msg_id
    else:
        found.index = proof.index or 0
    found.tree_size, found.old_size = proof.tree_size, proof.old_size


def _read_request(found: pb.ChainRequest) -> Request:
    _sized(found.chain_id, HASH_BYTES, "a chain's id", empty=True)
    if len(found.locator) > MAX_LOCATOR:
        raise RemoteProtocolError(f"a locator has over {MAX_LOCATOR} ids")
    for one in found.locator:
        _sized(one, HASH_BYTES, "a block's id")
    what = found.WhichOneof("what")
    if what is None:
        raise RemoteProtocolError("a request asks for nothing")
    request = Request(
        chain_id=found.chain_id,
        id=found.id,
        headers=_read_range(found.headers) if what == "headers" else None,
        blocks=_read_range(found.blocks) if what == "blocks" else None,
        block_id=found.block_id if what == "block_id" else None,
        proof=_read_proof_request(found.proof) if what == "proof" else None,
        locator=tuple(found.locator),
    )
    if request.block_id is not None:
        _sized(request.block_id, HASH_BYTES, "a block's id")
    return request


def _read_range(found: pb.Range) -> Range:
    if found.start > found.end:
        raise RemoteProtocolError("a range ends before it begins")
    return Range(found.start, found.end)


def _read_proof_request(found: pb.ProofReq) -> ProofReq:
    by = found.WhichOneof("by")
    if by is None:
        raise RemoteProtocolError("a proof is asked of nothing")
    if by == "msg_id":
        _sized(found.msg_id, ID_BYTES, "a message id")
    return ProofReq(
        index=found.index if by == "index" else None,
        msg_id=found.msg_id if by == "msg_id" else None,
        tree_size=found.tree_size,
        old_size=found.old_size,
    )


def _response(response: Response) -> bytes:
    found = pb.ChainResponse(
        headers=[header[:HEADER_BYTES] for header in response.headers],
        header_sigs=[header[HEADER_BYTES:] for header in response.headers],
        blocks=[_block(block) for block in response.blocks],
        status=response.code,
        id=response.id,
        min_height=response.min_height,
        min_index=response.min_index,
    )
    if response.proof is not None:
        proof = response.proof
        found.proof.CopyFrom(
            pb.Proof(
                index=proof.index,
                tree_size=proof.tree_size,
                inclusion=proof.inclusion,
                consistency=proof.consistency,
                checkpoint=proof.checkpoint,
                entry=proof.entry,
                header=proof.header,
                block_path=proof.block_path,
                header_sig=proof.header_sig,
            )
        )
    return pb.ChainMessage(response=found).SerializeToString()


def _block(block: Block) -> pb.Block:
    items = [
        pb.Item(entry=item.entry, sealed=item.sealed, sealed_len=0 if item.sealed else item.sealed_len)
        for item in block.items
    ]
    return pb.Block(header=block.raw, sig=block.sig, items=items)


def _read_response(found: pb.ChainResponse) -> Response:
    if len(found.headers) > MAX_HEADERS or len(found.blocks) > MAX_BLOCKS:
        raise RemoteProtocolError("a response has too many headers or blocks")
    if len(found.headers) != len(found.header_sigs):
        raise RemoteProtocolError("a response has other headers than signatures")
    try:
        code = Code(found.status)
    except ValueError as error:
        raise RemoteProtocolError(f"a response has the status {found.status}") from error
    return Response(
        id=found.id,
        code=code,
        headers=tuple(_signed(raw, sig) for raw, sig in zip(found.headers, found.header_sigs, strict=True)),
        blocks=tuple(_read_block(block) for block in found.blocks),
        proof=_read_proof(found.proof) if found.HasField("proof") else None,
        min_height=found.min_height,
        min_index=found.min_index,
    )


def _signed(raw: bytes, sig: bytes) -> bytes:
    _sized(raw, HEADER_BYTES, "a header")
    _sized(sig, SIGNATURE_BYTES, "a signature")
    return raw + sig


def _read_block(found: pb.Block) -> Block:
    _signed(found.header, found.sig)
    if len(found.items) > MAX_ITEMS:
        raise RemoteProtocolError(f"a block has over {MAX_ITEMS} items")
    try:
        items = tuple(Item(item.entry, item.sealed, item.sealed_len or len(item.sealed)) for item in found.items)
    except ProofInvalid as error:
        raise RemoteProtocolError(f"a block's item is none: {error}") from error
    return Block(found.header, found.sig, items)


def _read_proof(found: pb.Proof) -> WireProof:
    _hashes(found.inclusion)
    _hashes(found.consistency)
    _hashes(found.block_path)
    return WireProof(
        index=found.index,
        tree_size=found.tree_size,
        inclusion=tuple(found.inclusion),
        consistency=tuple(found.consistency),
        checkpoint=found.checkpoint,
        entry=found.entry,
        header=found.header,
        header_sig=found.header_sig,
        block_path=tuple(found.block_path),
    )


def _hashes(found: Sequence[bytes]) -> None:
    if len(found) > MAX_PATH:
        raise RemoteProtocolError(f"a proof has over {MAX_PATH} hashes")
    for one in found:
        _sized(one, HASH_BYTES, "a hash")


def _sized(value: bytes, size: int, what: str, *, empty: bool = False) -> None:
    if len(value) != size and not (empty and not value):
        raise RemoteProtocolError(f"{what} has {size} bytes, not {len(value)}")


def _limit(data: bytes, limit: int, what: str) -> None:
    if len(data) > limit:
        raise MessageTooLarge(f"a {what} of {len(data)} bytes is over {limit}")
