"""What the two generations of harness set, and nonsense in each variable."""

from __future__ import annotations

import pytest

from interop.harness.settings import kad_settings, perf_settings, settings
from talos.errors import ConfigError

MODERN = {
    "IS_DIALER": "true",
    "REDIS_ADDR": "transport-redis:6379",
    "TEST_KEY": "a1b2c3d4",
    "TRANSPORT": "tcp",
    "LISTENER_IP": "0.0.0.0",
    "SECURE_CHANNEL": "noise",
    "MUXER": "yamux",
    "DEBUG": "false",
}
LEGACY = {
    "version": "x",
    "transport": "tcp",
    "muxer": "mplex",
    "security": "tls",
    "is_dialer": "false",
    "ip": "0.0.0.0",
    "redis_addr": "cache:7000",
    "test_timeout_seconds": "20",
}


def test_modern() -> None:
    found = settings(MODERN)
    assert found.is_dialer
    assert (found.redis_host, found.redis_port) == ("transport-redis", 6379)
    assert found.key == "a1b2c3d4_listener_multiaddr"
    assert found.modern
    assert found.stack == "tcp/noise/yamux"
    assert found.timeout_seconds == 180


def test_legacy() -> None:
    found = settings(LEGACY)
    assert not found.is_dialer
    assert (found.redis_host, found.redis_port) == ("cache", 7000)
    assert found.key == "listenerAddr"
    assert not found.modern
    assert found.stack == "tcp/tls/mplex"
    assert found.timeout_seconds == 20


def test_upper_case_wins_over_lower_case() -> None:
    assert settings(LEGACY | MODERN).stack == "tcp/noise/yamux"


def test_defaults() -> None:
    legacy = {name: LEGACY[name] for name in ("transport", "muxer", "security", "is_dialer")}
    assert (settings(legacy).redis_host, settings(legacy).listen_ip) == ("redis", "0.0.0.0")
    modern = {name: value for name, value in MODERN.items() if name not in {"REDIS_ADDR", "DEBUG", "LISTENER_IP"}}
    assert (settings(modern).redis_host, settings(modern).debug) == ("transport-redis", False)
    assert perf_settings(modern).common.redis_host == "perf-redis"


@pytest.mark.parametrize("transport", ["quic-v1", "webrtc-direct", "webtransport"])
def test_standalone_transports_name_neither_security_nor_muxer(transport: str) -> None:
    found = settings({"TEST_KEY": "00000000", "IS_DIALER": "true", "TRANSPORT": transport, "MUXER": "null"})
    assert (found.security, found.muxer, found.stack) == (None, None, transport)


@pytest.mark.parametrize(
    "change",
    [
        {"TEST_KEY": "nothexxx"},
        {"TEST_KEY": "a1b2c3d4e5"},
        {"REDIS_ADDR": "no-port"},
        {"REDIS_ADDR": ":6379"},
        {"REDIS_ADDR": "host:0"},
        {"REDIS_ADDR": "host:65536"},
        {"IS_DIALER": "yes"},
        {"IS_DIALER": ""},
        {"TRANSPORT": "null"},
        {"SECURE_CHANNEL": ""},
        {"MUXER": "null"},
        {"LISTENER_IP": "somewhere"},
        {"TEST_TIMEOUT_SECS": "0"},
        {"TEST_TIMEOUT_SECS": "-3"},
        {"DEBUG": "maybe"},
    ],
    ids=str,
)
def test_nonsense_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        settings(MODERN | change)


def test_perf_figures() -> None:
    found = perf_settings(
        MODERN | {"UPLOAD_BYTES": "1024", "DOWNLOAD_BYTES": "null", "UPLOAD_ITERATIONS": "2", "LATENCY_ITERATIONS": ""}
    )
    assert found.upload_bytes == 1024
    assert found.download_bytes == 1 << 30
    assert (found.upload_iterations, found.download_iterations, found.latency_iterations) == (2, 10, 100)
    assert found.common.timeout_seconds == 300


def test_perf_takes_its_own_timeout() -> None:
    assert perf_settings(MODERN | {"PERF_TEST_TIMEOUT_SECS": "12"}).common.timeout_seconds == 12


@pytest.mark.parametrize("value", ["-1", "1e9", str(1 << 64), "9" * 30])
def test_perf_figures_that_are_no_u64(value: str) -> None:
    with pytest.raises(ConfigError):
        perf_settings(MODERN | {"UPLOAD_BYTES": value})


def test_perf_takes_the_largest_u64() -> None:
    assert perf_settings(MODERN | {"UPLOAD_BYTES": str((1 << 64) - 1)}).upload_bytes == (1 << 64) - 1


KAD = {"ROLE": "provider", "REDIS_ADDR": "transport-redis:6379", "TEST_KEY": "a1b2c3d4"}


def test_kad_names_go_by_the_key() -> None:
    found = kad_settings(KAD)
    assert (found.role, found.common.redis_host, found.common.stack) == (
        "provider",
        "transport-redis",
        "tcp/noise/yamux",
    )
    assert (found.bootstrap_key, found.done_key) == ("a1b2c3d4_bootstrap_addr", "a1b2c3d4_provider_done")
    assert (found.provided_key, found.value_key) == (b"interop-test-key-a1b2c3d4", b"/example/data/a1b2c3d4")


@pytest.mark.parametrize("change", [{"ROLE": "king"}, {"ROLE": ""}, {"TEST_KEY": ""}, {"TEST_KEY": "xyz"}])
def test_kad_nonsense_is_refused(change: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        kad_settings(KAD | change)
