"""Encryption keys of others: `/talos/keys/1.0.0`, the network's records, and what was seen before.

Of each identity the record with the highest number counts for good: an older one is never believed again.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.errors import BadSignature, RemoteProtocolError, RoutingError
from talos.identity.key_record import KeyRecord
from talos.messaging.payload import MAX_NUMBER
from talos.messaging.people import identity_of
from talos.messaging.retry import UNREACHABLE
from talos.messaging.seal import is_usable
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from talos.abc import Host, RecordStore, Stream
    from talos.identity.peer_id import PeerId
    from talos.messaging.people import Keyring
    from talos.messaging.store import Store

__all__ = ["KEYS_PROTOCOL", "KeyBook"]

_log = logging.getLogger(__name__)

KEYS_PROTOCOL = "/talos/keys/1.0.0"
MAX_RECORD_BYTES = 4096
ANSWER_SECONDS = 10.0
LOOKUP_SECONDS = 60.0
MAX_REMEMBERED = 4096
"""Of the records in memory; all are in the store."""


class _Entry(NamedTuple):
    """What is remembered of one identity."""

    data: bytes
    record: KeyRecord | None
    """None when it has expired: its number still counts."""
    seq: int


class KeyBook:
    """Finds and remembers key records. `learned` is told of peers whose key has changed."""

    def __init__(
        self, host: Host, keyring: Keyring, store: Store, records: RecordStore | None, now_ms: Callable[[], int]
    ) -> None:
        self._host = host
        self._keyring = keyring
        self._store = store
        self._records = records
        self._now_ms = now_ms
        self._entries: OrderedDict[PeerId, _Entry | None] = OrderedDict()
        self.learned: Callable[[PeerId], None] = lambda _peer: None

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Hands our record to whoever asks, for the length of the block."""
        with self._host.mounted(KEYS_PROTOCOL, self._answer, limited=True):
            yield

    def known(self, peer: PeerId) -> KeyRecord | None:
        """The record that is remembered, unless it has expired."""
        entry = self._entry(peer)
        if entry is None or entry.record is None or self._now_ms() >= entry.record.not_after_ms:
            return None
        return entry.record

    def learn(self, peer: PeerId, data: bytes) -> KeyRecord | None:
        """Remembers a record that came from anywhere; the newest that is known, None when there is none of use."""
        entry = self._entry(peer)
        if entry is not None and entry.data == data:
            return self.known(peer)
        try:
            record = KeyRecord.open(data, now_ms=self._now_ms(), identity=identity_of(peer))
            _check_usable(record)
        except (RemoteProtocolError, BadSignature) as error:
            _log.debug("key record of %s refused: %s", peer, error)
            return None
        if entry is not None and entry.seq >= record.seq:
            return self.known(peer)
        self._remember(peer, _Entry(data, record, record.seq))
        self._store.database.write_soon(lambda c: self._store.set_key_record(c, peer, record.seq, data))
        self.learned(peer)
        return record

    def _entry(self, peer: PeerId) -> _Entry | None:
        """From memory or the store, which both keep the newest."""
        if peer in self._entries:
            self._entries.move_to_end(peer)
            return self._entries[peer]
        found = self._store.key_record(peer)
        return self._remember(peer, None if found is None else self._opened(peer, *found))

    def _remember(self, peer: PeerId, entry: _Entry | None) -> _Entry | None:
        self._entries[peer] = entry
        self._entries.move_to_end(peer)
        if len(self._entries) > MAX_REMEMBERED:
            self._entries.popitem(last=False)
        return entry

    def _opened(self, peer: PeerId, seq: int, data: bytes) -> _Entry:
        try:
            return _Entry(data, KeyRecord.open(data, now_ms=self._now_ms(), identity=identity_of(peer)), seq)
        except RemoteProtocolError:
            return _Entry(data, None, seq)

    async def find(self, peer: PeerId) -> KeyRecord | None:
        """The record of `peer`: remembered, asked on a connection that is open, looked up, asked on a new one."""
        found = self.known(peer)
        if found is not None:
            await trio.lowlevel.checkpoint()
            return found
        if any(connection.remote_peer == peer for connection in self._host.connections):
            found = await self._ask(peer)
        return found or await self._look_up(peer) or await self._ask(peer)

    async def _ask(self, peer: PeerId) -> KeyRecord | None:
        try:
            with trio.fail_after(ANSWER_SECONDS):
                async with await self._host.open_stream(peer, KEYS_PROTOCOL, limited_ok=True) as stream:
                    frames = MessageStream(stream, decode=bytes, encode=bytes, max_size=MAX_RECORD_BYTES)
                    return self.learn(peer, await frames.receive())
        except (*UNREACHABLE, RemoteProtocolError) as error:
            _log.debug("%s did not tell its key: %r", peer, error)
            return None

    async def _look_up(self, peer: PeerId) -> KeyRecord | None:
        if self._records is None:
            return None
        try:
            with trio.fail_after(LOOKUP_SECONDS):
                data = await self._records.get_value(b"/talos/keys/" + str(peer).encode())
        except (RoutingError, trio.TooSlowError) as error:
            _log.debug("no key record of %s was found: %r", peer, error)
            return None
        return None if data is None else self.learn(peer, data)

    async def _answer(self, stream: Stream) -> None:
        frames = MessageStream(stream, decode=bytes, encode=bytes, max_size=MAX_RECORD_BYTES)
        with trio.move_on_after(ANSWER_SECONDS):
            await frames.send(self._keyring.key_record(self._now_ms()))
            return
        stream.reset()


def _check_usable(record: KeyRecord) -> None:
    if record.seq > MAX_NUMBER:
        raise RemoteProtocolError("a key record whose number is no time")
    if not is_usable(record.x25519):
        raise RemoteProtocolError("a key record whose X25519 key is of small order")
