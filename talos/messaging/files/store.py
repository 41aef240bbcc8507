"""`files.db`: transfers across restarts, sealed rows that name nobody."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from talos.errors import StoreCorrupt
from talos.messaging.files.manifest import Manifest
from talos.messaging.files.transfer import Transfer

if TYPE_CHECKING:
    from sqlite3 import Connection

    from talos.messaging.database import Database
    from talos.messaging.rows import RowCipher

__all__ = ["SCHEMA", "TransferStore"]

SCHEMA = """
CREATE TABLE IF NOT EXISTS transfer (number INTEGER PRIMARY KEY, id BLOB UNIQUE NOT NULL, box BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS list (id BLOB PRIMARY KEY, manifest BLOB NOT NULL, sources BLOB NOT NULL);
"""


class TransferStore:
    """Rows of transfers; their lists of files are kept until they are over."""

    def __init__(self, database: Database, cipher: RowCipher) -> None:
        self._database = database
        self._cipher = cipher

    async def save(self, transfer: Transfer) -> None:
        """Durable on return."""
        key, box = self._row(transfer)
        over = transfer.state.final

        def write(connection: Connection) -> None:
            connection.execute(
                "INSERT INTO transfer (id, box) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET box = excluded.box",
                (key, box),
            )
            if over:
                connection.execute("DELETE FROM list WHERE id = ?", (key,))

        await self._database.write(write)

    async def save_list(self, transfer: Transfer) -> None:
        """The files and where they come from."""
        if transfer.manifest is None:
            return
        key = self._key(transfer.id)
        manifest = self._cipher.seal("list.manifest", key, transfer.manifest.encode())
        sources = self._cipher.seal("list.sources", key, json.dumps(transfer.sources).encode())
        await self._database.write(
            lambda c: c.execute("INSERT OR REPLACE INTO list VALUES (?, ?, ?)", (key, manifest, sources))
        )

    async def remove(self, stream_id: bytes) -> None:
        key = self._key(stream_id)

        def write(connection: Connection) -> None:
            connection.execute("DELETE FROM transfer WHERE id = ?", (key,))
            connection.execute("DELETE FROM list WHERE id = ?", (key,))

        await self._database.write(write)

    def load(self) -> list[Transfer]:
        """All of them, oldest first; StoreCorrupt when one was altered."""
        found = []
        for key, box in self._database.read("SELECT id, box FROM transfer ORDER BY number"):
            transfer = Transfer.decode(self._cipher.open("transfer", key, box))
            for manifest, sources in self._database.read("SELECT manifest, sources FROM list WHERE id = ?", key):
                transfer.manifest = Manifest.decode(self._cipher.open("list.manifest", key, manifest))
                transfer.sources = self._sources(self._cipher.open("list.sources", key, sources))
            found.append(transfer)
        return found

    def _row(self, transfer: Transfer) -> tuple[bytes, bytes]:
        key = self._key(transfer.id)
        return key, self._cipher.seal("transfer", key, transfer.encode())

    def _key(self, stream_id: bytes) -> bytes:
        return self._cipher.index(b"transfer\0", stream_id)

    @staticmethod
    def _sources(data: bytes) -> tuple[str, ...]:
        found = json.loads(data)
        if not isinstance(found, list):
            raise StoreCorrupt("a row of transfers is not what was written")
        return tuple(os.fspath(path) for path in found)
