from __future__ import annotations

import pytest

from talos.addr import parse
from talos.dht.config import DhtConfig, DhtLimits
from talos.dht.records import accept_anything, default_namespaces
from talos.errors import ConfigError


@pytest.mark.parametrize(
    "fields",
    [
        {"protocol_id": "talos/kad"},
        {"bootstrap": (parse("/ip4/127.0.0.1/tcp/1"),)},
        {"quorum": 0},
        {"request_seconds": 0.0},
        {"bootstrap_retry_most": float("inf")},
    ],
)
def test_contradictions_are_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        DhtConfig(**fields)  # type: ignore[arg-type]


def test_a_limit_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigError):
        DhtLimits(values=0)


def test_namespaces_are_those_of_the_swarm_unless_told() -> None:
    assert DhtConfig().known_namespaces == default_namespaces("/talos/kad/1.0.0")
    mine = {"example": accept_anything()}
    assert DhtConfig(namespaces=mine).known_namespaces is mine
