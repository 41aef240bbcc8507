"""Configurations that contradict themselves are refused at once."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest

from talos.errors import ConfigError
from talos.muxer.mplex import MplexConfig
from talos.muxer.yamux import YamuxConfig


@pytest.mark.parametrize("kind", [YamuxConfig, MplexConfig])
def test_every_field_must_be_above_zero(kind: type[YamuxConfig | MplexConfig]) -> None:
    for field in fields(kind):
        for value in (0, -1, math.nan):
            with pytest.raises(ConfigError, match=field.name):
                kind(**{field.name: value})  # type: ignore[arg-type]
        if field.name != "keep_alive_seconds":
            with pytest.raises(ConfigError, match=field.name):
                kind(**{field.name: math.inf})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_window_bytes": 1000},
        {"max_window_bytes": 1 << 25},
        {"max_window_long_fat_bytes": 1 << 32},
        {"max_queued_bytes": 1000},
    ],
)
def test_yamux_bounds_that_contradict_each_other(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        YamuxConfig(**wrong)


@pytest.mark.parametrize("wrong", [{"max_buffered_bytes": 1000}, {"max_queued_bytes": 1000}])
def test_mplex_bounds_that_contradict_each_other(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        MplexConfig(**wrong)


def test_keep_alive_can_be_switched_off() -> None:
    assert YamuxConfig(keep_alive_seconds=math.inf).keep_alive_seconds == math.inf
