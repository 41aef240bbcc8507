"""What the router asks of its driver. A closed union, matched by class."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from talos.gossip.message import Message
    from talos.identity.peer_id import PeerId

__all__ = [
    "Candidate",
    "Connect",
    "Deliver",
    "Disconnect",
    "Effect",
    "Grafted",
    "PeerSubscribed",
    "PeerUnsubscribed",
    "Pruned",
    "Send",
    "Validate",
    "ValidationResult",
]


class ValidationResult(enum.Enum):
    """What a validator said; the values are those of `talos.abc.Verdict`, which loads trio."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    """Neither delivered nor forwarded, nobody is blamed; also for a validator that took too long."""
    REJECT = "reject"
    """Neither delivered nor forwarded; all who brought it are scored down."""


@dataclass(slots=True)
class Send:
    """Something new waits for these peers: send what `Router.data_to_send` gives until it gives nothing."""

    peers: tuple[PeerId, ...]


@dataclass(slots=True)
class Deliver:
    """A message for our subscribers; it has been queued for others already."""

    message: Message


@dataclass(slots=True)
class Validate:
    """A message to be judged: answer once with `Router.validated`. How many wait is bounded by the router."""

    message: Message


@dataclass(frozen=True, slots=True)
class Candidate:
    """A peer worth dialling. Without addresses it is a hint, of use only where its addresses are known."""

    peer: PeerId
    addrs: tuple[bytes, ...] = ()
    """From its signed record, checked; multiaddrs in bytes, to be decoded by who dials."""
    record: bytes | None = None
    """The envelope of that record."""


@dataclass(slots=True)
class Connect:
    """Peers that would help: learnt from a neighbour that pruned us, or direct ones. Best effort."""

    candidates: tuple[Candidate, ...]


@dataclass(slots=True)
class Disconnect:
    """The peer misbehaves beyond score: end its gossip streams and call `peer_left`; its connection may stay."""

    peer: PeerId
    reason: str


@dataclass(slots=True)
class Grafted:
    """The peer is now in our mesh for the topic."""

    topic: str
    peer: PeerId


@dataclass(slots=True)
class Pruned:
    """The peer has left our mesh for the topic."""

    topic: str
    peer: PeerId


@dataclass(slots=True)
class PeerSubscribed:
    """The peer says that it wants the topic."""

    topic: str
    peer: PeerId


@dataclass(slots=True)
class PeerUnsubscribed:
    """The peer says that it wants the topic no more."""

    topic: str
    peer: PeerId


Effect: TypeAlias = (
    Send | Deliver | Validate | Connect | Disconnect | Grafted | Pruned | PeerSubscribed | PeerUnsubscribed
)
