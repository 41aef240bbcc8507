"""What the tables of the message store have in common: how rows are found and sealed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import sqlite3

    from talos.identity.peer_id import PeerId
    from talos.messaging.database import Database
    from talos.messaging.rows import RowCipher

__all__ = ["Table"]


class Table:
    """A part of the store. Functions that take a connection run inside a transaction of `Database.write`."""

    def __init__(self, database: Database, cipher: RowCipher) -> None:
        self.database = database
        self._cipher = cipher

    def _message_key(self, sender: bytes, message_id: bytes) -> bytes:
        return self._cipher.index(b"message", sender, message_id)

    def _peer_key(self, peer: PeerId | None) -> bytes:
        return self._cipher.index(b"peer", b"*" if peer is None else peer.to_bytes())

    def _seal(self, table: str, number: int, data: bytes) -> bytes:
        return self._cipher.seal(table, number.to_bytes(8, "big"), data)

    def _open(self, table: str, number: int, box: bytes) -> bytes:
        return self._cipher.open(table, number.to_bytes(8, "big"), box)

    @staticmethod
    def _count(connection: sqlite3.Connection, sql: str, *values: object) -> int:
        return int(connection.execute(sql, values).fetchone()[0])
