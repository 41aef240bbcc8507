"""Blocks, parameters, notes, proofs and evidence, from bytes that anybody made."""

from talos.chain.block import Header, decode_items, encode_items
from talos.chain.checkpoint import Checkpoint, open_checkpoint, verifiers_of
from talos.chain.entry import Entry, inspect, msg_key
from talos.chain.evidence import Evidence
from talos.chain.genesis import Author, Mode, Params
from talos.chain.note import Verifier, open_note
from talos.chain.proof import BlockProof, LogProof, Opening
from talos.errors import ProofInvalid

KEY = bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")
IDENTITY = bytes.fromhex("002408011220") + KEY
PARAMS = Params(mode=Mode.FEED, created_ms=1, random=bytes(16), authors=(Author(KEY, IDENTITY, bytes(64)),))
VERIFIERS = (*verifiers_of(PARAMS), Verifier("name", KEY))


def target(data: bytes) -> None:
    """Each has exactly one encoding, or is refused as what it is not; nothing unsigned is opened."""
    for kind in (Header, Params, Evidence, LogProof):
        try:
            found = kind.decode(data)
        except ProofInvalid:
            continue
        if found.encode() != data:
            raise AssertionError(f"{kind.__name__} has two encodings")
        if isinstance(found, Evidence | LogProof):
            _must_fail(found)
    _items(data)
    _entry(data)
    for open_signed in (open_note, open_checkpoint):
        try:
            open_signed(data, VERIFIERS)
        except ProofInvalid:
            continue
        raise AssertionError("a note that nobody signed was opened")
    for read in (BlockProof.from_json, Opening.from_json, _checkpoint):
        try:
            read(data)
        except ProofInvalid:
            continue


def _must_fail(found: Evidence | LogProof) -> None:
    try:
        if isinstance(found, Evidence):
            found.verify(PARAMS)
        else:
            found.verify(VERIFIERS)
    except ProofInvalid:
        return
    raise AssertionError("something that nobody signed proves something")


def _items(data: bytes) -> None:
    for pruned in (False, True):
        try:
            items = decode_items(data, pruned=pruned)
        except ProofInvalid:
            continue
        if encode_items(items) != data:
            raise AssertionError("items have two encodings")


def _entry(data: bytes) -> None:
    """A look at the bytes and decoding them never disagree."""
    try:
        entry = Entry.decode(data)
    except ProofInvalid:
        try:
            inspect(data)
        except ProofInvalid:
            return
        raise AssertionError("a look found an entry where there is none") from None
    if inspect(data) != (entry.kind, msg_key(entry), entry.sealed_hash):
        raise AssertionError("a look at an entry says something else than decoding it")


def _checkpoint(data: bytes) -> None:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if Checkpoint.parse(text).text != text:
        raise AssertionError("a checkpoint has two encodings")
