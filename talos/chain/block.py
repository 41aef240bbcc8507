"""Blocks: a signed header of 232 bytes over items, which are entries with or without their blobs.

    header = u16 version=1 ‖ 32 chain_id ‖ u64 height ‖ 32 prev_id ‖ u64 time_ms ‖ u16 pow_bits ‖ u32 n_items
           ‖ 32 body_hash ‖ 32 entries_root ‖ u64 log_size ‖ 32 log_root ‖ 32 author_pk ‖ u64 nonce

    block_id   = H("talos/block/v1\\n" ‖ header)          author_sig = Sign(audit, "talos/block-sig/v1\\n" ‖ block_id)
    body_hash  = H("talos/body/v1\\n" ‖ for each item: lp(entry) ‖ u32 sealed_len ‖ 32 sealed_hash)
    block size = 296 + Σ(2 + len(entry) + 4 + len(sealed))

The header fixes lengths and hashes of the blobs, so a block stays whole when its blobs are pruned: an item then has a
length without a blob. The author's signature is outside the id, so nobody makes a second id of one block.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, Self

from talos.chain.entry import inspect, leaf_hash, sealed_hash
from talos.chain.merkle import merkle_root
from talos.chain.pow import work
from talos.errors import BadSignature, LocalProtocolError, ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.chain.merkle import Frontier
    from talos.identity.keys import PrivateKey, PublicKey

__all__ = [
    "HEADER_BYTES",
    "SIGNATURE_BYTES",
    "SIGNED_HEADER_BYTES",
    "Block",
    "BodyDigest",
    "Checked",
    "Draft",
    "Header",
    "Item",
    "Prepared",
    "block_id",
    "body_hash",
    "check_signature",
    "decode_items",
    "encode_items",
    "sign_block",
]

VERSION = 1
HASH_BYTES = 32
SIGNATURE_BYTES = 64
NO_HASH = bytes(HASH_BYTES)

_HEADER: Final = struct.Struct(">H32sQ32sQHI32s32sQ32s32sQ")
HEADER_BYTES = _HEADER.size
SIGNED_HEADER_BYTES = HEADER_BYTES + SIGNATURE_BYTES
ITEM_OVERHEAD = 6
_ID_DOMAIN = b"talos/block/v1\n"
_SIG_DOMAIN = b"talos/block-sig/v1\n"
_BODY_DOMAIN = b"talos/body/v1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What its author signs of a block."""

    chain_id: bytes
    height: int
    prev_id: bytes
    time_ms: int
    pow_bits: int
    n_items: int
    body_hash: bytes
    entries_root: bytes
    log_size: int
    """Entries in the chain, this block's own included."""
    log_root: bytes
    author_pk: bytes
    nonce: int = 0

    def encode(self) -> bytes:
        """LocalProtocolError where a number does not fit its field."""
        try:
            return _HEADER.pack(
                VERSION, self.chain_id, self.height, self.prev_id, self.time_ms, self.pow_bits, self.n_items,
                self.body_hash, self.entries_root, self.log_size, self.log_root, self.author_pk, self.nonce,
            )  # fmt: skip
        except struct.error as error:
            raise LocalProtocolError(f"a number does not fit a header: {error}") from error

    @classmethod
    def decode(cls, raw: bytes) -> Self:
        """The header in exactly these bytes. ProofInvalid: another length or version."""
        if len(raw) != HEADER_BYTES:
            raise ProofInvalid(f"a header has {HEADER_BYTES} bytes, not {len(raw)}")
        version, chain, height, prev, time_ms, bits, n_items, body, entries, size, root, author, nonce = _HEADER.unpack(
            raw
        )
        if version != VERSION:
            raise ProofInvalid(f"header version {version} is unknown")
        return cls(
            chain_id=chain, height=height, prev_id=prev, time_ms=time_ms, pow_bits=bits, n_items=n_items,
            body_hash=body, entries_root=entries, log_size=size, log_root=root, author_pk=author, nonce=nonce,
        )  # fmt: skip

    @property
    def block_id(self) -> bytes:
        return block_id(self.encode())

    @property
    def first_index(self) -> int:
        """Where in the log the block's own entries begin."""
        return self.log_size - self.n_items


def block_id(raw: bytes) -> bytes:
    """The id of the block with this header; with the proof of work in it."""
    return sha256(_ID_DOMAIN + raw).digest()


def sign_block(key: PrivateKey, block_id: bytes) -> bytes:
    return key.sign(_SIG_DOMAIN + block_id)


def check_signature(key: PublicKey, block_id: bytes, sig: bytes) -> None:
    """ProofInvalid unless the holder of `key` signed this block."""
    try:
        key.verify(_SIG_DOMAIN + block_id, sig)
    except BadSignature as error:
        raise ProofInvalid("the block is not signed by the author that it names") from error


# -- Items ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Item:
    """An entry, and the blob that belongs to it: there, not there, or pruned."""

    entry: bytes
    sealed: bytes = b""
    sealed_len: int = 0
    """The blob's length, also of one that was pruned; worked out where a blob is given."""

    def __post_init__(self) -> None:
        if self.sealed and not self.sealed_len:
            object.__setattr__(self, "sealed_len", len(self.sealed))

    @property
    def size(self) -> int:
        """What it counts in a block, whether or not its blob is still there."""
        return ITEM_OVERHEAD + len(self.entry) + self.sealed_len

    @property
    def pruned(self) -> bool:
        return self.sealed_len > 0 and not self.sealed

    def without_blob(self) -> Item:
        return replace(self, sealed=b"") if self.sealed else self


class Prepared(NamedTuple):
    """An item with what a block's hashes and a chain's index take of it."""

    key: bytes
    item: Item
    leaf: bytes
    sealed_hash: bytes | None
    """What the entry names, whether or not the blob is attached."""

    @classmethod
    def of(cls, item: Item) -> Self:
        """LocalProtocolError for what is no entry, or a blob that is not the one it names."""
        try:
            found = inspect(item.entry)
        except ProofInvalid as error:
            raise LocalProtocolError(f"no entry for a block: {error}") from error
        if item.sealed_len and (item.pruned or sealed_hash(item.sealed) != found.sealed_hash):
            raise LocalProtocolError("the blob is not the one that its entry names")
        return cls(found.key24, item, leaf_hash(item.entry), found.sealed_hash)


def body_hash(items: Sequence[Item], hashes: Sequence[bytes | None] | None = None) -> bytes:
    """`hashes`, the blob hashes that the entries name, spare reading them out; they count where a blob is attached."""
    if hashes is None:
        hashes = [inspect(item.entry).sealed_hash for item in items]
    digest = BodyDigest()
    digest.update(items, hashes)
    return digest.digest()


class BodyDigest:
    """`body_hash`, part by part."""

    __slots__ = ("_digest",)

    def __init__(self) -> None:
        self._digest = sha256(_BODY_DOMAIN)

    def update(self, items: Sequence[Item], hashes: Sequence[bytes | None]) -> None:
        parts: list[bytes] = []
        for item, named in zip(items, hashes, strict=True):
            attached = (item.sealed_len and named) or NO_HASH
            parts += (len(item.entry).to_bytes(2, "big"), item.entry, item.sealed_len.to_bytes(4, "big"), attached)
        self._digest.update(b"".join(parts))

    def digest(self) -> bytes:
        return self._digest.digest()


def encode_items(items: Sequence[Item]) -> bytes:
    """Per item lp(entry) ‖ u32 sealed_len ‖ sealed, as a store and archives keep them; pruned blobs leave nothing."""
    parts: list[bytes] = []
    for item in items:
        entry = item.entry
        parts += (len(entry).to_bytes(2, "big"), entry, item.sealed_len.to_bytes(4, "big"), item.sealed)
    return b"".join(parts)


def decode_items(data: bytes, *, pruned: bool = False) -> list[Item]:
    """The items in exactly these bytes; `pruned` when their blobs are gone. ProofInvalid otherwise."""
    items, position, end = [], 0, len(data)
    while position < end:
        start = position + 2
        middle = start + int.from_bytes(data[position:start], "big")
        stop = middle + 4
        if stop > end:
            raise ProofInvalid("an item is cut short")
        sealed_len = int.from_bytes(data[middle:stop], "big")
        position = stop if pruned else stop + sealed_len
        if position > end:
            raise ProofInvalid("a blob is cut short")
        items.append(Item(data[start:middle], data[stop:position], sealed_len))
    return items


# -- Blocks ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """As it travels: nothing of it is checked."""

    raw: bytes
    """The header's bytes."""
    sig: bytes
    items: tuple[Item, ...]

    @property
    def header(self) -> Header:
        """ProofInvalid when the bytes are none."""
        return Header.decode(self.raw)

    @property
    def size(self) -> int:
        return SIGNED_HEADER_BYTES + sum(item.size for item in self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A block that keeps every rule of its chain, with all that a store writes of it."""

    header: Header
    raw: bytes
    sig: bytes
    block_id: bytes
    total_work: int
    """Of the chain up to and with this block."""
    items: tuple[Item, ...]
    leaves: tuple[bytes, ...]
    keys: tuple[bytes, ...]

    @property
    def height(self) -> int:
        return self.header.height

    @property
    def first_index(self) -> int:
        return self.header.first_index

    @property
    def block(self) -> Block:
        return Block(self.raw, self.sig, self.items)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A block of our own that wants its proof of work."""

    header: Header
    """With nonce 0."""
    items: tuple[Item, ...]
    leaves: tuple[bytes, ...]
    keys: tuple[bytes, ...]
    parent_work: int = field(default=0)

    @classmethod
    def build(
        cls,
        items: Sequence[Prepared],
        *,
        chain_id: bytes,
        height: int,
        prev_id: bytes,
        time_ms: int,
        bits: int,
        frontier: Frontier,
        author_pk: bytes,
        parent_work: int,
    ) -> Self:
        """The block of `items` behind the tree of `frontier`, which is left as it was."""
        if not items:
            raise LocalProtocolError("no block is empty")
        keys, bare, leaves, hashes = zip(*items, strict=True)
        grown = frontier.copy()
        grown.extend(leaves)
        header = Header(
            chain_id=chain_id,
            height=height,
            prev_id=prev_id,
            time_ms=time_ms,
            pow_bits=bits,
            n_items=len(items),
            body_hash=body_hash(bare, hashes),
            entries_root=merkle_root(leaves),
            log_size=grown.size,
            log_root=grown.root(),
            author_pk=author_pk,
        )
        return cls(header=header, items=bare, leaves=leaves, keys=keys, parent_work=parent_work)

    def finish(self, nonce: int, key: PrivateKey) -> Checked:
        """The block with its proof of work, signed. LocalProtocolError when the nonce is none."""
        header = replace(self.header, nonce=nonce)
        raw = header.encode()
        found = block_id(raw)
        if int.from_bytes(found, "big") >> (256 - header.pow_bits):
            raise LocalProtocolError(f"nonce {nonce} is no proof of work of {header.pow_bits} bits")
        if key.public_key.data != header.author_pk:
            raise LocalProtocolError("the draft names another author than the key")
        return Checked(
            header=header,
            raw=raw,
            sig=sign_block(key, found),
            block_id=found,
            total_work=self.parent_work + work(header.pow_bits),
            items=self.items,
            leaves=self.leaves,
            keys=self.keys,
        )
