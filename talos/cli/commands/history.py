"""`talos history`: what was said, sent and called, as this home has it, each with its place in the chain.

Messages come from the message store, which has their texts; what it has not, and tool calls, from the chains.
"""

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
from talos.cli.calls import peer_text, rfc3339
from talos.cli.commands.audit import POLL_SECONDS, since_ms
from talos.cli.exits import Failure
from talos.cli.frame import command, passphrase_options
from talos.cli.messages import reading
from talos.cli.names import channel_of
from talos.cli.output import counted
from talos.cli.telling import tell_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.chain.records import ChainReader, Record
    from talos.cli.session import Session
    from talos.messaging.reading import MessageHistory

__all__ = ["history"]

MESSAGES = {"sent", "received", "receipt_got"}
FILES = {"file"}
TUNNEL = {"mcp_call", "mcp_result"}
OFFER = "stream_start"
UNTOLD = {"ack", "stream_chunk", "stream_end"}
"""Messages that only serve others."""


@command("history", help="Lists what was said, sent and called, with WHO (`*`: to all, `#NAME`: a channel) or anybody.")
@click.argument("who", required=False)
@click.option("--since", metavar="T", help="only since then: 10m, 2h, 3d, or 2026-11-23T14:00")
@click.option("--messages", is_flag=True, help="messages only")
@click.option("--files", is_flag=True, help="files only")
@click.option("--mcp", is_flag=True, help="tool calls only")
@click.option("--search", metavar="TEXT", help="messages with this in text, subject or file name")
@click.option("-f", "--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@click.option("--export", "file", type=click.Path(path_type=Path), metavar="FILE", help="write JSON lines there")
@passphrase_options
def history(session: Session, who: str | None, *, follow: bool, file: Path | None, **options: Any) -> None:
    since, channel = options.pop("since"), None if who is None else channel_of(who)
    wanted = _Wanted(
        peer=session.find(who).peer_text if who is not None and channel is None else None,
        channel=channel,
        since=since_ms(since) if since is not None else 0,
        **options,
    )
    chains.warn_of_old_logs(session)
    session.home.check()
    with ExitStack() as stack:
        sources = _Sources(session, stack, wanted)
        if file is not None:
            session.out.note(f"{counted(_write(file, sources.rows()), 'entry')} in {file}")
            return
        for row in sources.rows():
            _show(session, row)
        while follow:
            time.sleep(POLL_SECONDS)
            for row in sources.rows():
                _show(session, row)


class _Wanted:
    """Which rows are listed."""

    def __init__(
        self,
        *,
        peer: str | None,
        channel: str | None,
        since: int,
        search: str | None,
        messages: bool,
        files: bool,
        mcp: bool,
    ) -> None:
        self._peer = peer
        self._channel = channel
        self._since = since
        self._search = None if search is None else search.casefold()
        every = not (messages or files or mcp)
        self.messages, self.files, self._mcp = messages or every, files or every, mcp or every

    def __call__(self, row: dict[str, Any]) -> bool:
        return (
            row["_ms"] >= self._since
            and (self._peer is None or row["peer_id"] == self._peer)
            and (self._of_message(row) if row["_kind"] == "message" else self._of_chain(row))
        )

    def _of_message(self, row: dict[str, Any]) -> bool:
        if not (self.files if row["type"] == OFFER else self.messages) or row["type"] in UNTOLD:
            return False
        if self._channel is not None and not (row["to_all"] and (row["channel"] or "") == self._channel):
            return False
        words = (row["text"], row["subject"], row["name"])
        return self._search is None or any(self._search in word.casefold() for word in words if word)

    def _of_chain(self, row: dict[str, Any]) -> bool:
        kinds = ((MESSAGES, self.messages), (FILES, self.files), (TUNNEL, self._mcp))
        if self._search is not None or self._channel is not None:
            return False
        return any(wanted and row["type"] in types for types, wanted in kinds)


class _Sources:
    """The chains of a home and its messages, read together in the order of time."""

    def __init__(self, session: Session, stack: ExitStack, wanted: _Wanted) -> None:
        from talos.chain.config import ChainKeys
        from talos.chain.records import ChainReader

        self._wanted = wanted
        self._seen = 0
        self._readers: list[ChainReader] = []
        self._messages: MessageHistory | None = None
        directories = chains.directories(session)
        if not directories and not session.home.messages.is_file():
            return
        wallet = session.unlock()
        keys = ChainKeys.of(wallet)
        self._readers = [stack.enter_context(ChainReader(directory, keys)) for directory in directories]
        self._messages = stack.enter_context(reading(session, wallet))

    def rows(self) -> Iterator[dict[str, Any]]:
        """What came since the last call."""
        parts = [self._of_chain(reader) for reader in self._readers]
        merged = heapq.merge(*parts, self._of_messages(), key=lambda row: row["_ms"])
        return (row for row in merged if self._wanted(row))

    def _of_messages(self) -> Iterator[dict[str, Any]]:
        if self._messages is None or not (self._wanted.messages or self._wanted.files):
            return
        from talos.messaging.view import message_row

        for message in self._messages.messages(after=self._seen):
            self._seen = message.number
            fields = message_row(message)
            yield {"_ms": message.stored_ms, "_kind": "message", **fields, "block": self._block(message.id)}

    def _block(self, ident: bytes) -> int | None:
        """Where the record of a message is, once a block has it."""
        from talos.chain.reading import POSITION_BITS

        positions = [position for reader in self._readers for position in reader.reading.positions(ident)]
        return min(positions) >> POSITION_BITS if positions else None

    def _of_chain(self, reader: ChainReader) -> Iterator[dict[str, Any]]:
        mine = {author.peer_id for author in reader.params.authors}
        for record in reader.records():
            if record.entry.msg_id is not None and not self._is_told(record, mine):
                yield _row(reader.directory.name, record, mine)

    def _is_told(self, record: Record, mine: set[bytes]) -> bool:
        """Whether the message store has it, with more to say."""
        if self._messages is None or record.entry.kind.name.lower() not in MESSAGES:
            return False
        senders = mine if record.meta is None else {record.meta.sender}
        assert record.entry.msg_id is not None
        return any(self._messages.has(sender, record.entry.msg_id) for sender in senders)


def _row(log: str, record: Record, mine: set[bytes]) -> dict[str, Any]:
    meta = record.meta
    sent = meta is not None and meta.sender in mine
    other = (meta.recipient if sent else meta.sender) if meta is not None else b""
    assert record.entry.msg_id is not None
    return {
        "_ms": record.entry.time_ms,
        "_kind": "history",
        "time": rfc3339(record.entry.time_ms),
        "log": log,
        "entry": record.index,
        "block": record.height,
        "id": record.entry.msg_id.hex(),
        "type": record.entry.kind.name.lower(),
        "direction": None if meta is None else "out" if sent else "in",
        "peer_id": peer_text(other),
        "size": meta.size if meta is not None else None,
        "leaf": record.leaf.hex(),
    }


def _show(session: Session, row: dict[str, Any]) -> None:
    if session.json:
        session.out.emit(row["_kind"], **_public(row))
        return
    block = f"block {row['block']}" if row["block"] is not None else "not in a block yet"
    if row["_kind"] == "message":
        tell_message(session, row, rfc3339(row["_ms"]), mark=block)
        return
    peer = row["peer_id"] or ""
    arrow = {"out": "→", "in": "←", None: " "}[row["direction"]]
    who = peer if session.verbose or not peer else session.shown(peer)
    words = (row["time"], row["type"], arrow, who, f"{row['size'] or 0} B", block)
    session.out.line("  ".join(word for word in words if word))


def _public(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if not name.startswith("_")}


def _write(file: Path, rows: Iterator[dict[str, Any]]) -> int:
    """As a whole or not at all; never in the place of another file."""
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    count = 0
    try:
        with open(scratch, "x", encoding="ascii", opener=chains.private) as output:
            for row in rows:
                output.write(json.dumps({"v": 1, "kind": row["_kind"], **_public(row)}) + "\n")
                count += 1
            output.flush()
            os.fsync(output.fileno())
        os.link(scratch, file)
    except FileExistsError:
        raise Failure("file_exists", f"{file} exists already", hint="another name, or remove it first") from None
    finally:
        scratch.unlink(missing_ok=True)
    return count
