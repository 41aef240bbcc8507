"""Proofs that an entry is in a chain, for anybody with the author's public key and no network.

- Log proof, a `.tlog-proof` file (C2SP tlog-proof): entry → path → root of a signed checkpoint.

      c2sp.org/tlog-proof@v1 / extra <base64 entry> / index N / one line of base64 a hash / empty line / checkpoint

- Block proof, JSON: entry → path → `entries_root` → header → author's signature.
- Opening, JSON: `salt` and `meta` of one entry, which show who and when; without it a proof shows existence only.
"""

from __future__ import annotations

import base64
import hmac
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from talos.chain.block import SIGNATURE_BYTES, Header, block_id, check_signature
from talos.chain.checkpoint import open_checkpoint, read_decimal
from talos.chain.entry import Entry, Meta, leaf_hash, meta_commit, sealed_hash
from talos.chain.merkle import HASH_BYTES, MAX_PATH, verify_inclusion
from talos.chain.note import MAX_NOTE_BYTES, strict_base64
from talos.chain.pow import meets
from talos.errors import BadSignature, ProofInvalid, RemoteProtocolError
from talos.identity.keys import KeyType, PublicKey

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from talos.chain.checkpoint import Checkpoint
    from talos.chain.note import Verifier

__all__ = ["MAX_PROOF_BYTES", "BlockProof", "LogProof", "Opening"]

MAGIC = "c2sp.org/tlog-proof@v1"
MAX_PROOF_BYTES = 256 * 1024
"""The longest entry in base64, 63 hashes and the longest checkpoint fit."""
MAX_JSON_BYTES = 1024 * 1024
BLOCK_FORMAT = "talos/block-proof/v1"
OPENING_FORMAT = "talos/opening/v1"


@dataclass(frozen=True, slots=True)
class LogProof:
    """An entry's place in the log of a checkpoint."""

    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes
    """The signed note, byte for byte."""
    entry: bytes | None = None

    def encode(self) -> bytes:
        lines = [MAGIC]
        if self.entry is not None:
            lines.append(f"extra {base64.b64encode(self.entry).decode()}")
        lines.append(f"index {self.index}")
        lines.extend(base64.b64encode(found).decode() for found in self.path)
        return "\n".join([*lines, "", ""]).encode() + self.checkpoint

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The proof in exactly these bytes; nothing of it is verified. ProofInvalid for any other form."""
        if len(data) > MAX_PROOF_BYTES:
            raise ProofInvalid(f"a proof of {len(data)} bytes is over {MAX_PROOF_BYTES}")
        head, empty, checkpoint = data.partition(b"\n\n")
        try:
            lines = head.decode("ascii").split("\n")
        except UnicodeDecodeError as error:
            raise ProofInvalid("the lines of a proof are ASCII") from error
        if lines.pop(0) != MAGIC:
            raise ProofInvalid(f"a proof begins with {MAGIC}")
        entry = None
        if lines and lines[0].startswith("extra "):
            entry = strict_base64(lines.pop(0).removeprefix("extra "), "the extra line of a proof")
        if not lines or not lines[0].startswith("index "):
            raise ProofInvalid("a proof has no index line")
        index = read_decimal(lines.pop(0).removeprefix("index "), "the index of a proof")
        if len(lines) > MAX_PATH:
            raise ProofInvalid(f"a proof has more than {MAX_PATH} hashes")
        path = tuple(strict_base64(line, "a hash of a proof") for line in lines)
        if any(len(found) != HASH_BYTES for found in path):
            raise ProofInvalid(f"a hash of a proof has {HASH_BYTES} bytes")
        if not empty or not checkpoint:
            raise ProofInvalid("a proof has no checkpoint")
        return cls(index, path, checkpoint, entry)

    def verify(self, verifiers: Iterable[Verifier]) -> Checkpoint:
        """The checkpoint under which the entry stands, or ProofInvalid."""
        if self.entry is None:
            raise ProofInvalid("the proof does not hold its entry")
        Entry.decode(self.entry)
        checkpoint = open_checkpoint(self.checkpoint, verifiers, max_bytes=MAX_NOTE_BYTES)
        verify_inclusion(leaf_hash(self.entry), self.index, checkpoint.size, self.path, checkpoint.root)
        return checkpoint


@dataclass(frozen=True, slots=True)
class BlockProof:
    """An entry's place in a signed block."""

    entry: bytes
    index: int
    """Within the block."""
    path: tuple[bytes, ...]
    header: bytes
    sig: bytes

    def to_json(self) -> str:
        fields = {
            "format": BLOCK_FORMAT,
            "entry": self.entry.hex(),
            "index": self.index,
            "path": [found.hex() for found in self.path],
            "header": self.header.hex(),
            "sig": self.sig.hex(),
        }
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """ProofInvalid unless it has exactly these fields."""
        found = _read_json(text, BLOCK_FORMAT, {"entry", "index", "path", "header", "sig"})
        path, index = found["path"], found["index"]
        if not isinstance(path, list) or len(path) > MAX_PATH or type(index) is not int:
            raise ProofInvalid("the path or index of a block proof is none")
        entry, header, sig = (_hex(found[name], name) for name in ("entry", "header", "sig"))
        return cls(entry, index, tuple(_hex(one, "a hash") for one in path), header, sig)

    def verify(self, authors: Collection[bytes], *, chain_id: bytes | None = None) -> Header:
        """The header, when one of the audit keys `authors` signed it and the entry stands in its block."""
        Entry.decode(self.entry)
        header = Header.decode(self.header)
        if chain_id is not None and header.chain_id != chain_id:
            raise ProofInvalid("the block is of another chain")
        if header.author_pk not in authors:
            raise ProofInvalid("the block's author is not one of those that are known")
        found = block_id(self.header)
        if not meets(found, header.pow_bits):
            raise ProofInvalid("the block has no proof of work")
        if len(self.sig) != SIGNATURE_BYTES:
            raise ProofInvalid("the block's signature has another length")
        try:
            check_signature(PublicKey(KeyType.ED25519, header.author_pk), found, self.sig)
        except (BadSignature, RemoteProtocolError) as error:
            raise ProofInvalid(f"the author's key cannot be used: {error}") from error
        verify_inclusion(leaf_hash(self.entry), self.index, header.n_items, self.path, header.entries_root)
        return header


@dataclass(frozen=True, slots=True)
class Opening:
    """What shows who and when of one entry, and of no other."""

    salt: bytes
    meta: bytes
    sealed: bytes | None = None

    def to_json(self) -> str:
        fields = {"format": OPENING_FORMAT, "salt": self.salt.hex(), "meta": self.meta.hex()}
        if self.sealed is not None:
            fields["sealed"] = self.sealed.hex()
        return json.dumps(fields, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """ProofInvalid unless it has exactly these fields."""
        found = _read_json(text, OPENING_FORMAT, {"salt", "meta"}, optional={"sealed"})
        sealed = _hex(found["sealed"], "sealed") if "sealed" in found else None
        return cls(_hex(found["salt"], "salt"), _hex(found["meta"], "meta"), sealed)

    def check(self, entry: bytes) -> Meta:
        """The meta to which `entry` commits, or ProofInvalid."""
        decoded = Entry.decode(entry)
        committed = decoded.meta_commit
        if committed is None or not hmac.compare_digest(meta_commit(self.salt, self.meta), committed):
            raise ProofInvalid("the opening is not of this entry")
        meta = Meta.decode(self.meta)
        if meta.msg_id != decoded.msg_id:
            raise ProofInvalid("the opening is of another message than the entry")
        if self.sealed is not None and sealed_hash(self.sealed) != decoded.sealed_hash:
            raise ProofInvalid("the blob is not the one that the entry names")
        return meta


def _read_json(text: str | bytes, form: str, names: set[str], *, optional: Collection[str] = ()) -> Mapping[str, Any]:
    if len(text) > MAX_JSON_BYTES:
        raise ProofInvalid(f"a proof of {len(text)} bytes is over {MAX_JSON_BYTES}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProofInvalid("a proof is not in JSON") from error
    if not isinstance(found, dict) or found.get("format") != form:
        raise ProofInvalid(f"this is no {form}")
    if not names <= found.keys() - {"format"} <= names.union(optional):
        raise ProofInvalid(f"{form} has other fields than it should")
    return found


def _hex(value: object, what: str) -> bytes:
    try:
        if isinstance(value, str) and (data := bytes.fromhex(value)).hex() == value:
            return data
    except ValueError:
        pass
    raise ProofInvalid(f"{what} is not in lower-case hex")
