"""What can be set about messages."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from talos.errors import ConfigError, LocalProtocolError
from talos.messaging.channel import check_channel
from talos.messaging.live.codec import CodecRegistry
from talos.messaging.live.config import LiveLimits
from talos.messaging.order import OrderLimits

__all__ = ["BroadcastLimits", "DeliveryLimits", "MessagingConfig", "ReceiveLimits", "StrangerLimits", "Strangers"]

DAY_SECONDS = 86_400
MIB = 1024 * 1024
MAX_CHANNELS = 64


class Strangers(enum.Enum):
    """What becomes of messages from those who are not contacts."""

    ACCEPT = "accept"
    ASK = "ask"
    """They wait, sealed, until the owner says."""
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryLimits:
    """What may wait to be sent, and how hard it is tried."""

    queued_per_peer: int = 1000
    queued: int = 100_000
    unanswered: int = 64
    """Envelopes on one stream without a result."""
    unanswered_relayed: int = 1
    dials: int = 8
    """Peers tried at once."""
    dial_seconds: float = 15.0
    result_seconds: float = 30.0
    idle_seconds: float = 60.0
    """A stream without envelopes is closed."""
    lifetime_seconds: int = 14 * DAY_SECONDS
    """Messages without a `ttl_s` of their own are given up after this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveLimits:
    """What one peer may send, and how long its messages are remembered."""

    messages_per_second: float = 1000.0
    messages_burst: int = 2000
    bytes_per_second: float = 16.0 * MIB
    past_seconds: int = 15 * DAY_SECONDS
    """Older messages are refused, so no older id has to be remembered."""
    future_seconds: int = 300
    seen: int = 1_000_000
    """Ids remembered; strangers are refused beyond."""
    flows: int = 4096
    """Senders' counters held in memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """What those who are not contacts may send, all together where they wait."""

    messages_per_second: float = 10.0
    messages_burst: int = 1000
    conversations: int = 64
    waiting_bytes: int = MIB
    """Of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BroadcastLimits:
    """What an author may say to everybody; what is more is neither shown nor forwarded, and ours waits."""

    messages_per_second: float = 10.0
    messages_burst: int = 50
    bytes_per_second: float = 256.0 * 1024
    bytes_burst: int = MIB
    past_seconds: int = 600
    """Older ones are not passed on."""
    queued: int = 256
    """Of ours, waiting for a neighbour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagingConfig:
    """Messages between identities."""

    strangers: Strangers = Strangers.ACCEPT
    read_receipts: bool = False
    """Tell senders when their message was read."""
    channels: tuple[str, ...] = ()
    """Names under which others speak to all who listen, beside what is said to everybody; at most 64."""
    delivery: DeliveryLimits = DeliveryLimits()
    receive: ReceiveLimits = ReceiveLimits()
    stranger: StrangerLimits = StrangerLimits()
    broadcast: BroadcastLimits = BroadcastLimits()
    live: LiveLimits = field(default_factory=LiveLimits)
    codecs: CodecRegistry = field(default_factory=CodecRegistry)
    """Of live streams."""
    order: OrderLimits = field(default_factory=OrderLimits)

    def __post_init__(self) -> None:
        counts = (self.delivery.queued, self.delivery.queued_per_peer, self.delivery.unanswered, self.delivery.dials)
        if min(counts) < 1 or self.receive.flows < 1:
            raise ConfigError("limits of messages are at least 1")
        if len(self.channels) > MAX_CHANNELS:
            raise ConfigError(f"{len(self.channels)} channels; at most {MAX_CHANNELS} are listened to")
        try:
            for channel in self.channels:
                check_channel(channel)
        except LocalProtocolError as error:
            raise ConfigError(str(error)) from error
        if self.delivery.lifetime_seconds >= self.receive.past_seconds:
            raise ConfigError("a message must not live longer than its id is remembered")
