"""How a router behaves. The specification's parameters by its names; our own limits stand apart."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

from talos.errors import ConfigError
from talos.gossip.message import MessageIdFunction, from_seqno
from talos.gossip.score_config import ScoreConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.identity.peer_id import PeerId

__all__ = ["GaterConfig", "GossipConfig", "GossipLimits", "SignaturePolicy"]


class SignaturePolicy(enum.Enum):
    """What a message must carry (libp2p pubsub, "Message signing")."""

    STRICT_SIGN = "strict-sign"
    """Author, sequence number and a signature that holds."""
    STRICT_NO_SIGN = "strict-no-sign"
    """None of them."""
    LAX_SIGN = "lax-sign"
    """Ours are signed, others' may be: for old networks only, needs `insecure=True`."""
    LAX_NO_SIGN = "lax-no-sign"
    """Ours are not signed, others' may be: as above."""

    @property
    def signs(self) -> bool:
        """Whether our own messages are signed."""
        return self in (SignaturePolicy.STRICT_SIGN, SignaturePolicy.LAX_SIGN)

    @property
    def lax(self) -> bool:
        """Whether both kinds are taken."""
        return self in (SignaturePolicy.LAX_SIGN, SignaturePolicy.LAX_NO_SIGN)


def _check(holds: bool, what: str) -> None:  # noqa: FBT001 - an assertion
    if not holds:
        raise ConfigError(f"gossip: {what}")


_OFF_AT_ZERO = frozenset(("d_lazy", "gossip_factor", "prune_peers", "opportunistic_graft_peers"))
"""Zero switches off what these count."""


def _check_positive(config: object) -> None:
    for entry in fields(config):  # type: ignore[arg-type] # always a dataclass
        value = getattr(config, entry.name)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            least = value >= 0 if entry.name in _OFF_AT_ZERO else value > 0
            _check(math.isfinite(value) and least, f"{entry.name} must be finite and above 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipLimits:
    """How much the router takes and keeps: our choices."""

    peers: int = 1024
    """Neighbours at once."""
    rpc_bytes: int = 1024 * 1024
    """One RPC; also the most that we send."""
    data_bytes: int = 64 * 1024
    """The data of one message, where `topic_data_bytes` says nothing else."""
    topic_data_bytes: Mapping[str, int] = field(default_factory=dict)
    """By topic, up to what fits an RPC."""
    control_bytes: int = 16 * 1024
    """The control part of one RPC. Public networks need 256 KiB."""
    control_items: int = 1024
    """GRAFT, PRUNE, IHAVE, IWANT and IDONTWANT in one RPC."""
    control_ids: int = 16 * 1024
    """Message ids in one RPC."""
    messages: int = 512
    """Messages taken of one RPC, for each may cost a signature: gossip may bring the others again."""
    subscriptions: int = 100
    """In one RPC."""
    topics: int = 100
    """Topics kept of one peer; also how many we subscribe to."""
    fanout_topics: int = 100
    """Topics that we publish to without a subscription."""
    topic_bytes: int = 256
    """The name of a topic in UTF-8."""
    message_id_bytes: int = 128
    """Longer ids are not remembered."""
    idontwant_kept: int = 512
    """Ids kept of one peer."""
    validation_per_peer: int = 32
    """Messages of one neighbour that wait for a validator."""
    validation_per_topic: int = 1024
    validation: int = 8192
    """Of all topics."""
    outbox_messages: int = 512
    """Messages and control items that wait for one peer."""
    outbox_bytes: int = 2 * 1024 * 1024
    """The same in bytes."""
    seen: int = 262_144
    """Ids of messages that are known."""
    authors: int = 8192
    """Authors whose sequence numbers are remembered beyond the life of an id; also keys kept ready."""
    cache_bytes: int = 64 * 1024 * 1024
    """Messages kept for those who ask."""
    backoffs: int = 65_536
    """Peers and topics that wait, in all."""
    promises: int = 8192
    """Messages that neighbours announced and we asked for, in all."""

    def __post_init__(self) -> None:
        _check_positive(self)
        _check(self.control_bytes <= self.rpc_bytes, "control_bytes is over rpc_bytes")
        # Author, sequence number, key and signature of an RSA signer take up to 2 KiB beside the data.
        room = self.rpc_bytes - self.topic_bytes - 4096
        for size in (self.data_bytes, *self.topic_data_bytes.values()):
            _check(0 < size <= room, f"data of {size} bytes does not fit an RPC of {self.rpc_bytes}")

    def data_of(self, topic: str) -> int:
        """The most data that a message of `topic` has."""
        return self.topic_data_bytes.get(topic, self.data_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class GaterConfig:
    """When validation is throttled, peers that bring little of use are heard less (random early drop)."""

    threshold: float = 0.33
    """Throttled for each validated message, from which on peers are gated."""
    global_decay: float = 0.9623506
    """Left of the counters of all after one heartbeat of a second: 1 % after 2 minutes."""
    source_decay: float = 0.9987216
    """The same of one peer's counters: 1 % after an hour."""
    decay_to_zero: float = 0.01
    quiet: float = 60.0
    """Seconds without a throttled message after which nobody is gated."""
    duplicate_weight: float = 0.125
    ignore_weight: float = 1.0
    reject_weight: float = 16.0

    def __post_init__(self) -> None:
        _check_positive(self)
        for name in ("global_decay", "source_decay", "decay_to_zero"):
            _check(getattr(self, name) < 1, f"{name} must be below 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """The parameters of gossipsub v1.0 to v1.3; times in seconds."""

    policy: SignaturePolicy = SignaturePolicy.STRICT_SIGN
    message_id: MessageIdFunction | None = None
    """`from_seqno` where messages are signed; without signatures there is no default."""
    insecure: bool = False
    """Allows the lax policies."""

    d: int = 6
    """Peers wanted in the mesh of a topic."""
    d_lo: int = 4
    d_hi: int = 12
    d_score: int = 4
    """When the mesh is cut, so many of the best stay whatever chance says."""
    d_out: int = 2
    """Peers in the mesh that we dialled, at least."""
    d_lazy: int = 6
    """Peers outside the mesh that are gossiped to, at least."""
    gossip_factor: float = 0.25
    """The same as a part of all peers outside the mesh."""
    gossip_retransmission: int = 3
    """Answers to one peer's IWANT for one message."""

    heartbeat_initial_delay: float = 0.1
    heartbeat_interval: float = 1.0
    fanout_ttl: float = 60.0
    mcache_len: int = 5
    """Heartbeats for which a message is kept."""
    mcache_gossip: int = 3
    """Heartbeats for which it is announced."""
    seen_ttl: float = 120.0

    do_px: bool = True
    """Name other peers to those that we prune."""
    prune_peers: int = 16
    prune_backoff: float = 60.0
    unsubscribe_backoff: float = 10.0
    backoff_slack: float = 1.0
    """Added to a back-off before we graft again: the clocks and the way."""
    backoff_max: float = 3600.0
    """The longest back-off that a peer can impose."""
    backoff_min: float = 1.0
    graft_flood_threshold: float = 10.0

    max_ihave_length: int = 5000
    """Ids in an IHAVE, and asked of one peer in a heartbeat."""
    max_ihave_messages: int = 10
    """RPCs with IHAVE taken of one peer in a heartbeat."""
    iwant_followup_time: float = 3.0

    flood_publish: bool = True
    opportunistic_graft_ticks: int = 60
    opportunistic_graft_peers: int = 2
    direct_connect_ticks: int = 300
    direct_peers: frozenset[PeerId] = frozenset()
    """Always sent to, never in the mesh, never scored down."""

    idontwant_threshold: int = 1024
    """Data of at least so many bytes is announced to the mesh as not wanted again."""
    idontwant_messages: int = 1000
    """Items taken of one peer in a heartbeat, each of at most `idontwant_length` ids."""
    idontwant_length: int = 10
    idontwant_ticks: int = 3
    """Heartbeats after which it is forgotten."""

    score: ScoreConfig | None = field(default_factory=ScoreConfig)
    """None: nobody is scored."""
    gater: GaterConfig | None = GaterConfig()
    limits: GossipLimits = GossipLimits()

    def __post_init__(self) -> None:
        _check_positive(self)
        _check(self.insecure or not self.policy.lax, f"policy {self.policy.value} needs insecure=True")
        _check(
            self.message_id is not None or self.policy is SignaturePolicy.STRICT_SIGN,
            f"policy {self.policy.value} needs a message_id function, as sha256_of_data",
        )
        _check(self.d_lo <= self.d <= self.d_hi, "degrees must rise: d_lo <= d <= d_hi")
        _check(self.d_out < self.d_lo and self.d_out <= self.d // 2, "d_out must be below d_lo and at most d / 2")
        _check(self.d_score <= self.d, "d_score is over d")
        _check(self.mcache_gossip <= self.mcache_len, "mcache_gossip is over mcache_len")
        _check(self.gossip_factor <= 1, "gossip_factor is a part of 1")
        _check(self.backoff_min <= self.prune_backoff <= self.backoff_max, "prune_backoff is out of its bounds")
        _check(self.backoff_min <= self.unsubscribe_backoff <= self.backoff_max, "unsubscribe_backoff: the same")
        _check(self.graft_flood_threshold <= self.prune_backoff, "graft_flood_threshold is over prune_backoff")

    @property
    def id_of(self) -> MessageIdFunction:
        """The function that names messages."""
        return self.message_id or from_seqno
