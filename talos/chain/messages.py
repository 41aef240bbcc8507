"""What travels on `/talos/chain/1.0.0`, as dataclasses."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from talos.chain.block import Block

__all__ = [
    "MAX_BLOCKS",
    "MAX_HEADERS",
    "MAX_LOCATOR",
    "MAX_OPEN_REQUESTS",
    "Code",
    "Message",
    "ProofReq",
    "Range",
    "Request",
    "Response",
    "Status",
    "WireProof",
]

MAX_HEADERS = 2000
MAX_BLOCKS = 16
MAX_LOCATOR = 64
MAX_OPEN_REQUESTS = 4


class Code(enum.IntEnum):
    """How a request ended."""

    OK = 0
    NOT_FOUND = 1
    """Also for peers that may not read: existence is not leaked."""
    PRUNED = 2
    BUSY = 3
    FROZEN = 4


class Range(NamedTuple):
    """Heights, both ends included."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """What a peer says of its chain; hints, all recomputed."""

    chain_id: bytes
    height: int
    total_work: int
    tip_id: bytes
    log_size: int
    log_root: bytes
    checkpoint: bytes = b""
    min_height: int = 0
    min_index: int = 0
    now_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofReq:
    """By index or message id; the size of the tree, and of an older one for a consistency proof. 0: newest, none."""

    index: int | None = None
    msg_id: bytes | None = None
    tree_size: int = 0
    old_size: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Exactly one of headers, blocks, block_id and proof; with a locator, headers after its last common id."""

    chain_id: bytes
    id: int
    headers: Range | None = None
    blocks: Range | None = None
    block_id: bytes | None = None
    proof: ProofReq | None = None
    locator: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WireProof:
    """A proof as it travels."""

    index: int
    tree_size: int
    inclusion: tuple[bytes, ...] = ()
    consistency: tuple[bytes, ...] = ()
    checkpoint: bytes = b""
    entry: bytes = b""
    header: bytes = b""
    header_sig: bytes = b""
    block_path: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    id: int
    code: Code = Code.OK
    headers: tuple[bytes, ...] = ()
    """Header and signature each: 296 bytes when they are what they should be."""
    blocks: tuple[Block, ...] = ()
    proof: WireProof | None = None
    min_height: int = 0
    min_index: int = 0


Message: TypeAlias = Status | Request | Response
