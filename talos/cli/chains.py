"""What the commands over a home's chains share: finding them, reading them, naming entries, telling what was found."""

from __future__ import annotations

import json
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from talos.cli.calls import peer_text, rfc3339
from talos.cli.exits import Failure
from talos.cli.output import counted
from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from talos.chain.effects import Stored
    from talos.chain.records import ChainReader, Record
    from talos.chain.verifying import Verification
    from talos.cli.session import Session

__all__ = [
    "block_fields",
    "directories",
    "entry_fields",
    "found",
    "ident_of",
    "index_of",
    "reading",
    "tell_verification",
    "warn_of_old_logs",
    "write_new",
]

T = TypeVar("T")


@contextmanager
def reading(session: Session, directory: Path | None = None, *, opened: bool = False) -> Iterator[ChainReader]:
    """A chain of this home, its own by default; `opened` with the keys of the wallet."""
    from talos.chain.config import ChainKeys
    from talos.chain.records import ChainReader
    from talos.chain.schema import DATABASE_NAME

    directory = directory or session.home.chain
    if not (directory / DATABASE_NAME).is_file():
        session.home.check()
        raise Failure("failed", f"there is no chain in {directory} yet", hint="it begins with `talos up`")
    keys = ChainKeys.of(session.unlock()) if opened else None
    with ChainReader(directory, keys) as reader:
        yield reader


def directories(session: Session) -> list[Path]:
    """Of all chains of this home: its own, then those of `mcp-connect`."""
    from talos.chain.records import chains_of

    session.home.check()
    return chains_of(session.home.chain, session.home.mcp_connect)


def warn_of_old_logs(session: Session) -> None:
    """A log of an earlier version is taken over by the next that writes, and says nothing until then."""
    from talos.chain import old_log

    slots = session.home.mcp_connect
    places = [session.home.audit, *(sorted(slots.iterdir()) if slots.is_dir() else ())]
    for place in places:
        if old_log.is_there(place):
            session.out.warn(f"{place} holds a log of an earlier version; the next start takes it into the chain")


def ident_of(text: str) -> int | bytes:
    """A number, a UUID or message id (16 bytes of hex), a message key (24) or a block id (32)."""
    if text.isascii() and text.isdecimal() and len(text) < 16:
        return int(text)
    try:
        data = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        data = b""
    if len(data) not in {16, 24, 32}:
        raise Failure("usage", f"{text!r} is no entry", hint="a number in the log, a message id, or a block id")
    return data


def index_of(reader: ChainReader, ident: int | bytes, peer: bytes | None = None) -> int:
    """The number in the log of what is named; a block id names its first entry."""
    from talos.chain.proving import find_index

    if isinstance(ident, bytes) and len(ident) == 32:
        return found(reader.block, ident).header.first_index
    return found(find_index, reader.reading, ident, boxes=reader.boxes, peer=peer)


def found(look: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """What is asked for; that it is not in the record is a failure like any other, and no broken proof."""
    try:
        return look(*args, **kwargs)
    except ProofInvalid as error:
        raise Failure("failed", str(error)) from error


def tell_verification(session: Session, log: str, result: Verification) -> None:
    """Prints what a verification found; Failure when that is something."""
    bad = result.first_bad
    if session.json:
        first = None if bad is None else {"height": bad.height, "index": bad.index, "reason": bad.reason}
        session.out.emit("verification", ok=result.ok, checked=result.checked, first_bad=first, log=log)
    elif bad is None:
        session.out.line(f"{log}  {counted(result.checked, 'entry')} in {counted(result.blocks, 'block')} in order")
    if bad is not None:
        named = (("block", bad.height), ("entry", bad.index))
        place = ", ".join(f"{name} {number}" for name, number in named if number is not None)
        raise Failure(
            "verification_failed",
            ": ".join(part for part in (log, place, bad.reason) if part),
            hint="keep the files as they are: they are the evidence",
        )


def block_fields(stored: Stored, records: list[Record]) -> dict[str, object]:
    """As the JSON kind `block` has them."""
    header = stored.header
    return {
        "height": header.height,
        "id": stored.block_id.hex(),
        "prev_id": header.prev_id.hex(),
        "time": rfc3339(header.time_ms),
        "bits": header.pow_bits,
        "n_items": header.n_items,
        "log_size": header.log_size,
        "log_root": header.log_root.hex(),
        "author": header.author_pk.hex(),
        "total_work": str(stored.total_work),
        "entries": [brief_fields(record) for record in records],
    }


def brief_fields(record: Record) -> dict[str, object]:
    """An entry within its block, with what our keys open."""
    meta = record.meta
    return {
        "index": record.index,
        "type": record.entry.kind.name.lower(),
        "time": rfc3339(record.entry.time_ms),
        "id": record.entry.msg_id.hex() if record.entry.msg_id is not None else None,
        "leaf": record.leaf.hex(),
        "sender": peer_text(meta.sender) if meta is not None else None,
        "recipient": peer_text(meta.recipient) if meta is not None else None,
        "size": meta.size if meta is not None else None,
    }


def entry_fields(record: Record, log: str, k_priv: bytes | None) -> dict[str, Any]:
    """An entry with what opens it, as the JSON kind `entry` has it: leaf = SHA-256(00 ‖ entry)."""
    import base64

    from talos.chain.entry import salt

    def text(data: bytes) -> str | None:
        return base64.b64encode(data).decode() if data else None

    meta = record.meta_bytes if k_priv is not None else b""
    sealed = record.entry.sealed_hash
    return {
        "log": log,
        "index": record.index,
        "block": record.height,
        "time": rfc3339(record.entry.time_ms),
        "type": record.entry.kind.name.lower(),
        "line": record.meta is not None and record.meta.type in range(1, 6),
        "sealed_hash": sealed.hex() if sealed is not None else None,
        "leaf": record.leaf.hex(),
        "entry_b64": text(record.data) or "",
        "meta_b64": text(meta),
        "salt": salt(k_priv, record.entry.kind, meta).hex() if meta and k_priv is not None else None,
        "blob_b64": text(record.blob),
    }


def write_new(path: Path, data: bytes) -> None:
    """Writes a file that was not there, for its owner alone."""
    from talos.identity import private_file

    try:
        private_file.write(path, data)
    except FileExistsError:
        raise Failure("file_exists", f"{path} exists already", hint="another name, or remove it first") from None


def line_of(fields: dict[str, Any]) -> str:
    return json.dumps({"v": 1, "kind": "entry", **fields})


def private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
