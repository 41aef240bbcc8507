"""What an import loads: a user of one layer pays for that layer alone."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROTOCOLS = {
    "talos.multistream", "talos.security", "talos.muxer", "talos.transport", "talos.upgrade", "talos.host",
    "talos.identify", "talos.ping", "talos.perf", "talos.agent", "talos.cli",
}  # fmt: skip


def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def within(modules: set[str], package: str) -> set[str]:
    return {name for name in modules if name == package or name.startswith(f"{package}.")}


def test_the_package_alone_loads_nothing() -> None:
    assert modules_after("import talos") & {"trio", "cryptography", "google.protobuf", "multiaddr"} == set()


def test_yamux_loads_no_other_protocol() -> None:
    modules = modules_after("import talos.muxer.yamux")
    for package in PROTOCOLS - {"talos.muxer"}:
        assert not within(modules, package), package
    assert not within(modules, "talos.muxer.mplex")
    assert modules & {"cryptography", "google.protobuf", "multiaddr"} == set()
    assert len(within(modules, "talos")) <= 20


@pytest.mark.parametrize(
    ("module", "free_of"),
    [
        ("talos.errors", {"trio"}),
        ("talos.wire.varint", {"trio"}),
        ("talos.wire.length_prefix", {"trio"}),
        ("talos.identity.keys", {"trio", "OpenSSL", "multiaddr"}),
        ("talos.identity.peer_id", {"trio", "OpenSSL", "multiaddr"}),
        ("talos.muxer.yamux.machine", {"trio", "cryptography", "google.protobuf"}),
        ("talos.muxer.mplex.machine", {"trio", "cryptography", "google.protobuf"}),
        ("talos.multistream.machine", {"trio", "cryptography", "google.protobuf"}),
        ("talos.cli.main", {"trio", "cryptography", "google.protobuf"}),
    ],
)  # fmt: skip
def test_ground_floor_stays_light(module: str, free_of: set[str]) -> None:
    assert modules_after(f"import {module}") & free_of == set()
