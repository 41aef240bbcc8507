"""How the driver waits and how much it holds; all that concerns the protocol stands in `talos.gossip.config`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from talos.errors import ConfigError
from talos.gossip.version import PROTOCOLS

__all__ = ["DriverConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverConfig:
    """Seconds, counts and bytes of `open_gossip`, all our choice."""

    protocols: tuple[str, ...] = PROTOCOLS
    """Versions that are offered and taken, best first."""
    subscription_messages: int = 1024
    """Messages that wait for one reader; the oldest makes room."""
    subscriptions: int = 64
    """Readers of one topic on this node."""
    validator_seconds: float = 5.0
    """What an asynchronous validator may take; later, the message is ignored."""
    dials: int = 16
    """Peers dialled at once on the router's word: peer exchange and direct peers."""
    dial_addrs: int = 8
    """Addresses tried for one of them."""
    dial_seconds: float = 15.0
    openings: int = 5
    """Tries to open our stream to a peer that stays connected; another one when it opens one to us."""
    reopen_seconds: float = 1.0
    """Before the second try; doubled for each further one."""
    publish_seconds: float = 1.0
    """How long `publish` waits at most for peers that have much queued already."""

    def __post_init__(self) -> None:
        if not self.protocols or not set(self.protocols) <= set(PROTOCOLS):
            raise ConfigError(f"gossip speaks {', '.join(PROTOCOLS)}, and nothing else")
        for name in ("subscription_messages", "subscriptions", "dials", "dial_addrs", "openings"):
            if getattr(self, name) < 1:
                raise ConfigError(f"gossip needs {name} of at least 1")
        for name in ("validator_seconds", "dial_seconds", "reopen_seconds", "publish_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ConfigError(f"gossip needs a positive {name}")
