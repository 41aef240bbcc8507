"""What a running gossip router looks like from outside, at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.abc import Role
    from talos.identity.peer_id import PeerId

__all__ = ["GossipSnapshot", "PeerView", "TopicView"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicView:
    """One topic that we, or a neighbour of ours, subscribed to."""

    topic: str
    subscribed: bool
    peers: tuple[PeerId, ...]
    """Neighbours that want it."""
    mesh: tuple[PeerId, ...]
    lost: int
    """Messages that our own readers were too slow for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """One neighbour."""

    peer_id: PeerId
    protocol: str
    role: Role
    """Ours on the connection that carries our stream: who dialled."""
    score: float
    topics: tuple[str, ...]
    mesh: tuple[str, ...]
    queued: int
    """Messages and control items that wait to be sent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipSnapshot:
    """All of it; names sorted."""

    topics: tuple[TopicView, ...]
    peers: tuple[PeerView, ...]
    counters: dict[str, int]
    """Those of `RouterStats`, and `lost` and `dialled`."""

    def topic(self, name: str) -> TopicView | None:
        """The view of one topic."""
        return next((view for view in self.topics if view.topic == name), None)

    def to_json(self) -> dict[str, object]:
        """Plain values, peers in full."""
        return {
            "topics": [
                {
                    "topic": view.topic,
                    "subscribed": view.subscribed,
                    "peers": [str(peer) for peer in view.peers],
                    "mesh": [str(peer) for peer in view.mesh],
                    "lost": view.lost,
                }
                for view in self.topics
            ],
            "peers": [
                {
                    "peer_id": str(view.peer_id),
                    "protocol": view.protocol,
                    "direction": "out" if view.role.value == "dialer" else "in",
                    "score": round(view.score, 3),
                    "topics": list(view.topics),
                    "mesh": list(view.mesh),
                    "queued": view.queued,
                }
                for view in self.peers
            ],
            "counters": self.counters,
        }
