"""Which messages are known, and which sequence numbers are over.

An id is known for `seen_ttl`; when it is forgotten its sequence number stays as its author's floor, so that the
same message played again later is not new (messages that merely overtake each other are within the time).
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["SeenCache"]


class _Seen:
    __slots__ = ("author", "expires", "rejected", "seqno")

    def __init__(self, expires: float, author: bytes | None, seqno: int) -> None:
        self.expires = expires
        self.author = author
        self.seqno = seqno
        self.rejected = False


class SeenCache:
    """Ids of messages, oldest first; both tables are bounded."""

    __slots__ = ("_floors", "_ids", "_max_authors", "_max_ids", "_ttl")

    def __init__(self, *, ttl: float, max_ids: int, max_authors: int) -> None:
        self._ttl = ttl
        self._max_ids = max_ids
        self._max_authors = max_authors
        self._ids: OrderedDict[bytes, _Seen] = OrderedDict()
        self._floors: OrderedDict[bytes, int] = OrderedDict()

    def __contains__(self, message_id: bytes) -> bool:
        return message_id in self._ids

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, message_id: bytes, now: float, author: bytes | None = None, seqno: int = 0) -> None:
        """Remembers the id; `author` and `seqno` where the network has them."""
        self._ids[message_id] = _Seen(now + self._ttl, author, seqno)
        if len(self._ids) > self._max_ids:
            self._forget()

    def reject(self, message_id: bytes) -> None:
        """The message was found invalid: who brings it again is to blame too."""
        if message_id in self._ids:
            self._ids[message_id].rejected = True

    def was_rejected(self, message_id: bytes) -> bool:
        """Whether it is known as invalid."""
        return message_id in self._ids and self._ids[message_id].rejected

    def is_replay(self, author: bytes, seqno: int) -> bool:
        """Whether a message of this author with this number or a later one was known and has been forgotten."""
        return seqno <= self._floors.get(author, -1)

    def expire(self, now: float) -> None:
        """Forgets what is over."""
        ids = self._ids
        while ids and next(iter(ids.values())).expires <= now:
            self._forget()

    def _forget(self) -> None:
        seen = self._ids.popitem(last=False)[1]
        if seen.author is None:
            return
        floor = max(seen.seqno, self._floors.pop(seen.author, 0))
        self._floors[seen.author] = floor
        if len(self._floors) > self._max_authors:
            self._floors.popitem(last=False)
