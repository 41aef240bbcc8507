"""What a chain is told at its opening: limits, habits, and the secrets that follow from its genesis."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from talos.chain.genesis import Mode
from talos.chain.sessions import SyncLimits
from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId
    from talos.identity.wallet import Wallet

__all__ = ["ChainConfig", "ChainKeys", "Retention"]

BITS_MIN = 8
BITS_MAX = 32
DAY_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which blocks may leave the database for an archive."""

    age_seconds: float = 90 * DAY_SECONDS
    """Younger blocks stay."""
    keep_blocks: int = 288
    """So many of the newest stay at any age."""
    bodies: bool = True
    """Whole bodies go; False: their blobs only."""

    def __post_init__(self) -> None:
        if self.age_seconds < 0 or self.keep_blocks < 1:
            raise ConfigError("retention keeps at least one block, and no negative time")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """One chain: what its genesis will say, and how this node keeps it."""

    bits: int = BITS_MIN
    """Proof of work of our own blocks; between 8 and 32."""
    mode: Mode = Mode.FEED
    """Of a chain that is begun; one that is there keeps its own."""
    finality_depth: int = 12
    seal_seconds: float = 1.0
    """From the first waiting entry to its block."""
    seal_items: int = 1000
    seal_bytes: int = 900_000
    store_sealed: bool = True
    """Ciphertexts are kept in the blocks."""
    mempool_items: int = 10_000
    mempool_bytes: int = 64_000_000
    retention: Retention | None = None
    max_merge_seconds: int = 86_400
    readers: frozenset[PeerId] = frozenset()
    """Who may read everything, besides the replicas."""
    replicas: tuple[PeerId, ...] = ()
    """Who keeps a copy, and may know more of this chain than a restored backup does."""
    sync: SyncLimits = field(default_factory=SyncLimits)
    streams_per_peer: int = 2
    streams: int = 16
    sync_seconds: float = 300.0
    """For one `sync`, in all."""
    slots: int = 64
    """How many `mcp-connect` of one server's name may run at a time."""
    group_entries: int = 1000
    group_bytes: int = 4 * 1024 * 1024
    """What one transaction takes."""
    retry_seconds: float = 30.0
    """After a full disk."""

    def __post_init__(self) -> None:
        if not BITS_MIN <= self.bits <= BITS_MAX:
            raise ConfigError(f"a chain's own work is {BITS_MIN} to {BITS_MAX} bits, not {self.bits}")
        if not 1 <= self.seal_items <= 4096 or self.seal_bytes > 900_000:
            raise ConfigError("a block takes at most 4096 entries and 900000 bytes")
        if min(self.mempool_items, self.mempool_bytes, self.group_entries, self.slots) < 1 or self.seal_seconds <= 0:
            raise ConfigError("a chain needs positive limits")


@dataclass(frozen=True, slots=True)
class ChainKeys:
    """Where a chain's secrets come from, and who signs its promises."""

    k_priv: Callable[[bytes], bytes]
    """From the 16 random bytes of the genesis, the 32 secret ones that open commitments."""
    audit_seed: Callable[[bytes], bytes]
    """From the same, the seed of the key that signs headers and checkpoints."""
    identity: PrivateKey

    @classmethod
    def of(cls, wallet: Wallet) -> ChainKeys:
        return cls(wallet.k_priv, wallet.audit_seed, wallet.identity)
