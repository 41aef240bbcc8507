"""`talos history`: what was said, sent and called, as this home's chains hold it."""

from __future__ import annotations

import heapq
import json
import os
import secrets
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from talos.cli import chains
from talos.cli.calls import rfc3339
from talos.cli.commands.audit import POLL_SECONDS, since_ms
from talos.cli.exits import Failure
from talos.cli.frame import command, passphrase_options
from talos.cli.output import short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.chain.records import ChainReader, Record
    from talos.cli.session import Session

__all__ = ["history"]

MESSAGES = {"sent", "received", "receipt_got"}
FILES = {"file"}
TUNNEL = {"mcp_call", "mcp_result"}


@command("history", help="Lists what was said, sent and called, with WHO or with anybody, each with its block.")
@click.argument("who", required=False)
@click.option("--since", metavar="T", help="only since then: 10m, 2h, 3d, or 2026-11-23T14:00")
@click.option("--messages", is_flag=True, help="messages only")
@click.option("--files", is_flag=True, help="files only")
@click.option("--mcp", is_flag=True, help="tool calls only")
@click.option("-f", "--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@click.option("--export", "file", type=click.Path(path_type=Path), metavar="FILE", help="write JSON lines there")
@passphrase_options
def history(session: Session, who: str | None, *, follow: bool, file: Path | None, **options: Any) -> None:
    wanted = _Wanted(
        peer=session.find(who).peer_text if who is not None else None,
        since=since_ms(options["since"]) if options["since"] is not None else 0,
        types=_types(**options),
    )
    with ExitStack() as stack:
        readers = _readers(session, stack)
        rows = heapq.merge(*(_rows(reader) for reader in readers), key=lambda row: row["_ms"])
        chosen = (row for row in rows if wanted(row))
        if file is not None:
            session.out.note(f"{_write(file, chosen)} entries in {file}")
            return
        for row in chosen:
            _show(session, row)
        while follow:
            time.sleep(POLL_SECONDS)
            for reader in readers:
                for row in _rows(reader):
                    if wanted(row):
                        _show(session, row)


class _Wanted:
    """Which rows are listed."""

    def __init__(self, *, peer: str | None, since: int, types: set[str]) -> None:
        self._peer = peer
        self._since = since
        self._types = types

    def __call__(self, row: dict[str, Any]) -> bool:
        return (
            row["type"] in self._types
            and row["_ms"] >= self._since
            and (self._peer is None or row["peer_id"] == self._peer)
        )


def _types(*, messages: bool, files: bool, mcp: bool, since: str | None) -> set[str]:  # noqa: ARG001 - all options
    chosen = (MESSAGES if messages else set()) | (FILES if files else set()) | (TUNNEL if mcp else set())
    return chosen or MESSAGES | FILES | TUNNEL


def _readers(session: Session, stack: ExitStack) -> list[ChainReader]:
    from talos.chain.config import ChainKeys
    from talos.chain.records import ChainReader

    chains.warn_of_old_logs(session)
    found = chains.directories(session)
    keys = ChainKeys.of(session.unlock()) if found else None
    return [stack.enter_context(ChainReader(directory, keys)) for directory in found]


def _rows(reader: ChainReader) -> Iterator[dict[str, Any]]:
    mine = {author.peer_id for author in reader.params.authors}
    for record in reader.records():
        if record.entry.msg_id is not None:
            yield _row(reader.directory.name, record, mine)


def _row(log: str, record: Record, mine: set[bytes]) -> dict[str, Any]:
    meta = record.meta
    sent = meta is not None and meta.sender in mine
    other = (meta.recipient if sent else meta.sender) if meta is not None else b""
    assert record.entry.msg_id is not None
    return {
        "_ms": record.entry.time_ms,
        "time": rfc3339(record.entry.time_ms),
        "log": log,
        "entry": record.index,
        "block": record.height,
        "id": record.entry.msg_id.hex(),
        "type": record.entry.kind.name.lower(),
        "direction": None if meta is None else "out" if sent else "in",
        "peer_id": chains.peer_text(other),
        "size": meta.size if meta is not None else None,
        "leaf": record.leaf.hex(),
    }


def _show(session: Session, row: dict[str, Any]) -> None:
    if session.json:
        session.out.emit("history", **_public(row))
        return
    peer = row["peer_id"] or ""
    arrow = {"out": "→", "in": "←", None: " "}[row["direction"]]
    block = f"block {row['block']}" if row["block"] is not None else "not in a block yet"
    words = (row["time"], row["type"], arrow, peer if session.verbose else short(peer), f"{row['size'] or 0} B", block)
    session.out.line("  ".join(word for word in words if word))


def _public(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "_ms"}


def _write(file: Path, rows: Iterator[dict[str, Any]]) -> int:
    """As a whole or not at all; never in the place of another file."""
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    count = 0
    try:
        with open(scratch, "x", encoding="ascii", opener=chains.private) as output:
            for row in rows:
                output.write(json.dumps({"v": 1, "kind": "history", **_public(row)}) + "\n")
                count += 1
            output.flush()
            os.fsync(output.fileno())
        os.link(scratch, file)
    except FileExistsError:
        raise Failure("file_exists", f"{file} exists already", hint="another name, or remove it first") from None
    finally:
        scratch.unlink(missing_ok=True)
    return count
