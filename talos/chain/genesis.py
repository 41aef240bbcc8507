"""Genesis: a chain's parameters, whose hash is its name, and the block that carries them.

    params   = u8 1 ‖ u8 mode ‖ u64 created_ms ‖ 16 random ‖ u16 bits_min ‖ u16 bits_max ‖ u32 finality_depth
             ‖ u32 max_block ‖ u32 max_item ‖ u16 max_items ‖ u16 max_entry ‖ 32 prev_chain ‖ 32 prev_tip ‖ u8 n_authors
             ‖ n_authors × (32 audit_pk ‖ lp(peer_id) ‖ lp(bind_sig))
    chain_id = H("talos/chain/v1\\n" ‖ params)
    bind_sig = Sign(identity, "talos/audit-key/v1\\n" ‖ random ‖ u64 created_ms ‖ audit_pk)

The genesis block has height 0, a zero `prev_id`, `time_ms` = created_ms, the first author, and as its one required item
a CONFIG entry holding `params`, which alone may be longer than `max_entry`.
"""

from __future__ import annotations

import enum
import struct
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Self

from talos.chain.block import HASH_BYTES, NO_HASH, SIGNATURE_BYTES, Draft, Item, Prepared
from talos.chain.entry import Entry, Kind
from talos.chain.merkle import Frontier
from talos.errors import BadSignature, ConfigError, ProofInvalid, RemoteProtocolError
from talos.identity.keys import KeyType, PublicKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from talos.identity.keys import PrivateKey

__all__ = ["Author", "Mode", "Params", "bind", "genesis_draft", "params_of"]

VERSION = 1
RANDOM_BYTES = 16
MAX_AUTHORS = 64
MAX_LP = 0xFFFF
# What no chain's own limits exceed.
MAX_BITS = 32
MIN_BITS = 8
MAX_BLOCK_BYTES = 1_000_000
MAX_ITEM_BYTES = 100_000
MAX_ITEMS = 4096
MAX_ENTRY_BYTES = 4096
FINALITY_DEPTH = 12

_FRONT: Final = struct.Struct(">BBQ16sHHIIIHH32s32sB")
_CHAIN_DOMAIN = b"talos/chain/v1\n"
_BIND_DOMAIN = b"talos/audit-key/v1\n"
ORIGIN = "talos.invalid/chain"


class Mode(enum.IntEnum):
    """Who writes a chain."""

    FEED = 0
    """One author; a second block at a height is a fraud."""
    SHARED = 1
    """Up to 64 authors; the branch with most work wins above the final block."""


@dataclass(frozen=True)
class Author:
    """A key that may sign blocks, bound by the identity of the peer that holds it."""

    audit_pk: bytes
    peer_id: bytes
    bind_sig: bytes

    @cached_property
    def key(self) -> PublicKey:
        """BadSignature or RemoteProtocolError for a key that must not be used."""
        return PublicKey(KeyType.ED25519, self.audit_pk)


def bind(audit_pk: bytes, identity: PrivateKey, *, random: bytes, created_ms: int) -> Author:
    """The author with this audit key, in the chain begun by these values."""
    peer = PeerId.from_key(identity.public_key).to_bytes()
    return Author(audit_pk, peer, identity.sign(_bound(random, created_ms, audit_pk)))


def _bound(random: bytes, created_ms: int, audit_pk: bytes) -> bytes:
    return _BIND_DOMAIN + random + created_ms.to_bytes(8, "big") + audit_pk


@dataclass(frozen=True, kw_only=True)
class Params:
    """What a chain is from its first byte on. Building one checks its values: ProofInvalid."""

    mode: Mode
    created_ms: int
    random: bytes
    authors: tuple[Author, ...]
    bits_min: int = MIN_BITS
    bits_max: int = MAX_BITS
    finality_depth: int = FINALITY_DEPTH
    max_block: int = MAX_BLOCK_BYTES
    max_item: int = MAX_ITEM_BYTES
    max_items: int = MAX_ITEMS
    max_entry: int = MAX_ENTRY_BYTES
    prev_chain: bytes = NO_HASH
    """The chain that this one continues, or zeros."""
    prev_tip: bytes = NO_HASH
    _index: dict[bytes, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        authors = len(self.authors)
        if authors != 1 and (self.mode is Mode.FEED or not 1 <= authors <= MAX_AUTHORS):
            raise ProofInvalid(f"a {self.mode.name.lower()} chain has no {authors} authors")
        if len(self.random) != RANDOM_BYTES or {len(self.prev_chain), len(self.prev_tip)} != {HASH_BYTES}:
            raise ProofInvalid("random bytes or a hash of another length")
        if not MIN_BITS <= self.bits_min <= self.bits_max <= MAX_BITS:
            raise ProofInvalid(f"work of {self.bits_min} to {self.bits_max} bits is outside {MIN_BITS} to {MAX_BITS}")
        for value, limit in (
            (self.max_block, MAX_BLOCK_BYTES), (self.max_item, MAX_ITEM_BYTES), (self.max_items, MAX_ITEMS),
            (self.max_entry, MAX_ENTRY_BYTES), (self.finality_depth, 0xFFFFFFFF), (self.created_ms, 2**64 - 1),
        ):  # fmt: skip
            if not 1 <= value <= limit:
                raise ProofInvalid(f"a limit of {value} is outside 1 to {limit}")
        index = {author.audit_pk: number for number, author in enumerate(self.authors)}
        if len(index) != authors:
            raise ProofInvalid("an author stands twice in a genesis")
        object.__setattr__(self, "_index", index)

    def encode(self) -> bytes:
        front = _FRONT.pack(
            VERSION, self.mode, self.created_ms, self.random, self.bits_min, self.bits_max, self.finality_depth,
            self.max_block, self.max_item, self.max_items, self.max_entry, self.prev_chain, self.prev_tip,
            len(self.authors),
        )  # fmt: skip
        return front + b"".join(
            part for author in self.authors for part in (author.audit_pk, _lp(author.peer_id), _lp(author.bind_sig))
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The parameters in exactly these bytes, their values and bindings checked, or ProofInvalid."""
        if len(data) < _FRONT.size:
            raise ProofInvalid("parameters are cut short")
        (
            version, mode, created_ms, random, bits_min, bits_max, depth, max_block, max_item, max_items, max_entry,
            prev_chain, prev_tip, n_authors,
        ) = _FRONT.unpack_from(data)  # fmt: skip
        if version != VERSION or mode not in tuple(Mode):
            raise ProofInvalid(f"parameters of version {version}, mode {mode} are unknown")
        authors, position = [], _FRONT.size
        for _ in range(n_authors):
            author, position = _read_author(data, position)
            authors.append(author)
        if position != len(data):
            raise ProofInvalid(f"parameters have {len(data) - position} bytes too many")
        params = cls(
            mode=Mode(mode), created_ms=created_ms, random=random, authors=tuple(authors), bits_min=bits_min,
            bits_max=bits_max, finality_depth=depth, max_block=max_block, max_item=max_item, max_items=max_items,
            max_entry=max_entry, prev_chain=prev_chain, prev_tip=prev_tip,
        )  # fmt: skip
        params.check_bindings()
        return params

    def check_bindings(self) -> None:
        """ProofInvalid unless each author's identity, an Ed25519 key within its peer id, signed for its audit key."""
        for author in self.authors:
            try:
                key = PeerId.from_bytes(author.peer_id).public_key()
                if key is None or key.type is not KeyType.ED25519:
                    raise ProofInvalid("an author's peer id holds no Ed25519 key")
                key.verify(_bound(self.random, self.created_ms, author.audit_pk), author.bind_sig)
                author.key  # noqa: B018 - an unusable key shows here
            except (BadSignature, RemoteProtocolError) as error:
                raise ProofInvalid(f"an author's key is not bound by its identity: {error}") from error

    @cached_property
    def chain_id(self) -> bytes:
        return sha256(_CHAIN_DOMAIN + self.encode()).digest()

    @cached_property
    def origin(self) -> str:
        """The chain's name in checkpoints."""
        name = self.chain_id.hex()[:16]
        if self.mode is Mode.SHARED:
            return f"{ORIGIN}/shared/{name}"
        return f"{ORIGIN}/{PeerId.from_bytes(self.authors[0].peer_id)}/{name}"

    def author(self, audit_pk: bytes) -> Author | None:
        number = self._index.get(audit_pk)
        return None if number is None else self.authors[number]

    def index_of(self, audit_pk: bytes) -> int | None:
        """The author's number, by which authors take turns."""
        return self._index.get(audit_pk)


def _lp(data: bytes) -> bytes:
    if len(data) > MAX_LP:
        raise ConfigError(f"a field of {len(data)} bytes is over {MAX_LP}")
    return len(data).to_bytes(2, "big") + data


def _read_author(data: bytes, position: int) -> tuple[Author, int]:
    parts = [data[position : position + HASH_BYTES]]
    position += HASH_BYTES
    for _ in range(2):
        start = position + 2
        position = start + int.from_bytes(data[position:start], "big")
        parts.append(data[start:position])
    if position > len(data) or len(parts[2]) != SIGNATURE_BYTES:
        raise ProofInvalid("an author is cut short")
    return Author(*parts), position


def genesis_draft(params: Params, *, bits: int | None = None) -> Draft:
    """Block 0, for the first author to mine and sign."""
    config = Entry(Kind.CONFIG, params.created_ms, (params.encode(),)).encode()
    return Draft.build(
        (Prepared.of(Item(config)),),
        chain_id=params.chain_id,
        height=0,
        prev_id=NO_HASH,
        time_ms=params.created_ms,
        bits=params.bits_min if bits is None else bits,
        frontier=Frontier(),
        author_pk=params.authors[0].audit_pk,
        parent_work=0,
    )


def params_of(entry: bytes) -> Params:
    """The parameters in a CONFIG entry, or ProofInvalid."""
    config = Entry.decode(entry)
    if config.kind is not Kind.CONFIG:
        raise ProofInvalid(f"a chain begins with CONFIG, not with {config.kind.name}")
    return Params.decode(config.fields[0])
