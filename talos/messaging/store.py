"""What is kept of messages: history, outbox, seen ids, counters, strangers' letters, key records.

Peers and ids are found by keyed hashes and all else is sealed (`talos.messaging.rows`): the file shows how many
messages there are and when they were sent, no text and no name. Functions that take a connection run inside a
transaction of `Database.write`; the others read what was committed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from talos.errors import LimitExceeded
from talos.identity.peer_id import PeerId
from talos.messaging.outbox import Outbox
from talos.messaging.stored import (
    Flow,
    MessageState,
    OutboxRow,
    Seen,
    StoredMessage,
    WaitingLetter,
    decode_message,
    encode_message,
)
from talos.wire.pb import message_store_pb2 as pb

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from talos.messaging.payload import Payload

__all__ = ["SCHEMA", "Flow", "MessageState", "OutboxRow", "Seen", "Store", "StoredMessage", "WaitingLetter"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS message (n INTEGER PRIMARY KEY AUTOINCREMENT, k BLOB NOT NULL UNIQUE, peer BLOB NOT NULL,
    incoming INTEGER NOT NULL, type INTEGER NOT NULL, sent INTEGER NOT NULL, state INTEGER NOT NULL, ends INTEGER,
    box BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS message_ends ON message (ends) WHERE ends IS NOT NULL;
CREATE INDEX IF NOT EXISTS message_peer ON message (peer, n);
CREATE INDEX IF NOT EXISTS message_sent ON message (sent);
CREATE TABLE IF NOT EXISTS outbox (n INTEGER PRIMARY KEY, peer BLOB NOT NULL, due INTEGER NOT NULL,
    attempt INTEGER NOT NULL, expires INTEGER NOT NULL, box BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS outbox_peer ON outbox (peer, n);
CREATE TABLE IF NOT EXISTS held (n INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS inbox (turn INTEGER PRIMARY KEY AUTOINCREMENT, n INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS unrecorded (n INTEGER PRIMARY KEY);
CREATE TABLE IF NOT EXISTS seen (k BLOB PRIMARY KEY, until INTEGER NOT NULL, digest BLOB NOT NULL,
    signature BLOB NOT NULL, n INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS seen_until ON seen (until);
CREATE TABLE IF NOT EXISTS flow (k BLOB PRIMARY KEY, line BLOB NOT NULL, epoch INTEGER NOT NULL, box BLOB NOT NULL)
    WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS flow_line ON flow (line, epoch);
CREATE TABLE IF NOT EXISTS waiting (n INTEGER PRIMARY KEY AUTOINCREMENT, peer BLOB NOT NULL, size INTEGER NOT NULL,
    box BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS waiting_peer ON waiting (peer, n);
CREATE TABLE IF NOT EXISTS key (peer BLOB PRIMARY KEY, seq INTEGER NOT NULL, box BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta (k TEXT PRIMARY KEY, v NOT NULL) WITHOUT ROWID;
"""

READ_CURSOR = "received"
RUN = "run"
FLOW_LINE_PARTS = 4
"""So many parts of a counter's key say whose it is; what follows is its epoch."""
EPOCHS_KEPT = 4
"""Of one sender in one conversation: what comes of an older one is shown behind a gap."""


class Store(Outbox):
    """The tables by their meaning."""

    # ------------------------------------------------------------------------------- history

    def add_message(self, connection: sqlite3.Connection, message: StoredMessage) -> int:
        """Puts a message into the history, not yet recorded by the audit log; returns its number."""
        payload = message.payload
        cursor = connection.execute(
            "INSERT OR IGNORE INTO message (k, peer, incoming, type, sent, state, ends, box)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, x'')",
            (
                self._message_key(payload.sender, message.id),
                self._peer_key(message.peer),
                message.incoming,
                payload.type,
                payload.timestamp_ms,
                message.state,
                payload.timestamp_ms + payload.ttl_s * 1000 if payload.ttl_s else None,
            ),
        )
        number = cursor.lastrowid
        if cursor.rowcount != 1 or number is None:
            raise LimitExceeded("a message of this id is there already", scope="messages", kind="id")
        self._write_box(connection, number, message)
        connection.execute("INSERT INTO unrecorded VALUES (?)", (number,))
        return number

    def set_message(self, connection: sqlite3.Connection, message: StoredMessage) -> None:
        """Writes what changed of a message that has its number."""
        connection.execute("UPDATE message SET state = ? WHERE n = ?", (message.state, message.number))
        self._write_box(connection, message.number, message)

    def change(
        self, connection: sqlite3.Connection, number: int, *, state: MessageState | None = None, **changes: Any
    ) -> StoredMessage | None:
        """Writes these fields of a message, on top of what others have written.

        None, and nothing is written, where there is none or its state cannot become `state` any more.
        """
        message = self.message_at(number, connection)
        if message is None or (state is not None and not message.state.may_become(state)):
            return None
        changed = replace(message, state=message.state if state is None else state, **changes)
        self.set_message(connection, changed)
        return changed

    def wipe(self, connection: sqlite3.Connection, now_ms: int, limit: int = 1000) -> int:
        """Takes the content from messages whose `ttl_s` is over; returns how many they were."""
        query = "SELECT n FROM message WHERE ends <= ? AND n NOT IN (SELECT n FROM unrecorded) LIMIT ?"
        numbers = [number for (number,) in connection.execute(query, (now_ms, limit))]
        for number in numbers:
            self.change(connection, number, content=b"", frank=b"", wiped=True)
            connection.execute("UPDATE message SET ends = NULL WHERE n = ?", (number,))
        return len(numbers)

    def set_recorded(self, connection: sqlite3.Connection, number: int, leaf: bytes) -> None:
        """The audit log has it."""
        connection.execute("DELETE FROM unrecorded WHERE n = ?", (number,))
        for message in self._messages(connection.execute(f"{_MESSAGE} WHERE n = ?", (number,))):
            self._write_box(connection, number, replace(message, leaf=leaf))

    def message(self, sender: bytes, message_id: bytes) -> StoredMessage | None:
        """By its sender's key and its id."""
        rows = self.database.read(f"{_MESSAGE} WHERE k = ?", self._message_key(sender, message_id))
        return next(self._messages(rows), None)

    def has_written_to(self, peer: PeerId) -> bool:
        """Whether we ever sent this peer a message."""
        rows = self.database.read("SELECT 1 FROM message WHERE peer = ? AND incoming = 0 LIMIT 1", self._peer_key(peer))
        return next(rows, None) is not None

    def message_at(self, number: int, connection: sqlite3.Connection | None = None) -> StoredMessage | None:
        """By its place in the history; with a connection as its transaction has it."""
        query = f"{_MESSAGE} WHERE n = ?"
        rows = self.database.read(query, number) if connection is None else connection.execute(query, (number,))
        return next(self._messages(rows), None)

    def messages(
        self, *, after: int = 0, before: int | None = None, peer: PeerId | None = None, limit: int = 100
    ) -> list[StoredMessage]:
        """Up to `limit` of the history, oldest first; before `before`: the newest of those, newest first."""
        where, values = ["n > ?"], [after]
        if before is not None:
            where.append("n < ?")
            values.append(before)
        parameters: list[object] = [*values]
        if peer is not None:
            where.append("peer = ?")
            parameters.append(self._peer_key(peer))
        order = "ASC" if before is None else "DESC"
        rows = self.database.read(
            f"{_MESSAGE} WHERE {' AND '.join(where)} ORDER BY n {order} LIMIT ?",
            *parameters,
            limit,
        )
        return list(self._messages(rows))

    def unpublished(self) -> list[int]:
        """Numbers of broadcasts of ours that no neighbour has got, in order."""
        query = "SELECT n FROM message WHERE peer = ? AND incoming = 0 AND state = ? ORDER BY n"
        return [number for (number,) in self.database.read(query, self._peer_key(None), MessageState.QUEUED)]

    def unrecorded(self) -> list[StoredMessage]:
        """Those whose audit entry may be missing: the first thing to mend after a crash."""
        return list(self._messages(self.database.read(f"{_MESSAGE} JOIN unrecorded USING (n) ORDER BY n")))

    # ------------------------------------------------------------------------------- seen ids and counters

    def seen(self, sender: bytes, message_id: bytes) -> Seen | None:
        rows = self.database.read(
            "SELECT digest, signature, n FROM seen WHERE k = ?", self._message_key(sender, message_id)
        )
        return next((Seen(*row) for row in rows), None)

    def add_seen(
        self, connection: sqlite3.Connection, payload: Payload, digest: bytes, number: int, until_ms: int
    ) -> None:
        key = self._message_key(payload.sender, payload.id)
        connection.execute(
            "INSERT INTO seen VALUES (?, ?, ?, ?, ?)", (key, until_ms, digest, payload.signature, number)
        )

    def forget_seen(self, connection: sqlite3.Connection, now_ms: int) -> int:
        """Those so old that the clock refuses them; returns how many are left."""
        connection.execute("DELETE FROM seen WHERE until < ?", (now_ms,))
        return self._count(connection, "SELECT count(*) FROM seen")

    def flow(self, *key: bytes, connection: sqlite3.Connection | None = None) -> Flow | None:
        """The counter under these parts; with a connection as its transaction has it."""
        index = self._cipher.index(*key)
        query = "SELECT box FROM flow WHERE k = ?"
        rows = self.database.read(query, index) if connection is None else connection.execute(query, (index,))
        for (box,) in rows:
            found = pb.Flow.FromString(self._cipher.open("flow", index, box))
            return Flow(found.epoch, found.next_seq, found.last)
        return None

    def set_flow(self, connection: sqlite3.Connection, flow: Flow, *key: bytes) -> None:
        index, line = self._cipher.index(*key), self._cipher.index(b"line", *key[:FLOW_LINE_PARTS])
        data = pb.Flow(epoch=flow.epoch, next_seq=flow.next_seq, last=flow.last).SerializeToString()
        box = self._cipher.seal("flow", index, data)
        connection.execute(
            "INSERT INTO flow VALUES (?, ?, ?, ?)"
            " ON CONFLICT (k) DO UPDATE SET epoch = excluded.epoch, box = excluded.box",
            (index, line, flow.epoch, box),
        )
        connection.execute(
            "DELETE FROM flow WHERE line = ? AND epoch < (SELECT epoch FROM flow WHERE line = ?"
            " ORDER BY epoch DESC LIMIT 1 OFFSET ?)",
            (line, line, EPOCHS_KEPT - 1),
        )

    # ------------------------------------------------------------------------------- order of showing

    def hold(self, connection: sqlite3.Connection, number: int) -> None:
        """A message waits for those before it."""
        connection.execute("INSERT INTO held VALUES (?)", (number,))

    def show(self, connection: sqlite3.Connection, number: int) -> None:
        """Its turn has come."""
        connection.execute("DELETE FROM held WHERE n = ?", (number,))
        connection.execute("INSERT INTO inbox (n) VALUES (?)", (number,))

    def held(self) -> list[StoredMessage]:
        """What waited when the process ended."""
        return list(self._messages(self.database.read(f"{_MESSAGE} JOIN held USING (n) ORDER BY n")))

    def shown(self, after: int, limit: int) -> list[tuple[int, StoredMessage]]:
        """Turns and messages behind the turn `after`, up to the first that the audit log may not have."""
        found = []
        for turn, unrecorded, *row in self.database.read(_SHOWN, after, limit):
            if unrecorded is not None:
                break
            found.append((turn, self._message(*row)))
        return found

    # ------------------------------------------------------------------------------- strangers

    def add_waiting(
        self, connection: sqlite3.Connection, letter: WaitingLetter, *, conversations: int, size: int
    ) -> None:
        """LimitExceeded past so many strangers, or so many bytes of this one."""
        peer = self._peer_key(letter.peer)
        held = self._count(connection, "SELECT coalesce(sum(size), 0) FROM waiting WHERE peer = ?", peer)
        if held + len(letter.envelope) > size:
            raise LimitExceeded(f"{held} bytes of {letter.peer} wait", scope="waiting letters", kind="bytes")
        if not held and self._count(connection, "SELECT count(DISTINCT peer) FROM waiting") >= conversations:
            raise LimitExceeded(f"{conversations} strangers wait", scope="waiting letters", kind="conversations")
        cursor = connection.execute(
            "INSERT INTO waiting (peer, size, box) VALUES (?, ?, x'')", (peer, len(letter.envelope))
        )
        assert cursor.lastrowid is not None
        box = pb.Waiting(
            envelope=letter.envelope, peer=letter.peer.to_bytes(), since_ms=letter.since_ms
        ).SerializeToString()
        sealed = self._seal("waiting", cursor.lastrowid, box)
        connection.execute("UPDATE waiting SET box = ? WHERE n = ?", (sealed, cursor.lastrowid))

    def waiting(self, peer: PeerId | None = None) -> list[WaitingLetter]:
        where, values = ("", ()) if peer is None else ("WHERE peer = ?", (self._peer_key(peer),))
        rows = self.database.read(f"SELECT n, box FROM waiting {where} ORDER BY n", *values)  # noqa: S608 - our own words
        letters = []
        for number, box in rows:
            found = pb.Waiting.FromString(self._open("waiting", number, box))
            letters.append(WaitingLetter(number, PeerId.from_bytes(found.peer), found.envelope, found.since_ms))
        return letters

    def remove_waiting(self, connection: sqlite3.Connection, number: int) -> None:
        connection.execute("DELETE FROM waiting WHERE n = ?", (number,))

    # ------------------------------------------------------------------------------- key records, reading

    def key_record(self, peer: PeerId) -> tuple[int, bytes] | None:
        """The signed record with the highest number that was ever seen of this peer, behind that number."""
        index = self._peer_key(peer)
        for seq, box in self.database.read("SELECT seq, box FROM key WHERE peer = ?", index):
            return seq, self._cipher.open("key", index, box)
        return None

    def set_key_record(self, connection: sqlite3.Connection, peer: PeerId, seq: int, record: bytes) -> None:
        """Keeps it unless one with a higher number is there."""
        index = self._peer_key(peer)
        connection.execute(
            "INSERT INTO key VALUES (?, ?, ?) ON CONFLICT (peer) DO UPDATE SET seq = excluded.seq, box = excluded.box"
            " WHERE excluded.seq > key.seq",
            (index, seq, self._cipher.seal("key", index, record)),
        )

    def run_marker(self) -> bytes:
        """What `set_run_marker` wrote last; empty in a new store."""
        return next((value for (value,) in self.database.read("SELECT v FROM meta WHERE k = ?", RUN)), b"")

    def set_run_marker(self, connection: sqlite3.Connection, marker: bytes) -> None:
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (RUN, marker))

    def cursor(self) -> int:
        """The turn of the last message that a reader of `received` has taken."""
        return next((value for (value,) in self.database.read("SELECT v FROM meta WHERE k = ?", READ_CURSOR)), 0)

    def set_cursor(self, connection: sqlite3.Connection, turn: int) -> None:
        """The turns up to it are not needed any more."""
        connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (READ_CURSOR, turn))
        connection.execute("DELETE FROM inbox WHERE turn <= ?", (turn,))

    # ------------------------------------------------------------------------------- rows

    def _write_box(self, connection: sqlite3.Connection, number: int, message: StoredMessage) -> None:
        connection.execute(
            "UPDATE message SET box = ? WHERE n = ?", (self._seal("message", number, encode_message(message)), number)
        )

    def _messages(self, rows: Iterator[tuple[int, int, int, bytes]]) -> Iterator[StoredMessage]:
        return (self._message(*row) for row in rows)

    def _message(self, number: int, incoming: int, state: int, box: bytes) -> StoredMessage:
        return decode_message(self._open("message", number, box), number, MessageState(state), incoming=bool(incoming))


_MESSAGE = "SELECT n, incoming, state, box FROM message"
_SHOWN = (
    "SELECT turn, u.n, message.n, incoming, state, box FROM inbox JOIN message ON message.n = inbox.n"
    " LEFT JOIN unrecorded u ON u.n = inbox.n WHERE turn > ? ORDER BY turn LIMIT ?"
)
