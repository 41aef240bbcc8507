"""Negotiation on a stream: the two machines with reads and writes around them.

No function here has a deadline of its own: whoever owns the task sets it. A cancelled negotiation leaves the stream
unusable; on muxed streams it is reset.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from talos.abc import StreamReset
from talos.errors import NegotiationError, RemoteProtocolError, StreamCode
from talos.multistream.machine import Agreed, Dialer, Listener, MultistreamConfig
from talos.multistream.stream import LazyStream, NegotiatedStream

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    import trio

    from talos.abc import Connection, MuxedStream, ProtocolId

__all__ = ["answer", "negotiate_inbound", "negotiate_outbound", "select"]

_DEFAULT = MultistreamConfig()
READ_BYTES = 2048
"""One read. What comes behind the agreement in it is held here, where no budget counts it and no window waits for it:
so it is little, and the rest stays in the stream until the application takes it."""


async def select(
    stream: trio.abc.Stream, protocols: Sequence[ProtocolId], config: MultistreamConfig = _DEFAULT
) -> tuple[ProtocolId, bytes]:
    """Proposes `protocols` in that order: the one agreed on, and the bytes that came behind the agreement.

    NegotiationError when the peer knows none or breaks the protocol; its cause is an EOFError when the stream ended.
    """
    dialer = Dialer(protocols, config)
    await stream.send_all(dialer.data_to_send())
    agreed = await _run(stream, dialer)
    if agreed is None:
        raise NegotiationError(f"the peer speaks none of {', '.join(protocols)}")
    return agreed.protocol, agreed.leftover


async def answer(
    stream: trio.abc.Stream, supported: Container[ProtocolId], config: MultistreamConfig = _DEFAULT
) -> tuple[ProtocolId, bytes]:
    """Answers proposals until one is `supported`: that one, and the bytes that came behind it.

    NegotiationError as for `select`. Header and echo leave in one piece when the proposal came in one.
    """
    agreed = await _run(stream, Listener(supported, config))
    assert agreed is not None
    return agreed.protocol, agreed.leftover


async def _run(stream: trio.abc.Stream, machine: Dialer | Listener) -> Agreed | None:
    while True:
        data = await stream.receive_some(READ_BYTES)
        if not data:
            raise NegotiationError("the peer ended the stream during negotiation") from EOFError("stream ended")
        try:
            events = machine.receive_data(data)
        except RemoteProtocolError as error:
            raise NegotiationError(str(error)) from error
        if due := machine.data_to_send():
            await stream.send_all(due)
        if events:
            event = events[0]
            return event if isinstance(event, Agreed) else None


async def negotiate_outbound(
    muxed: MuxedStream,
    connection: Connection,
    protocols: Sequence[ProtocolId],
    config: MultistreamConfig = _DEFAULT,
    *,
    answer_seconds: float = math.inf,
) -> NegotiatedStream:
    """Agrees on one of `protocols` for a stream that this side opened.

    With exactly one it returns at once, without IO, and the answer may take `answer_seconds`: see `LazyStream`.
    Whatever it raises, the stream is reset.
    """
    if len(protocols) == 1:
        return LazyStream(muxed, connection, protocols[0], config, answer_seconds=answer_seconds)
    try:
        protocol, leftover = await select(muxed, protocols, config)
    except StreamReset as error:
        if error.remote and error.code == StreamCode.NEGOTIATION_FAILED:
            raise NegotiationError(f"{connection.remote_peer} refused {', '.join(protocols)}") from error
        raise
    except BaseException:
        muxed.reset(StreamCode.NEGOTIATION_FAILED)
        raise
    return NegotiatedStream(muxed, connection, protocol, leftover)


async def negotiate_inbound(
    muxed: MuxedStream,
    connection: Connection,
    supported: Container[ProtocolId],
    config: MultistreamConfig = _DEFAULT,
) -> NegotiatedStream:
    """Lets the peer choose one of `supported` for a stream that it opened. Whatever it raises, the stream is reset."""
    try:
        protocol, leftover = await answer(muxed, supported, config)
    except BaseException:
        muxed.reset(StreamCode.NEGOTIATION_FAILED)
        raise
    return NegotiatedStream(muxed, connection, protocol, leftover)
