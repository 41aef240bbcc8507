"""The two sides of multistream-select 1.0 (libp2p connections specification).

A message is a varint length, text and a newline which the length counts. Rules:

- each side's first message is the header; either side may send it without waiting for the other;
- the dialer proposes, the listener answers with an echo (agreed) or `na` (refused);
- a refused dialer proposes the next protocol, or gives up when none is left;
- what stands behind the message that ends the negotiation belongs to the protocol agreed on.

    dialer                                             listener
    header awaited ── header ──► answer awaited        header awaited ── header ──► proposal awaited
    answer awaited ── echo ────► done: Agreed          proposal awaited ── known ──► done: Agreed, echo sent
    answer awaited ── na ──────► answer awaited, the   proposal awaited ── unknown ► proposal awaited, na sent
                    next one proposed; or done: Refused

`ls` is no more than an unknown protocol. Everything else breaks the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from talos.errors import ConfigError, LocalProtocolError, RemoteProtocolError
from talos.wire import varint
from talos.wire.length_prefix import LengthPrefixDecoder

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

__all__ = ["Agreed", "Dialer", "Event", "Listener", "MultistreamConfig", "Refused", "message"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MultistreamConfig:
    """Bounds of one negotiation."""

    max_message_bytes: int = 1024
    """Longest message, newline included; js-libp2p's figure. Judged on the length prefix."""
    max_proposals: int = 64
    """Most proposals of one negotiation, made by us or answered."""

    def __post_init__(self) -> None:
        if self.max_message_bytes < len(_HEADER_MESSAGE) or self.max_proposals < 1:
            raise ConfigError("multistream limits leave no room for a header and one proposal")


@dataclass(slots=True)
class Agreed:
    """Both sides speak `protocol` from here on; `leftover` came behind the negotiation and is its first bytes."""

    protocol: str
    leftover: bytes


@dataclass(slots=True)
class Refused:
    """The listener knows none of the protocols that were proposed."""


Event: TypeAlias = Agreed | Refused


def message(text: str) -> bytes:
    """`text` as a multistream message."""
    line = text.encode() + b"\n"
    return varint.encode(len(line)) + line


_HEADER_MESSAGE = message("/multistream/1.0.0")
_NOT_AVAILABLE = b"na"
_NOT_AVAILABLE_MESSAGE = message(_NOT_AVAILABLE.decode())
_DEFAULT = MultistreamConfig()

E = TypeVar("E", bound=Event)


class _Side(Generic[E]):
    """What both sides share: the framing, the header rule, the bytes to send and the end."""

    __slots__ = ("_config", "_decoder", "_done", "_header_missing", "_to_send")

    def __init__(self, config: MultistreamConfig) -> None:
        self._config = config
        self._decoder = LengthPrefixDecoder(config.max_message_bytes)
        self._header_missing = _HEADER_MESSAGE
        self._done = False
        self._to_send = _HEADER_MESSAGE

    @property
    def done(self) -> bool:
        """Whether the negotiation has ended, well or not."""
        return self._done

    def data_to_send(self) -> bytes:
        """The bytes that are due now, in one piece; they leave the machine."""
        data, self._to_send = self._to_send, b""
        return data

    def receive_data(self, data: bytes | bytearray | memoryview) -> list[E]:
        """The end of the negotiation, if `data` brings it; else nothing.

        RemoteProtocolError when the peer breaks the protocol; the machine is done with then.
        """
        if self._done:
            raise LocalProtocolError("the negotiation is over: these bytes are not its own")
        self._done = True  # whichever way this ends, but for the last line
        if self._header_missing:
            data = self._header_received(data)
        self._decoder.feed(data)
        while (frame := self._decoder.next_message()) is not None:
            if not frame.endswith(b"\n"):
                raise RemoteProtocolError("multistream message without a newline")
            if (event := self._choice_received(frame[:-1])) is not None:
                return [event]
        self._done = False
        return []

    def _header_received(self, data: bytes | bytearray | memoryview) -> bytes | bytearray | memoryview:
        """What stands behind the header; a peer that speaks something else is found out by its first byte."""
        missing = self._header_missing
        if data[: len(missing)] != missing[: len(data)]:
            raise RemoteProtocolError("first message is not the multistream header")
        self._header_missing = missing[len(data) :]
        return data[len(missing) :]

    def _choice_received(self, line: bytes) -> E | None:
        raise NotImplementedError


class Dialer(_Side[Event]):
    """The side that proposes `protocols`, in preference; the first proposal goes out with the header."""

    __slots__ = ("_next", "_proposed", "_protocols")

    def __init__(self, protocols: Sequence[str], config: MultistreamConfig = _DEFAULT) -> None:
        super().__init__(config)
        if not 1 <= len(protocols) <= config.max_proposals:
            raise LocalProtocolError(f"{len(protocols)} protocols proposed: 1 to {config.max_proposals} are possible")
        self._protocols = protocols
        self._next = 0
        self._proposed = b""
        for protocol in protocols:
            if not protocol or "\n" in protocol or len(protocol.encode()) >= config.max_message_bytes:
                raise LocalProtocolError(f"protocol id {protocol[:80]!r} does not fit a multistream message")
        self._propose()

    def _propose(self) -> None:
        protocol = self._protocols[self._next]
        self._next += 1
        self._proposed = protocol.encode()
        self._to_send += message(protocol)

    def _choice_received(self, line: bytes) -> Event | None:
        if line == self._proposed:
            return Agreed(self._protocols[self._next - 1], self._decoder.take_leftover())
        if line != _NOT_AVAILABLE:
            raise RemoteProtocolError("answer is neither the protocol that was proposed nor a refusal")
        if self._next == len(self._protocols):
            return Refused()
        self._propose()
        return None


class Listener(_Side[Agreed]):
    """The side that answers, out of what it supports at that moment.

    Its header waits for the peer's first bytes, so that header and echo can leave as one piece.
    """

    __slots__ = ("_answered", "_supported")

    def __init__(self, supported: Container[str], config: MultistreamConfig = _DEFAULT) -> None:
        super().__init__(config)
        self._supported = supported
        self._answered = 0

    def _choice_received(self, line: bytes) -> Agreed | None:
        if self._answered == self._config.max_proposals:
            raise RemoteProtocolError(f"more than {self._answered} protocols proposed")
        self._answered += 1
        try:
            protocol = line.decode()
        except UnicodeDecodeError:
            raise RemoteProtocolError("protocol id is not UTF-8") from None
        if protocol in self._supported:
            self._to_send += message(protocol)
            return Agreed(protocol, self._decoder.take_leftover())
        self._to_send += _NOT_AVAILABLE_MESSAGE
        return None
