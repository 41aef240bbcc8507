"""Messages as applications see them: those that come, those on their way, and which of the history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import trio

from talos.messaging.content import Text
from talos.messaging.store import MessageState

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId
    from talos.messaging.state import State
    from talos.messaging.store import StoredMessage

__all__ = ["HistoryQuery", "Incoming", "Outgoing", "incoming_of", "matches"]


class Incoming(NamedTuple):
    """A text that came, in its turn."""

    sender: PeerId
    id: bytes
    body: bytes
    media_type: str
    subject: str
    sent_ms: int
    mark: str
    """`gap` or `fork` where something before it is missing or was replaced, else empty."""
    message: StoredMessage
    to_all: bool = False
    """Whether it was said to everybody, or in a channel."""
    channel: str = ""
    """Its name; empty for what was said to everybody or to us alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryQuery:
    """Which part of the history; newest first unless `oldest_first`."""

    peer: PeerId | None = None
    since_ms: int = 0
    until_ms: int | None = None
    channel: str | None = None
    """Only what was said there; empty: to everybody."""
    search: str = ""
    """Text that is in it, whatever the case."""
    types: frozenset[int] = frozenset()
    oldest_first: bool = False


class Outgoing:
    """A message of ours on its way."""

    def __init__(self, state: State, message: StoredMessage) -> None:
        self._state = state
        self._first = message
        self.id = message.id
        self.to = message.peer

    @property
    def message(self) -> StoredMessage:
        """As the store has it now."""
        return self._state.store.message(self._state.me, self.id) or self._first

    @property
    def state(self) -> MessageState:
        return self.message.state

    async def wait(self, until: MessageState = MessageState.DELIVERED) -> StoredMessage:
        """Returns when it is that far, or over; cancel it to stop waiting.

        A broadcast is as far as it comes when it is sent: nobody acknowledges it.
        Where the recipient has new keys that is the message that took this one's place, which has another id.
        """
        message = self.message
        if message.payload.to_all:
            until = min(until, MessageState.SENT)
        while True:
            await trio.lowlevel.checkpoint()
            if message.superseded_by:
                message = self._state.store.message(self._state.me, message.superseded_by) or message
            if message.state >= until or message.state.final:
                return message
            await self._state.watch.change_of(message.id)
            message = self._state.store.message(self._state.me, message.id) or message


def incoming_of(message: StoredMessage) -> Incoming:
    text = Text.decode(message.content)
    assert message.peer is not None, "a text that came has a sender"
    return Incoming(
        sender=message.peer,
        id=message.id,
        body=text.body,
        media_type=text.media_type,
        subject=text.subject,
        sent_ms=message.payload.timestamp_ms,
        mark=message.mark,
        message=message,
        to_all=message.payload.to_all,
        channel=message.payload.channel,
    )


def matches(message: StoredMessage, query: HistoryQuery) -> bool:
    sent = message.payload.timestamp_ms
    if sent < query.since_ms or (query.until_ms is not None and sent > query.until_ms):
        return False
    if query.channel is not None and not (message.payload.to_all and message.payload.channel == query.channel):
        return False
    if query.types and message.payload.type not in query.types:
        return False
    return query.search.casefold() in message.content.decode("utf-8", "replace").casefold()
