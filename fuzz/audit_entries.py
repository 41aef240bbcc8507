"""Entries, their meta and receipts of the audit log, from bytes that somebody else kept."""

from talos.chain.entry import Entry, Meta, msg_key
from talos.chain.receipt import Receipt
from talos.errors import ProofInvalid


def target(data: bytes) -> None:
    """Each has exactly one encoding, or is refused as what it is not."""
    for kind in (Entry, Meta, Receipt):
        try:
            found = kind.decode(data)
        except ProofInvalid:
            continue
        if found.encode() != data:
            raise AssertionError(f"{kind.__name__} has two encodings")
        if isinstance(found, Entry) and len(msg_key(found)) != 24:
            raise AssertionError("a message key of another length")
