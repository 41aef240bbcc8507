"""The script that a simulation gives every node: instructions, read strictly, and go's names of the parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from talos.errors import ConfigError
from talos.gossip import GossipConfig, GossipLimits, SignaturePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Connect",
    "IfNode",
    "Init",
    "Instruction",
    "Publish",
    "Subscribe",
    "ValidationDelay",
    "WaitUntil",
    "gossip_config",
    "message_id",
    "parse",
]

ID_BYTES = 8
NANOSECONDS = 1_000_000_000
MIB = 1 << 20
MAX_DEPTH = 8
LIMITS = GossipLimits(
    rpc_bytes=10 * MIB, data_bytes=9 * MIB, control_bytes=MIB, outbox_messages=600, outbox_bytes=64 * MIB
)
COUNTS = {
    "D": "d",
    "Dlo": "d_lo",
    "Dhi": "d_hi",
    "Dscore": "d_score",
    "Dout": "d_out",
    "HistoryLength": "mcache_len",
    "HistoryGossip": "mcache_gossip",
    "Dlazy": "d_lazy",
    "GossipFactor": "gossip_factor",
    "GossipRetransmission": "gossip_retransmission",
    "PrunePeers": "prune_peers",
    "DirectConnectTicks": "direct_connect_ticks",
    "OpportunisticGraftTicks": "opportunistic_graft_ticks",
    "OpportunisticGraftPeers": "opportunistic_graft_peers",
    "MaxIHaveLength": "max_ihave_length",
    "MaxIHaveMessages": "max_ihave_messages",
    "MaxIDontWantLength": "idontwant_length",
    "MaxIDontWantMessages": "idontwant_messages",
    "IDontWantMessageThreshold": "idontwant_threshold",
    "IDontWantMessageTTL": "idontwant_ticks",
}
TIMES = {
    "HeartbeatInitialDelay": "heartbeat_initial_delay",
    "HeartbeatInterval": "heartbeat_interval",
    "FanoutTTL": "fanout_ttl",
    "PruneBackoff": "prune_backoff",
    "UnsubscribeBackoff": "unsubscribe_backoff",
    "GraftFloodThreshold": "graft_flood_threshold",
    "IWantFollowupTime": "iwant_followup_time",
}
IGNORED = frozenset(
    {
        "SlowHeartbeatWarning",
        "Connectors",
        "MaxPendingConnections",
        "ConnectionTimeout",
        "DirectConnectInitialDelay",
    }
)
"""Of go's own machinery; nothing here has such a thing."""


@dataclass(frozen=True, slots=True)
class Init:
    config: GossipConfig


@dataclass(frozen=True, slots=True)
class Connect:
    nodes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class IfNode:
    node: int
    then: Instruction


@dataclass(frozen=True, slots=True)
class WaitUntil:
    seconds: float


@dataclass(frozen=True, slots=True)
class Publish:
    message: int
    size: int
    topic: str


@dataclass(frozen=True, slots=True)
class Subscribe:
    topic: str


@dataclass(frozen=True, slots=True)
class ValidationDelay:
    topic: str
    seconds: float


Instruction: TypeAlias = "Init | Connect | IfNode | WaitUntil | Publish | Subscribe | ValidationDelay"


def message_id(author: bytes, seqno: bytes, data: bytes, topic: str) -> bytes:  # noqa: ARG001 - a MessageIdFunction
    """The first eight bytes of the data."""
    return data[:ID_BYTES]


def gossip_config(parameters: Mapping[str, Any]) -> GossipConfig:
    """A configuration without authors and scores; a parameter that is null or absent stays as Talos has it."""
    chosen: dict[str, Any] = {}
    for name, value in parameters.items():
        if value is None or name in IGNORED:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{name} is no number: {value!r}"[:200])
        if name in COUNTS:
            chosen[COUNTS[name]] = value
        elif name in TIMES:
            chosen[TIMES[name]] = value / NANOSECONDS
        else:
            raise ConfigError(f"no such parameter: {name[:80]!r}")
    return GossipConfig(
        policy=SignaturePolicy.STRICT_NO_SIGN, message_id=message_id, score=None, gater=None, limits=LIMITS, **chosen
    )


def parse(document: object) -> tuple[Instruction, ...]:
    """The instructions of a params.json; ConfigError for what this node cannot do, before it does anything."""
    script = document.get("script") if isinstance(document, dict) else None
    if not isinstance(script, list):
        raise ConfigError("params: no script")
    return tuple(_instruction(each, MAX_DEPTH) for each in script)


def _instruction(raw: object, depth: int) -> Instruction:
    kind = raw.get("type") if isinstance(raw, dict) else None
    if kind == "ifNodeIDEquals" and depth:
        return IfNode(_take(raw, "nodeID", int), _instruction(_take(raw, "instruction", dict), depth - 1))
    if not isinstance(kind, str) or kind not in READERS:
        raise ConfigError(f"params: no such instruction: {kind!r}"[:200])
    return READERS[kind](raw)


def _take(raw: object, name: str, kind: type | tuple[type, ...]) -> Any:
    value = raw.get(name) if isinstance(raw, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        raise ConfigError(f"params: {name} is {value!r}"[:200])
    return value


def _natural(raw: object, name: str) -> int:
    value = _take(raw, name, int)
    if value < 0:
        raise ConfigError(f"params: {name} is negative")
    return int(value)


def _seconds(raw: object, name: str) -> float:
    value = _take(raw, name, (int, float))
    if not 0 <= value < float("inf"):
        raise ConfigError(f"params: {name} is {value}")
    return float(value)


def _connect(raw: object) -> Connect:
    nodes = _take(raw, "connectTo", list)
    if not all(type(node) is int and node >= 0 for node in nodes):
        raise ConfigError(f"params: connectTo is {nodes!r}"[:200])
    return Connect(tuple(nodes))


def _publish(raw: object) -> Publish:
    size = _natural(raw, "messageSizeBytes")
    if size < ID_BYTES:
        raise ConfigError(f"params: a message of {size} bytes has no room for its id")
    return Publish(_natural(raw, "messageID"), size, _take(raw, "topicID", str))


def _subscribe(raw: object) -> Subscribe:
    if isinstance(raw, dict) and raw.get("partial"):
        raise ConfigError("params: partial messages are not supported")
    return Subscribe(_take(raw, "topicID", str))


READERS: Mapping[str, Callable[[object], Instruction]] = {
    "initGossipSub": lambda raw: Init(gossip_config(_take(raw, "gossipSubParams", dict))),
    "connect": _connect,
    "waitUntil": lambda raw: WaitUntil(_seconds(raw, "elapsedSeconds")),
    "publish": _publish,
    "subscribeToTopic": _subscribe,
    "setTopicValidationDelay": lambda raw: ValidationDelay(_take(raw, "topicID", str), _seconds(raw, "delaySeconds")),
}
