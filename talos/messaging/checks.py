"""Checks that every message has to pass, whatever brings it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.errors import BadSignature, EnvelopeRejected, RemoteProtocolError
from talos.messaging.code import Code
from talos.messaging.people import peer_of

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId
    from talos.messaging.payload import Payload
    from talos.messaging.state import State

__all__ = ["check_parties", "check_time"]


def check_parties(state: State, payload: Payload, peer: PeerId) -> None:
    """That it is from `peer`, who is not blocked, to us."""
    if payload.sender == state.me or payload.recipient != state.me:
        raise EnvelopeRejected("a message of ours, or for somebody else", code=Code.BAD_PAYLOAD)
    try:
        sender = peer_of(payload.sender)
    except (RemoteProtocolError, BadSignature) as error:
        raise EnvelopeRejected("a sender whose key must not be used", code=Code.BAD_PAYLOAD) from error
    if sender != peer or state.people.blocked(peer):
        raise EnvelopeRejected("not welcome", code=Code.REFUSED)


def check_time(state: State, payload: Payload, past_seconds: int) -> None:
    """That it is of the last so many seconds, or of its `ttl_s` if that is less, and not from the future."""
    limits, now = state.config.receive, state.now_ms()
    oldest = now - min(payload.ttl_s or past_seconds, past_seconds) * 1000
    if not oldest <= payload.timestamp_ms <= now + limits.future_seconds * 1000:
        raise EnvelopeRejected("a message of another time", code=Code.BAD_TIMESTAMP)
