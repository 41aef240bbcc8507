"""Entries, the leaves of the chain's tree: facts made into commitments, and those bytes read back.

    entry = u8 1 ‖ u8 kind ‖ u64 time_ms ‖ lp(field) …          lp(x) = u16 length ‖ x, integers big-endian
    meta  = u8 1 ‖ msg_id ‖ lp(sender) ‖ lp(recipient) ‖ u8 type ‖ u64 size ‖ u64 sent_ms ‖ lp(detail)

Rules:

- No peer id, text or name of the facts is in an entry: it holds a keyed hash of the counterparty (`party`) and a
  salted commitment to `meta`. Who has the secret `k_priv` of the log, or one salt, can open them.
- All entries of a kind have one length, but CONFIG, which holds the log's parameters in the clear.
- Decoding accepts exactly one encoding, and raises ProofInvalid for everything else. `inspect` gives what a check of
  many entries needs, an order of magnitude faster than taking each into its parts.
"""

from __future__ import annotations

import enum
import hmac
import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, NamedTuple, cast

from talos.errors import LocalProtocolError, ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Mapping
    from hashlib import _Hash as HASH

    from talos.abc import AuditEntry, SignedReceipt

__all__ = [
    "Committed",
    "Committer",
    "Entry",
    "Inspected",
    "Kind",
    "Meta",
    "commit",
    "inspect",
    "leaf_hash",
    "meta_commit",
    "msg_key",
    "node_hash",
    "open_meta",
    "party",
    "receipt_hash",
    "salt",
    "sealed_hash",
]

VERSION = 1
MAX_LP = 0xFFFF
ID_BYTES = 16
PARTY_BYTES = 16
SIGNATURE_BYTES = 64
HASH_BYTES = 32
KEY_BYTES = 24
NO_HASH = bytes(HASH_BYTES)

_SALT_DOMAIN = b"talos/salt/v1\n"
_PARTY_DOMAIN = b"talos/party/v1\n"
_HMAC_BLOCK = 64
_ID_LP: Final = ID_BYTES.to_bytes(2, "big")
_PARTY_LP: Final = PARTY_BYTES.to_bytes(2, "big")
_BYTE: Final = tuple(bytes((value,)) for value in range(256))

_HEAD: Final = struct.Struct(">BBQ")
_META_TAIL: Final = struct.Struct(">BQQ")


class Kind(enum.IntEnum):
    """The kinds of entries; those of `talos.abc.EntryKind` are what protocols hand in, the others are the log's own."""

    SENT = 0x01
    RECEIVED = 0x02
    RECEIPT_GOT = 0x03
    FILE = 0x04
    MCP_CALL = 0x05
    MCP_RESULT = 0x06
    PEER_CHECKPOINT = 0x07
    CONFIG = 0x08
    PRUNE_NOTICE = 0x09
    EVIDENCE = 0x0A
    KEY_ROTATE = 0x0B
    """Read, but not yet honoured: no block holds one."""


# Lengths of each kind's fields, in order; None: any.
_FIELDS: Final[Mapping[Kind, tuple[int | None, ...]]] = {
    Kind.SENT: (ID_BYTES, PARTY_BYTES, HASH_BYTES, HASH_BYTES, HASH_BYTES),
    Kind.RECEIVED: (ID_BYTES, PARTY_BYTES, HASH_BYTES, HASH_BYTES, HASH_BYTES),
    Kind.RECEIPT_GOT: (ID_BYTES, PARTY_BYTES, HASH_BYTES),
    Kind.FILE: (ID_BYTES, PARTY_BYTES, HASH_BYTES, 1, HASH_BYTES),
    Kind.MCP_CALL: (ID_BYTES, PARTY_BYTES, HASH_BYTES, HASH_BYTES, HASH_BYTES),
    Kind.MCP_RESULT: (ID_BYTES, PARTY_BYTES, HASH_BYTES, HASH_BYTES, HASH_BYTES),
    Kind.PEER_CHECKPOINT: (HASH_BYTES,),
    Kind.CONFIG: (None,),
    Kind.PRUNE_NOTICE: (8, HASH_BYTES),
    Kind.EVIDENCE: (HASH_BYTES,),
    Kind.KEY_ROTATE: (HASH_BYTES, HASH_BYTES, SIGNATURE_BYTES, SIGNATURE_BYTES),
}
_HAS_MSG_ID: Final = frozenset(kind for kind, sizes in _FIELDS.items() if sizes[:2] == (ID_BYTES, PARTY_BYTES))
# Where a kind holds its commitment to meta and its hash of the blob.
_META_FIELD: Final[Mapping[Kind, int]] = {
    Kind.SENT: 3, Kind.RECEIVED: 3, Kind.FILE: 4, Kind.MCP_CALL: 4, Kind.MCP_RESULT: 4,
}  # fmt: skip
_SEALED_FIELD: Final[Mapping[Kind, int]] = {
    Kind.SENT: 2, Kind.RECEIVED: 2, Kind.MCP_CALL: 3, Kind.MCP_RESULT: 3,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry in its parts; building one checks the lengths that its kind asks for."""

    kind: Kind
    time_ms: int
    fields: tuple[bytes, ...]

    def __post_init__(self) -> None:
        wanted = _FIELDS[self.kind]
        fits = len(self.fields) == len(wanted) and all(
            size is None or len(field) == size for field, size in zip(self.fields, wanted, strict=True)
        )
        if not fits:
            raise ProofInvalid(f"an entry of kind {self.kind.name} has other fields than that kind")

    def encode(self) -> bytes:
        body = b"".join(_lp(field) for field in self.fields)
        return _HEAD.pack(VERSION, self.kind, self.time_ms) + body

    @classmethod
    def decode(cls, data: bytes) -> Entry:
        """The entry in exactly these bytes. ProofInvalid: other version, unknown kind, short, trailing bytes."""
        if len(data) < _HEAD.size:
            raise ProofInvalid(f"an entry of {len(data)} bytes is cut short")
        version, number, time_ms = _HEAD.unpack_from(data)
        if version != VERSION:
            raise ProofInvalid(f"entry version {version} is unknown")
        if number not in _KINDS:
            raise ProofInvalid(f"entry kind {number:#04x} is unknown")
        fields, position = [], _HEAD.size
        while position < len(data):
            field, position = _read_lp(data, position, "entry")
            fields.append(field)
        return cls(_KINDS[number], time_ms, tuple(fields))

    @property
    def msg_id(self) -> bytes | None:
        """The id of the message, file or line; None in the log's own entries."""
        return self.fields[0] if self.kind in _HAS_MSG_ID else None

    @property
    def meta_commit(self) -> bytes | None:
        position = _META_FIELD.get(self.kind)
        return None if position is None else self.fields[position]

    @property
    def sealed_hash(self) -> bytes | None:
        position = _SEALED_FIELD.get(self.kind)
        return None if position is None else self.fields[position]


_KINDS: Final[Mapping[int, Kind]] = {int(kind): kind for kind in Kind}


# Per kind of fixed length: how long it is, what stands between its fields, and where its blob's hash stands.
_HEAD_BYTES: Final = 10
_PARTY: Final = slice(_HEAD_BYTES + 2 + ID_BYTES + 2, _HEAD_BYTES + 2 + ID_BYTES + 2 + PARTY_BYTES)


class _Shape:
    """The fixed parts of a kind: enough to know an entry for canonical without taking it apart."""

    __slots__ = ("has_id", "kind", "length", "lengths", "sealed", "unpack")

    def __init__(self, kind: Kind, sizes: tuple[int, ...]) -> None:
        form = struct.Struct(">" + "".join(f"H{size}x" for size in sizes))
        self.kind = kind
        self.lengths = sizes
        self.length = _HEAD_BYTES + form.size
        self.unpack = form.unpack_from
        self.has_id = kind in _HAS_MSG_ID
        self.sealed: slice | None = None
        if kind in _SEALED_FIELD:
            start = _HEAD_BYTES + sum(2 + size for size in sizes[: _SEALED_FIELD[kind]]) + 2
            self.sealed = slice(start, start + HASH_BYTES)


_SHAPES: Final[Mapping[int, _Shape]] = {
    int(kind): _Shape(kind, cast("tuple[int, ...]", sizes)) for kind, sizes in _FIELDS.items() if None not in sizes
}


class Inspected(NamedTuple):
    """What a block's checks need of an entry."""

    kind: Kind
    key24: bytes
    """The 24-byte message key, unique in a chain."""
    sealed_hash: bytes | None


def inspect(data: bytes) -> Inspected:
    """Kind, key and blob hash of the entry in exactly these bytes; ProofInvalid as `Entry.decode`."""
    shape = _SHAPES.get(data[1]) if len(data) > 1 else None
    if shape is None:  # CONFIG, or nothing that is known
        entry = Entry.decode(data)
        return Inspected(entry.kind, sha256(data).digest()[:KEY_BYTES], None)
    if len(data) != shape.length or data[0] != VERSION or shape.unpack(data, _HEAD_BYTES) != shape.lengths:
        raise ProofInvalid(f"an entry of kind {shape.kind.name} is not in that kind's one form")
    if not shape.has_id:
        return Inspected(shape.kind, sha256(data).digest()[:KEY_BYTES], None)
    key = data[_HEAD_BYTES + 2 : _HEAD_BYTES + 2 + ID_BYTES] + sha256(data[1:2] + data[_PARTY]).digest()[:8]
    return Inspected(shape.kind, key, None if shape.sealed is None else data[shape.sealed])


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What an entry only commits to."""

    msg_id: bytes
    sender: bytes = b""
    recipient: bytes = b""
    type: int = 0
    size: int = 0
    sent_ms: int = 0
    detail: bytes = b""

    def encode(self) -> bytes:
        """LocalProtocolError where a value does not fit its field."""
        return _encode_meta(self)

    @classmethod
    def decode(cls, data: bytes) -> Meta:
        """The meta in exactly these bytes, or ProofInvalid."""
        if len(data) < 1 + ID_BYTES or data[0] != VERSION:
            raise ProofInvalid("meta is cut short, or of an unknown version")
        sender, position = _read_lp(data, 1 + ID_BYTES, "meta")
        recipient, position = _read_lp(data, position, "meta")
        if len(data) - position < _META_TAIL.size:
            raise ProofInvalid("meta is cut short")
        type_, size, sent_ms = _META_TAIL.unpack_from(data, position)
        detail, position = _read_lp(data, position + _META_TAIL.size, "meta")
        if position != len(data):
            raise ProofInvalid(f"meta has {len(data) - position} bytes too many")
        msg_id = data[1 : 1 + ID_BYTES]
        return cls(
            msg_id=msg_id, sender=sender, recipient=recipient, type=type_, size=size, sent_ms=sent_ms, detail=detail
        )


class Committed(NamedTuple):
    """Facts as the log keeps them: the entry's bytes, and what opens it."""

    entry: bytes
    meta: bytes
    """Empty where the kind commits to none."""
    key: bytes
    """The 24-byte message key, unique in a log."""
    leaf: bytes
    party: bytes
    sealed_hash: bytes
    """Empty where the kind has none."""


def leaf_hash(entry: bytes) -> bytes:
    """RFC 6962 section 2.1, of a leaf."""
    return sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 section 2.1, of an inner node."""
    return sha256(b"\x01" + left + right).digest()


def sealed_hash(blob: bytes) -> bytes:
    """What an entry holds of an end-to-end ciphertext, or of a line under its salt."""
    return sha256(b"talos/sealed/v1\n" + blob).digest()


def receipt_hash(receipt: SignedReceipt) -> bytes:
    return sha256(b"talos/receipt-hash/v1\n" + receipt.body + receipt.sig).digest()


def salt(k_priv: bytes, kind: int, meta: bytes) -> bytes:
    """What, shown together with `meta`, opens one commitment and no other."""
    return hmac.digest(k_priv, _SALT_DOMAIN + bytes((kind,)) + meta, "sha256")


def meta_commit(salt: bytes, meta: bytes) -> bytes:
    return sha256(b"talos/meta/v1\n" + salt + meta).digest()


def party(k_priv: bytes, direction: int, msg_id: bytes, counterparty: bytes) -> bytes:
    """The counterparty, for those alone who hold `k_priv` or know all of these."""
    text = _PARTY_DOMAIN + bytes((direction,)) + msg_id + counterparty
    return hmac.digest(k_priv, text, "sha256")[:PARTY_BYTES]


def msg_key(entry: Entry) -> bytes:
    """24 bytes, unique in a log."""
    msg_id = entry.msg_id
    if msg_id is None:
        return sha256(entry.encode()).digest()[:KEY_BYTES]
    return msg_id + sha256(bytes((entry.kind,)) + entry.fields[1]).digest()[:8]


def open_meta(entry: Entry, meta: bytes, k_priv: bytes) -> Meta:
    """The meta that the entry commits to. ProofInvalid when it is not this one."""
    committed = entry.meta_commit
    if committed is None or not hmac.compare_digest(meta_commit(salt(k_priv, entry.kind, meta), meta), committed):
        raise ProofInvalid("meta is not what the entry commits to")
    opened = Meta.decode(meta)
    if opened.msg_id != entry.msg_id:
        raise ProofInvalid("meta is of another message than the entry")
    return opened


def commit(facts: AuditEntry, k_priv: bytes) -> Committed:
    """As `Committer.commit`, once."""
    return Committer(k_priv).commit(facts)


class Committer:
    """Makes entries of what protocols hand in; the keyed hashes begin where their key ends."""

    __slots__ = ("_outer", "_party", "_salt")

    def __init__(self, k_priv: bytes) -> None:
        block = k_priv.ljust(_HMAC_BLOCK, b"\x00")
        inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))
        self._salt, self._party = inner.copy(), inner
        self._salt.update(_SALT_DOMAIN)
        self._party.update(_PARTY_DOMAIN)

    def commit(self, facts: AuditEntry) -> Committed:
        """LocalProtocolError when a field is missing for the kind, too long, or when blob and hash do not fit."""
        kind, msg_id = _KINDS[facts.kind], facts.msg_id
        meta = _encode_meta(facts)
        hidden = self._keyed(self._party, _BYTE[facts.direction] + msg_id + facts.counterparty)[:PARTY_BYTES]
        committed = meta_commit(self._keyed(self._salt, _BYTE[kind] + meta), meta)
        rest = _kind_fields(kind, facts, committed)
        try:
            parts = [_HEAD.pack(VERSION, kind, facts.time_ms), _ID_LP, msg_id, _PARTY_LP, hidden]
        except struct.error as error:
            raise LocalProtocolError(f"the time does not fit an entry: {error}") from error
        for field in rest:
            parts += (len(field).to_bytes(2, "big"), field)
        data = b"".join(parts)
        shape = _SHAPES[kind]
        if len(data) != shape.length or shape.unpack(data, _HEAD_BYTES) != shape.lengths:
            raise LocalProtocolError(f"these facts make no {kind.name} entry: a field has another length")
        key = msg_id + sha256(_BYTE[kind] + hidden).digest()[:8]
        sealed = b"" if shape.sealed is None else data[shape.sealed]
        return Committed(data, meta if kind in _META_FIELD else b"", key, leaf_hash(data), hidden, sealed)

    def _keyed(self, begun: HASH, text: bytes) -> bytes:
        """The rest of an HMAC."""
        inner, outer = begun.copy(), self._outer.copy()
        inner.update(text)
        outer.update(inner.digest())
        return outer.digest()


def _encode_meta(facts: Meta | AuditEntry) -> bytes:
    if len(facts.msg_id) != ID_BYTES:
        raise LocalProtocolError(f"a message id has {ID_BYTES} bytes, not {len(facts.msg_id)}")
    try:
        tail = _META_TAIL.pack(facts.type, facts.size, facts.sent_ms)
    except struct.error as error:
        raise LocalProtocolError(f"type, size or time do not fit an entry's meta: {error}") from error
    return b"".join((b"\x01", facts.msg_id, _lp(facts.sender), _lp(facts.recipient), tail, _lp(facts.detail)))


def _kind_fields(kind: Kind, facts: AuditEntry, committed: bytes) -> tuple[bytes, ...]:
    if kind is Kind.SENT or kind is Kind.RECEIVED:
        signed = sha256(facts.signature).digest() if facts.signature else NO_HASH
        return (_sealed(facts), committed, signed)
    if kind is Kind.RECEIPT_GOT:
        if facts.receipt is None:
            raise LocalProtocolError("a RECEIPT_GOT entry needs its receipt")
        return (receipt_hash(facts.receipt),)
    if kind is Kind.FILE:
        return (facts.file_root, bytes((facts.size.bit_length(),)), committed)
    return (facts.session_commit, _sealed(facts), committed)


def _sealed(facts: AuditEntry) -> bytes:
    """The blob's hash: worked out from the blob where it is there, and then equal to the one that was given."""
    if not facts.sealed:
        return facts.sealed_hash
    found = sealed_hash(facts.sealed)
    if facts.sealed_hash and facts.sealed_hash != found:
        raise LocalProtocolError("the sealed hash is not that of the blob")
    return found


def _lp(data: bytes) -> bytes:
    if len(data) > MAX_LP:
        raise LocalProtocolError(f"a field of {len(data)} bytes is over {MAX_LP}")
    return len(data).to_bytes(2, "big") + data


def _read_lp(data: bytes, position: int, what: str) -> tuple[bytes, int]:
    end = position + 2
    if end > len(data):
        raise ProofInvalid(f"{what} is cut short")
    stop = end + int.from_bytes(data[position:end], "big")
    if stop > len(data):
        raise ProofInvalid(f"{what} is cut short")
    return data[end:stop], stop
