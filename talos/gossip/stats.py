"""What the router counts: plain integers, read by whoever wants to know."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RouterStats"]


@dataclass(slots=True)
class RouterStats:
    """Since the router was made."""

    published: int = 0
    delivered: int = 0
    duplicates: int = 0
    rejected: int = 0
    """Messages that broke a rule: form, policy, signature, or a validator's word."""
    ignored: int = 0
    """Messages that were dropped without blame: of topics not subscribed, our own come back, replayed, ignored
    by a validator."""
    throttled: int = 0
    """Messages for whose validation there was no room; gossip may bring them again."""
    gated: int = 0
    """RPCs of which the gater took only the control part."""
    graylisted: int = 0
    """RPCs left unread because of the sender's score."""
    dropped_control: int = 0
    """Control items that a full outbox gave up."""
    dropped_messages: int = 0
    """Messages that a full outbox gave up."""
    unwanted: int = 0
    """Messages left unsent because the peer had said that it has them."""
    ihave_sent: int = 0
    """Ids."""
    iwant_sent: int = 0
    """Ids."""
    iwant_answered: int = 0
    """Messages."""
    ignored_control: int = 0
    """Control items over a limit, or of peers without the score for them."""
    broken_promises: int = 0
    grafts_refused: int = 0
    malformed: int = 0
    """RPCs that could not be read."""
