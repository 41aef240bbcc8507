"""Whom a node knew at the end of its last run, for one that may not open its store: it only reads, and only tries."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from talos.addr import decode, with_peer
from talos.errors import ConfigError, RemoteProtocolError
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from pathlib import Path

    from multiaddr import Multiaddr

__all__ = ["remembered_addrs"]


def remembered_addrs(store: Path, most: int = 32) -> tuple[Multiaddr, ...]:
    """Addresses to begin with, each ending in `/p2p/…`; none when there is no store or another process has it."""
    if not store.exists():
        return ()
    found: list[Multiaddr] = []
    try:
        with closing(sqlite3.connect(f"{store.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            rows = connection.execute("SELECT peer, addrs FROM peer LIMIT ?", (most,)).fetchall()
        for peer, addrs in rows:
            parts = (bytes.fromhex(part) for part in str(addrs).split())
            found += [with_peer(decode(part), PeerId.from_bytes(bytes(peer))) for part in parts]
    except (sqlite3.Error, ConfigError, RemoteProtocolError, ValueError):
        return tuple(found)
    return tuple(found)
