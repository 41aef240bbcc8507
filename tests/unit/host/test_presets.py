"""Ready configurations."""

from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from talos.host import presets
from talos.host.limits import LimitsConfig
from talos.identity.keys import PrivateKey

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

GIB = 1 << 30


def test_default_listens_on_a_free_port_everywhere() -> None:
    assert [str(addr) for addr in presets.default().listen] == ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"]


def test_minimal_only_dials_and_holds_little() -> None:
    config = presets.minimal()
    assert config.listen == ()
    assert config.limits.system.memory < LimitsConfig().system.memory
    assert config.limits.manager.high < LimitsConfig().manager.high


def test_testing_stays_on_this_machine() -> None:
    key = PrivateKey.generate()
    config = presets.testing(key)
    assert [str(addr) for addr in config.listen] == ["/ip4/127.0.0.1/tcp/0"]
    assert config.key is key
    assert presets.testing(listen="/memory/7").listen[0].to_bytes() != config.listen[0].to_bytes()


def test_a_server_scales_with_memory_and_descriptors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = tmp_path / "memory.max"
    monkeypatch.setattr(presets, "CGROUP_FILES", (tmp_path / "absent", group))
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 64 * GIB // 4096}.__getitem__)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20_000, 20_000))
    group.write_text("max\n")
    large = presets.server().limits
    assert large.system.memory == 8 * GIB
    assert large.system.descriptors == 10_000
    assert large.manager.high > LimitsConfig().manager.high
    group.write_text(f"{16 * GIB}\n")
    assert presets.server().limits.system.memory == 2 * GIB
    group.write_text("1000\n")
    assert presets.server().limits.system.memory == presets.MINIMAL_BYTES
    assert [str(addr) for addr in presets.server(port=9).listen] == ["/ip4/0.0.0.0/tcp/9", "/ip6/::/tcp/9"]


def test_unlimited_descriptors_are_no_reason_to_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert presets.server().limits.system.descriptors >= presets.MINIMAL_DESCRIPTORS
