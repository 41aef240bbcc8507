"""The last messages, for those who ask for them (gossipsub v1.0, "Message cache")."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.gossip.message import Message
    from talos.identity.peer_id import PeerId

__all__ = ["MessageCache"]


class _Kept:
    __slots__ = ("asked", "message")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.asked: dict[PeerId, int] | None = None


class MessageCache:
    """Messages in windows of one heartbeat each, in all at most `max_bytes`; the oldest leave."""

    __slots__ = ("_gossip", "_max_bytes", "_messages", "_windows", "size")

    def __init__(self, *, length: int, gossip: int, max_bytes: int) -> None:
        self._gossip = gossip
        self._max_bytes = max_bytes
        self._messages: dict[bytes, _Kept] = {}  # in the order of their coming
        self._windows: deque[dict[str, list[bytes]]] = deque(({} for _ in range(length)), maxlen=length)
        self.size = 0
        """Bytes of the messages kept."""

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Message) -> None:
        """Keeps a message that is not kept yet."""
        if message.id in self._messages:
            return
        self._messages[message.id] = _Kept(message)
        self._windows[0].setdefault(message.topic, []).append(message.id)
        self.size += len(message.raw)
        while self.size > self._max_bytes:
            self._drop(next(iter(self._messages)))

    def answer(self, message_id: bytes, peer: PeerId, limit: int) -> Message | None:
        """The message for a peer that asks; None when it is not kept or the peer has asked `limit` times."""
        kept = self._messages.get(message_id)
        if kept is None:
            return None
        if kept.asked is None:
            kept.asked = {}
        times = kept.asked.get(peer, 0)
        if times >= limit:
            return None
        kept.asked[peer] = times + 1
        return kept.message

    def gossip_ids(self) -> dict[str, list[bytes]]:
        """Ids to announce, by topic, newest window first."""
        ids: dict[str, list[bytes]] = {}
        for window in list(self._windows)[: self._gossip]:
            for topic, named in window.items():
                ids.setdefault(topic, []).extend(one for one in named if one in self._messages)
        return ids

    def forget_peer(self, peer: PeerId) -> None:
        """Drops what is remembered of a peer that has left."""
        for kept in self._messages.values():
            if kept.asked is not None:
                kept.asked.pop(peer, None)

    def shift(self) -> None:
        """A heartbeat has passed: the oldest window leaves."""
        for ids in self._windows[-1].values():
            for message_id in ids:
                self._drop(message_id)
        self._windows.appendleft({})

    def _drop(self, message_id: bytes) -> None:
        kept = self._messages.pop(message_id, None)
        if kept is not None:
            self.size -= len(kept.message.raw)
