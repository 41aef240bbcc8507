"""Broadcast by topic: gossipsub v1.0 to v1.3 and floodsub.

async with open_gossip(node) as gossip, gossip.subscribe("fleet") as messages:
    await gossip.publish("fleet", b"hello")
    async for message in messages:
        ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.gossip.config import GossipConfig, GossipLimits, SignaturePolicy
    from talos.gossip.driver_config import DriverConfig
    from talos.gossip.message import sha256_of_data
    from talos.gossip.score_config import ScoreConfig, TopicScore
    from talos.gossip.service import Gossip, open_gossip
    from talos.gossip.snapshot import GossipSnapshot
    from talos.gossip.version import PROTOCOLS

__all__ = [
    "PROTOCOLS",
    "DriverConfig",
    "Gossip",
    "GossipConfig",
    "GossipLimits",
    "GossipSnapshot",
    "ScoreConfig",
    "SignaturePolicy",
    "TopicScore",
    "open_gossip",
    "sha256_of_data",
]

_HOMES = {
    "PROTOCOLS": "talos.gossip.version",
    "DriverConfig": "talos.gossip.driver_config",
    "Gossip": "talos.gossip.service",
    "GossipConfig": "talos.gossip.config",
    "GossipLimits": "talos.gossip.config",
    "GossipSnapshot": "talos.gossip.snapshot",
    "ScoreConfig": "talos.gossip.score_config",
    "SignaturePolicy": "talos.gossip.config",
    "TopicScore": "talos.gossip.score_config",
    "open_gossip": "talos.gossip.service",
    "sha256_of_data": "talos.gossip.message",
}

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
