"""Who is asked what becomes of a message: handlers by type."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from talos.errors import LocalProtocolError
from talos.host.contain import Owner, contain
from talos.messaging.code import MessageType

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from talos.abc import Event
    from talos.identity.peer_id import PeerId
    from talos.messaging.code import AckState
    from talos.messaging.payload import Payload

__all__ = ["Answer", "Handler", "Handlers", "Received", "Verdict"]

STREAM_TYPES = (MessageType.STREAM_START, MessageType.STREAM_CHUNK, MessageType.STREAM_END)


class Received(NamedTuple):
    """A message that has passed all checks, as the handler of its type gets it."""

    sender: PeerId
    payload: Payload
    content: bytes
    digest: bytes


class Verdict(NamedTuple):
    """What a handler makes of a message; `code` goes with a decline."""

    state: AckState
    code: int = 0


if TYPE_CHECKING:
    Handler = Callable[[Received], Awaitable[Verdict | None]]
else:
    Handler = object


class Answer(NamedTuple):
    """Of the handlers of a type: None when it was about nothing that they know."""

    verdict: Verdict | None


class Handlers:
    """By message type; without one a type is kept, and acknowledged as delivered or unsupported."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._by_type: dict[int, list[Handler]] = {}

    @contextmanager
    def handling(self, message_type: int, handler: Handler) -> Iterator[None]:
        """As `Messaging.handling`."""
        handlers = self._by_type.setdefault(message_type, [])
        if handlers and message_type not in STREAM_TYPES:
            raise LocalProtocolError(f"messages of type {message_type} are handled already")
        handlers.append(handler)
        try:
            yield
        finally:
            handlers.remove(handler)

    def has(self, message_type: int) -> bool:
        """Whether somebody is asked about it, which may take its time."""
        return bool(self._by_type.get(message_type))

    async def ask(self, received: Received) -> Answer | None:
        """What the first handler says that knows what this is about; None where one failed."""
        handlers = tuple(self._by_type.get(received.payload.type, ()))

        async def ask() -> Answer:
            for handler in handlers:
                verdict = await handler(received)
                if verdict is not None:
                    return Answer(verdict)
            return Answer(None)

        return await contain(Owner("message handler", self._emit, peer=received.sender), ask)
