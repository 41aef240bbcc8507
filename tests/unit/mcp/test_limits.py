"""What limits can be, and what a grant makes of them."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

from talos.errors import ConfigError
from talos.mcp.limits import GrantLimits, McpLimits


def test_the_defaults_are_those_of_the_document() -> None:
    limits = McpLimits()
    assert (limits.max_line, limits.window) == (16 * 2**20, 4 * 2**20)
    assert (limits.sessions_per_peer, limits.sessions, limits.openings_per_minute) == (8, 64, 60)
    assert (limits.in_flight, limits.subscriptions) == (256, 16)
    assert (limits.rate, limits.call_timeout, limits.idle_timeout) == (None, None, None)
    assert (limits.audit_queue_entries, limits.audit_queue_bytes, limits.audit_late_seconds) == (4096, 4 * 2**20, 5.0)


def test_every_limit_is_documented() -> None:
    source = inspect.getsource(McpLimits)
    for field in dataclasses.fields(McpLimits):
        declaration = source.split(f"    {field.name}:", 1)[1]
        assert declaration.split("\n")[1].strip().startswith('"""'), field.name


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(McpLimits)])
def test_no_limit_can_be_zero(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        McpLimits(**{name: 0})


@pytest.mark.parametrize(
    "bad", [{"max_line": 65_535}, {"max_line": 2**28 + 1}, {"window": 2**26 + 1}, {"burst": 3}, {"rate": float("inf")}]
)
def test_contradictions_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(bad))):
        McpLimits(**bad)  # type: ignore[arg-type]


def test_a_grant_goes_before_the_general_limits() -> None:
    limits = McpLimits(rate=5, burst=7)
    assert limits.for_grant(GrantLimits()) == limits
    changed = limits.for_grant(GrantLimits(sessions=1, in_flight=2, rate=0.5, call_timeout=3))
    assert (changed.sessions_per_peer, changed.in_flight, changed.call_timeout) == (1, 2, 3)
    assert (changed.rate, changed.burst) == (0.5, None)
    assert changed.window == limits.window
