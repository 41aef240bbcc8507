"""What waits to be sent: finished envelopes in the order in which they were written, and drafts without a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from talos.errors import LimitExceeded
from talos.identity.peer_id import PeerId
from talos.messaging.stored import OutboxRow, encode_row
from talos.messaging.table import Table
from talos.wire.pb import message_store_pb2 as pb

if TYPE_CHECKING:
    import sqlite3

__all__ = ["Due", "Outbox"]


class Due(NamedTuple):
    """A message that may be sent."""

    number: int
    size: int
    """Of what is kept of it: about its envelope."""
    written_ms: int


class Outbox(Table):
    """The table of that name."""

    def add_outbox(self, connection: sqlite3.Connection, row: OutboxRow, *, per_peer: int, total: int) -> None:
        """LimitExceeded when so many wait already."""
        peer = self._peer_key(row.peer)
        if self._count(connection, "SELECT count(*) FROM outbox WHERE peer = ?", peer) >= per_peer:
            raise LimitExceeded(f"{per_peer} messages wait for {row.peer}", scope="outbox", kind="messages")
        if self._count(connection, "SELECT count(*) FROM outbox") >= total:
            raise LimitExceeded(f"{total} messages wait to be sent", scope="outbox", kind="messages")
        box = encode_row(row)
        connection.execute(
            "INSERT INTO outbox VALUES (?, ?, ?, ?, ?, ?)",
            (row.number, peer, row.due_ms, row.attempt, row.expires_ms, self._seal("outbox", row.number, box)),
        )

    def set_envelope(self, connection: sqlite3.Connection, row: OutboxRow) -> None:
        """A message that was written before its recipient's key was known is sealed now."""
        sealed = self._seal("outbox", row.number, encode_row(row))
        connection.execute("UPDATE outbox SET box = ?, attempt = 0 WHERE n = ?", (sealed, row.number))

    def set_attempt(self, connection: sqlite3.Connection, number: int, attempt: int, due_ms: int) -> None:
        connection.execute("UPDATE outbox SET attempt = ?, due = ? WHERE n = ?", (attempt, due_ms, number))

    def set_due(self, connection: sqlite3.Connection, peer: PeerId, due_ms: int) -> None:
        """Everything for `peer` may be tried at this time."""
        connection.execute("UPDATE outbox SET due = min(due, ?) WHERE peer = ?", (due_ms, self._peer_key(peer)))

    def remove_outbox(self, connection: sqlite3.Connection, number: int) -> None:
        connection.execute("DELETE FROM outbox WHERE n = ?", (number,))

    def outbox(self, *, peer: PeerId | None = None, after: int = 0, limit: int = 100) -> list[OutboxRow]:
        """What waits, in the order in which it was written."""
        where, values = ("WHERE n > ?", (after,)) if peer is None else (_OF_PEER, (self._peer_key(peer), after))
        rows = self.database.read(f"{_OUTBOX} {where} ORDER BY n LIMIT ?", *values, limit)
        return [self._outbox_row(*row) for row in rows]

    def due(self, peer: PeerId, now_ms: int, *, limit: int) -> list[Due]:
        """What may be sent to `peer` now, in order; drafts are not among it."""
        return [Due(*row) for row in self.database.read(_DUE, self._peer_key(peer), now_ms, limit)]

    def outbox_row(self, number: int) -> OutboxRow | None:
        rows = self.database.read(f"{_OUTBOX} WHERE n = ?", number)
        return next((self._outbox_row(*row) for row in rows), None)

    def sealed_before(self, connection: sqlite3.Connection, peer: PeerId, key_seq: int) -> list[OutboxRow]:
        """What waits for `peer` under an older key record than this, in order."""
        query = f"{_OUTBOX} WHERE peer = ? AND attempt >= 0 ORDER BY n"
        rows = (self._outbox_row(*row) for row in connection.execute(query, (self._peer_key(peer),)))
        return [row for row in rows if row.key_seq < key_seq]

    def next_due(self, peer: PeerId) -> int | None:
        """Unix milliseconds from which the next message to `peer` may be sent; None when nothing waits."""
        rows = self.database.read("SELECT min(due) FROM outbox WHERE peer = ?", self._peer_key(peer))
        due: int | None = next(rows)[0]
        return due

    def outbox_peers(self) -> list[PeerId]:
        """For whom something waits."""
        rows = self.database.read(f"{_OUTBOX} GROUP BY peer")
        return [self._outbox_row(*row).peer for row in rows]

    def expired(self, now_ms: int, limit: int = 100) -> list[int]:
        """Numbers of what waited too long."""
        return [
            number for (number,) in self.database.read("SELECT n FROM outbox WHERE expires <= ? LIMIT ?", now_ms, limit)
        ]

    def drafts(self, peer: PeerId, connection: sqlite3.Connection, *, limit: int) -> list[OutboxRow]:
        """What was written before the recipient's key was known, in order."""
        query = f"{_OUTBOX} WHERE peer = ? AND attempt < 0 ORDER BY n LIMIT ?"
        rows = connection.execute(query, (self._peer_key(peer), limit))
        return [self._outbox_row(*row) for row in rows]

    def has_drafts(self, peer: PeerId, connection: sqlite3.Connection | None = None) -> bool:
        values = (self._peer_key(peer),)
        rows = self.database.read(_DRAFT, *values) if connection is None else connection.execute(_DRAFT, values)
        return next(iter(rows), None) is not None

    def outbox_size(self) -> int:
        return int(next(self.database.read("SELECT count(*) FROM outbox"))[0])

    def _outbox_row(self, number: int, due: int, attempt: int, expires: int, box: bytes) -> OutboxRow:
        found = pb.Waiting.FromString(self._open("outbox", number, box))
        return OutboxRow(number, PeerId.from_bytes(found.peer), found.envelope, attempt, due, expires, found.key_seq)


_OUTBOX = "SELECT n, due, attempt, expires, box FROM outbox"
_DUE = (
    "SELECT outbox.n, length(outbox.box), sent FROM outbox JOIN message USING (n)"
    " WHERE outbox.peer = ? AND attempt >= 0 AND due <= ? ORDER BY outbox.n LIMIT ?"
)
_DRAFT = "SELECT 1 FROM outbox WHERE peer = ? AND attempt < 0 LIMIT 1"
_OF_PEER = "WHERE peer = ? AND n > ?"
