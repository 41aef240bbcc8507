"""What peers say to each other's messaging: frames, envelopes, messages, contents, from bytes that anybody made."""

from __future__ import annotations

from talos.errors import EnvelopeRejected, RemoteProtocolError
from talos.messaging import frames
from talos.messaging.canonical import canonical
from talos.messaging.content import Ack, StreamEnd, StreamStart, Text
from talos.messaging.envelope import open_inner, open_outer, verify
from talos.messaging.payload import MAX_NUMBER, Payload

BOB = bytes.fromhex("8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394")
SECRETS = (b"\3" * 32,)


def target(data: bytes) -> None:
    """Each is taken whole and says the same when it is written again, or is refused by its one error."""
    _frame(data)
    _payload(data)
    for kind in (Text, Ack, StreamStart, StreamEnd):
        try:
            content = kind.decode(data)
        except EnvelopeRejected:
            continue
        if kind.decode(content.encode()) != content:
            raise AssertionError(f"{kind.__name__} changed on its way")
    try:
        body = open_outer(data, BOB, SECRETS)
    except EnvelopeRejected:
        return
    _payload(body.payload)


def _frame(data: bytes) -> None:
    try:
        frame = frames.decode(data)
    except RemoteProtocolError:
        return
    if frames.decode(frames.encode(frame)) != frame:
        raise AssertionError("a frame changed on its way")


def _payload(data: bytes) -> None:
    try:
        payload = Payload.decode(data)
    except EnvelopeRejected:
        return
    if Payload.decode(payload.encode()) != payload:
        raise AssertionError("a message changed on its way")
    if max(payload.seq, payload.epoch, payload.timestamp_ms) > MAX_NUMBER:
        raise AssertionError("a number that the store cannot hold")
    m = canonical(payload)
    try:
        verify(payload)
    except EnvelopeRejected:
        return
    try:
        open_inner(payload, m, SECRETS)
    except EnvelopeRejected:
        return
