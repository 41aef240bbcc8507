"""What a DHT node is told: which swarm, which role, how wide it searches, and its limits."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from talos.addr import split_peer
from talos.dht.query import LookupConfig
from talos.dht.records import default_namespaces
from talos.dht.routing_table import RoutingTableConfig
from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from multiaddr import Multiaddr

    from talos.dht.records import Namespace

__all__ = ["IPFS_KAD", "IPFS_LAN_KAD", "TALOS_KAD", "DhtConfig", "DhtLimits", "DhtMode", "DhtScope"]

TALOS_KAD = "/talos/kad/1.0.0"
IPFS_KAD = "/ipfs/kad/1.0.0"
"""The public Amino swarm."""
IPFS_LAN_KAD = "/ipfs/lan/kad/1.0.0"

HOUR = 3600.0


class DhtMode(enum.Enum):
    """Clients ask only; servers are in the tables of others and answer."""

    CLIENT = "client"
    SERVER = "server"
    AUTO = "auto"
    """A client until an address of ours is confirmed; under scope ANY a listening node is a server at once."""


class DhtScope(enum.Enum):
    """Which addresses count."""

    PUBLIC = "public"
    """Private, loopback and relay addresses are neither told nor believed."""
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtLimits:
    """What is kept for others, and how fast they may fill it."""

    value_bytes: int = 10 * 1024
    values: int = 1024
    values_bytes: int = 10 << 20
    """All values with their keys."""
    values_per_peer: int = 64
    writes_per_second: float = 10.0
    """PUT_VALUE of one peer, on the mean."""
    writes_burst: int = 100
    providers_per_key: int = 1024
    providers_per_group: int = 32
    """Of one key and one address group: rows of the same holder are cheap."""
    provider_keys: int = 8192
    provider_rows: int = 65_536
    provider_rows_per_peer: int = 1024
    own_values: int = 1024
    """Values that we publish again and again."""
    own_keys: int = 4096
    """Keys that we provide."""
    streams_per_peer: int = 4
    """Requests of ours under way to one peer at once; more wait."""
    idle_streams: int = 256
    """Streams of ours kept open for the next request, over all peers."""
    remembered_peers: int = 256
    """Kept on disk for the next start."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ConfigError(f"limit {name} of the DHT has to be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtConfig:
    """Everything that `open_dht` needs; change one with `dataclasses.replace`."""

    protocol_id: str = TALOS_KAD
    """The swarm: two with one id merge when they meet."""
    mode: DhtMode = DhtMode.AUTO
    scope: DhtScope = DhtScope.ANY
    bootstrap: tuple[Multiaddr, ...] = ()
    """Peers to begin with, each address ending in `/p2p/…`."""
    namespaces: Mapping[str, Namespace] | None = None
    """What values may be; None: `pk` and `talos`, in the swarms of IPFS `ipns` too."""
    lookup: LookupConfig = field(default_factory=LookupConfig)
    table: RoutingTableConfig = field(default_factory=RoutingTableConfig)
    quorum: int = 3
    """Answers that `get_value` waits for, unless the namespace or the caller says otherwise."""
    request_seconds: float = 10.0
    """One request, with the dial that it may need."""
    lookup_seconds: float = 60.0
    idle_seconds: float = 60.0
    """A stream of a peer without a request."""
    keep_seconds: float = 30.0
    """A stream of ours without a request: less than others wait, so that they do not end it under a request."""
    refresh_seconds: float = 600.0
    ask_bootstrap_below: int = 5
    """Members of the table."""
    bootstrap_retry_seconds: float = 5.0
    """After the first failure; doubled with each further one."""
    bootstrap_retry_most: float = 600.0
    value_seconds: float = 48 * HOUR
    provider_seconds: float = 48 * HOUR
    provider_addr_seconds: float = 24 * HOUR
    republish_seconds: float = 22 * HOUR
    sign_again_seconds: float = 7 * 24 * HOUR
    """How old our key record gets."""
    key_record_seconds: float = 37 * 24 * HOUR
    """How long one is valid that `publish_keys` signs."""
    add_provider_echo: bool = False
    """Answer ADD_PROVIDER, as py-libp2p does: go-libp2p would take it for the answer to its next request."""
    limits: DhtLimits = field(default_factory=DhtLimits)

    def __post_init__(self) -> None:
        if not self.protocol_id.startswith("/"):
            raise ConfigError(f"the DHT's protocol id {self.protocol_id!r} does not begin with a slash")
        for addr in self.bootstrap:
            if split_peer(addr)[1] is None:
                raise ConfigError(f"bootstrap address {addr} does not end in /p2p/…")
        if self.quorum < 1:
            raise ConfigError("the DHT's quorum is at least 1")
        for name in self.__slots__:
            value = getattr(self, name)
            if name.endswith(("_seconds", "_most")) and not (math.isfinite(value) and value > 0):
                raise ConfigError(f"{name} of the DHT must be a positive number of seconds")

    @property
    def known_namespaces(self) -> Mapping[str, Namespace]:
        """Those configured, or those of the swarm."""
        return default_namespaces(self.protocol_id) if self.namespaces is None else self.namespaces
