"""`talos send`, `talos outbox`, and letting strangers in: what of messages needs somebody who holds the home."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import trio

from talos.control.failure import Failure
from talos.errors import DeliveryFailed, MessageExpired, NotSupported
from talos.messaging.code import AckState, Code
from talos.messaging.service import EVERYBODY
from talos.messaging.store import MessageState
from talos.messaging.view import delivery_row, rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit
    from talos.identity.peer_id import PeerId
    from talos.messaging.service import Messaging, Outgoing
    from talos.messaging.store import StoredMessage

__all__ = ["admit", "cancel", "decline", "messaging_of", "retry", "send"]

WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS = 14 * 86_400.0
UNTIL = {
    "queued": MessageState.QUEUED,
    "sent": MessageState.SENT,
    "stored": MessageState.STORED,
    "delivered": MessageState.DELIVERED,
    "read": MessageState.READ,
}
MAX_TTL_SECONDS = 14 * 86_400


async def send(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`peer` (`*`: everybody, or with `channel` all who listen there), `addrs`, `body_b64`, `media_type`, `subject`,
    `reply_to`, `ttl`, `until`, `wait` in seconds.

    Returns the fields of the kind `delivery` with `reached` and `expires`, once `until` is reached or `wait` is over:
    then the message stays in the outbox. Raises DeliveryFailed or MessageExpired for one that never arrives.
    """
    messaging = messaging_of(agent)
    to_all, body = args.text("peer") == EVERYBODY, args.data("body_b64")
    peer: PeerId | Literal["*"] = EVERYBODY if to_all else args.peer("peer")
    until = UNTIL.get(args.text("until", "delivered"))
    if until is None:
        raise Failure("usage", f"a message is waited for until it is {', '.join(UNTIL)}")
    if peer != EVERYBODY:
        agent.node.peerstore.add_addrs(peer, args.addrs("addrs"))
    outgoing = await messaging.send(
        peer,
        body,
        media_type=args.text("media_type", "text/plain"),
        subject=args.text("subject", ""),
        reply_to=_id(args.text("reply_to", "")),
        ttl_s=args.count("ttl", 0, most=MAX_TTL_SECONDS),
        channel=args.text("channel", ""),
    )
    emit.stage("deliver", "the message is written and recorded; bringing it to its recipient")
    message = await _wait(outgoing, until, args.number("wait", WAIT_SECONDS, least=0, most=MAX_WAIT_SECONDS))
    _check(message)
    assert agent.config.messages is not None
    limits = agent.config.messages
    most = limits.broadcast.past_seconds if to_all else limits.delivery.lifetime_seconds
    lifetime = min(message.payload.ttl_s or most, most)
    return {
        **delivery_row(message),
        "reached": min(until, MessageState.SENT if to_all else until) <= message.state <= MessageState.READ,
        "expires": rfc3339(message.stored_ms + lifetime * 1000),
    }


async def retry(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:  # noqa: ARG001 - an operation's
    """`peer`, else everybody for whom something waits: tried now. Returns for how many."""
    messaging = messaging_of(agent)
    await trio.lowlevel.checkpoint()
    peers = {row.peer for row in messaging.outbox()}
    if args.text("peer", ""):
        peers &= {args.peer("peer")}
    for peer in peers:
        messaging.retry(peer)
    return {"peers": len(peers)}


async def cancel(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:  # noqa: ARG001
    """`id`: gives up a message that is not delivered. Failure `not_found` when there is none such."""
    ident = _id(args.text("id"))
    if not await messaging_of(agent).cancel(ident):
        raise Failure("failed", f"no message {ident.hex()} waits", hint="talos outbox")
    return {"id": ident.hex()}


async def admit(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:  # noqa: ARG001
    """`peer`: takes in what waits of a stranger, who is told. Returns how many messages that were."""
    return {"messages": await messaging_of(agent).admit(args.peer("peer"))}


async def decline(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:  # noqa: ARG001
    """`peer`: throws away what waits of a stranger."""
    await messaging_of(agent).decline(args.peer("peer"))
    return {}


def messaging_of(agent: Agent) -> Messaging:
    if agent.messaging is None:
        raise NotSupported("messages need a record, and this agent runs without one")
    return agent.messaging


async def _wait(outgoing: Outgoing, until: MessageState, seconds: float) -> StoredMessage:
    """The message that far, or over, or as it is when the time is."""
    with trio.move_on_after(seconds):
        return await outgoing.wait(until)
    return outgoing.message


def _check(message: StoredMessage) -> None:
    """Raises for what never arrives, or arrived and is not understood."""
    if message.state is MessageState.EXPIRED:
        raise MessageExpired("the message expired before it was delivered")
    if message.state is MessageState.FAILED and message.payload.to_all:
        raise DeliveryFailed("the network does not carry a message of this size", code=message.code)
    if message.state is MessageState.FAILED:
        why = "it takes none of this identity" if message.code == Code.REFUSED else _word(message.code)
        raise DeliveryFailed(f"{message.peer} refused the message: {why}", code=message.code)
    if message.ack_state == AckState.UNSUPPORTED:
        raise DeliveryFailed(f"{message.peer} has the message and does not understand it", code=Code.UNSUPPORTED)


def _word(code: int) -> str:
    try:
        return Code(code).name.lower()
    except ValueError:
        return str(code)


def _id(text: str) -> bytes:
    """16 bytes of hex, with or without dashes; nothing for nothing."""
    try:
        data = bytes.fromhex(text.replace("-", ""))
    except ValueError:
        data = b"?"
    if len(data) not in {0, 16}:
        raise Failure("usage", f"{text[:64]!r} is no message id", hint="talos history -v; talos outbox")
    return data
