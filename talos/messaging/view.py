"""Messages as JSON has them: the kinds `message` and `outbox` of the command line and the control API."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from talos.messaging.code import Code, MessageType
from talos.messaging.content import StreamStart, Text
from talos.messaging.files.code import FileCode
from talos.messaging.store import MessageState

if TYPE_CHECKING:
    from talos.messaging.files.transfer import Transfer
    from talos.messaging.store import OutboxRow, StoredMessage

__all__ = ["delivery_row", "message_row", "outbox_row", "rfc3339", "transfer_row"]

SHOWN_FILES = 8
"""Of a list; a name may be 1,024 bytes long, and an answer of the control API has 64 KiB."""


def message_row(message: StoredMessage, *, most: int | None = None) -> dict[str, object]:
    """The fields of the kind `message`; of a longer text its first `most` characters.

    Text, subject and name are what their sender wrote: not fit for a terminal.
    """
    payload, text = message.payload, _text(message)
    body = _body(text)
    arrived = message.stored_ms if message.incoming else message.settled_ms
    return {
        "id": message.id.hex(),
        "direction": "in" if message.incoming else "out",
        "peer_id": None if message.peer is None else str(message.peer),
        "to_all": payload.to_all,
        "channel": payload.channel or None,
        "sent": rfc3339(payload.timestamp_ms),
        "received": rfc3339(arrived) if arrived else None,
        "state": message.state.name.lower(),
        "code": _code(message.code),
        "type": _type(payload.type),
        "media_type": text.media_type if text is not None else None,
        "subject": text.subject or None if text is not None else None,
        "text": body if body is None else body[:most],
        "cut": body is not None and most is not None and len(body) > most,
        "name": _file_name(message),
        "reply_to": text.reply_to.hex() or None if text is not None else None,
        "size": len(text.body) if text is not None else len(message.content),
        "mark": message.mark or None,
        "entry": message.leaf.hex() or None,
        "block": None,
    }


def delivery_row(message: StoredMessage) -> dict[str, object]:
    """The fields of the kind `delivery`: what became of a message of ours."""
    done = message.settled_ms and message.state in (MessageState.DELIVERED, MessageState.READ)
    return {
        "id": message.id.hex(),
        "peer_id": None if message.peer is None else str(message.peer),
        "state": message.state.name.lower(),
        "code": _code(message.code),
        "latency_ms": message.settled_ms - message.stored_ms if done else None,
        "receipt": None if message.receipt is None else message.receipt.sig.hex(),
        "entry": message.leaf.hex() or None,
    }


def outbox_row(row: OutboxRow, message: StoredMessage | None) -> dict[str, object]:
    """The fields of the kind `outbox`: what waits, for whom, until when, why."""
    state = MessageState.QUEUED if message is None else message.state
    return {
        "id": None if message is None else message.id.hex(),
        "peer_id": str(row.peer),
        "type": None if message is None else _type(message.payload.type),
        "state": state.name.lower(),
        "why": _why(row, state),
        "size": None if message is None else len(message.content),
        "queued": None if message is None else rfc3339(message.stored_ms),
        "expires": rfc3339(row.expires_ms),
        "attempts": max(0, row.attempt),
        "next": rfc3339(row.due_ms),
    }


def transfer_row(transfer: Transfer) -> dict[str, object]:
    """The fields of the kind `transfer`. Names of an incoming one are foreign; of long lists the beginning."""
    progress, entries = transfer.progress, transfer.files or ()
    seconds = (transfer.changed_ms - transfer.created_ms) / 1000
    rate = transfer.total / seconds if transfer.state.name == "COMPLETE" and seconds > 0 else progress.rate
    return {
        "stream_id": transfer.id.hex(),
        "direction": "in" if transfer.incoming else "out",
        "peer_id": str(transfer.peer),
        "state": transfer.state.name.lower(),
        "code": _file_code(transfer.code),
        "name": transfer.name,
        "files": [
            {"name": entry.path, "mime": entry.mime, "size": entry.size, "sha256": entry.sha256.hex()}
            for entry in entries[:SHOWN_FILES]
        ],
        "file_count": transfer.file_count,
        "path": None if transfer.path is None else str(transfer.path),
        "skipped": list(transfer.skipped[:SHOWN_FILES]),
        "done": progress.done,
        "total": transfer.total,
        "rate_bps": int(rate) or None,
        "id": transfer.message_id.hex() or None,
    }


def rfc3339(time_ms: int) -> str:
    """In UTC with milliseconds; what no calendar holds as the number."""
    try:
        moment = dt.datetime.fromtimestamp(time_ms / 1000, dt.UTC)
    except (OverflowError, ValueError, OSError):
        return str(time_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _why(row: OutboxRow, state: MessageState) -> str:
    if not row.envelope:
        return "no_key"
    if state is MessageState.STORED:
        return "not_let_in"
    return "unreachable" if row.attempt else "new"


def _text(message: StoredMessage) -> Text | None:
    return Text.decode(message.content) if message.payload.type == MessageType.TEXT else None


def _body(text: Text | None) -> str | None:
    if text is None or not text.media_type.startswith("text/"):
        return None
    return text.body.decode("utf-8", "replace")


def _file_name(message: StoredMessage) -> str | None:
    if message.payload.type != MessageType.STREAM_START:
        return None
    return StreamStart.decode(message.content).name or None


def _type(number: int) -> str:
    try:
        return MessageType(number).name.lower()
    except ValueError:
        return str(number)


def _file_code(number: int) -> str | None:
    if not number:
        return None
    try:
        return FileCode(number).name.lower()
    except ValueError:
        return str(number)


def _code(number: int) -> str | None:
    if not number:
        return None
    try:
        return Code(number).name.lower()
    except ValueError:
        return str(number)
