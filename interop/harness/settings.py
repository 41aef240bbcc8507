"""The environment that an official harness sets, read into one object.

Two generations: unified-testing (upper-case variables, a `TEST_KEY`, YAML out) wins over test-plans
(lower-case variables, the fixed key `listenerAddr`, JSON out). Which one speaks shows from `TEST_KEY`.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["KAD_ROLES", "KadSettings", "PerfSettings", "Settings", "kad_settings", "perf_settings", "settings"]

DEFAULT_TIMEOUT_SECONDS = 180.0
PERF_TIMEOUT_SECONDS = 300.0
KAD_ROLES = ("bootstrap", "provider", "querier")
KAD_STACK = ("tcp", "noise", "yamux")
"""The kad-dht harness names none; this one everybody has."""
STANDALONE = frozenset({"quic", "quic-v1", "webtransport", "webrtc", "webrtc-direct", "https"})
"""Transports that bring their own security and streams, so that neither is named."""
LEGACY_KEY = "listenerAddr"
GIB = 1 << 30
U64_MAX = (1 << 64) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One run of an image, as dialer or as listener."""

    is_dialer: bool
    redis_host: str
    redis_port: int
    key: str
    """Where the listener leaves its address."""
    modern: bool
    """unified-testing: YAML out; else test-plans: JSON out."""
    transport: str
    security: str | None
    """None where the transport brings its own, as for `muxer`."""
    muxer: str | None
    listen_ip: str
    timeout_seconds: float
    debug: bool

    @property
    def stack(self) -> str:
        """As the peers of `interop.peers` name it: transport/security/muxer."""
        return "/".join(part for part in (self.transport, self.security, self.muxer) if part is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerfSettings:
    """A perf run: the common settings and what is to be measured."""

    common: Settings
    upload_bytes: int
    download_bytes: int
    upload_iterations: int
    download_iterations: int
    latency_iterations: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KadSettings:
    """A kad-dht run: a role, and the names that all three agree on by the test's key."""

    common: Settings
    role: str
    test_key: str

    @property
    def bootstrap_key(self) -> str:
        return f"{self.test_key}_bootstrap_addr"

    @property
    def done_key(self) -> str:
        return f"{self.test_key}_provider_done"

    @property
    def provided_key(self) -> bytes:
        """Plain text, not a multihash."""
        return f"interop-test-key-{self.test_key}".encode()

    @property
    def value_key(self) -> bytes:
        return f"/example/data/{self.test_key}".encode()

    @property
    def query_seconds(self) -> float:
        """Less than the whole run has, so that a querier can tell what it missed."""
        return self.common.timeout_seconds * 0.5


class _Variables:
    """Looks names up in either case; empty and the string `null` both mean that a variable is absent."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def text(self, *names: str) -> str | None:
        for name in names:
            value = self._environ.get(name, "").strip()
            if value and value != "null":
                return value
        return None

    def required(self, *names: str) -> str:
        value = self.text(*names)
        if value is None:
            raise ConfigError(f"environment variable {names[0]} is not set")
        return value

    def natural(self, name: str, default: int) -> int:
        text = self.text(name)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,20}", text) or int(text) > U64_MAX:
            raise ConfigError(f"{name} is no 64-bit natural number: {text[:40]!r}")
        return int(text)

    def flag(self, default: str | None, *names: str) -> bool:
        text = (self.text(*names) or default or "").lower()
        if text not in {"true", "false"}:
            raise ConfigError(f"{names[0]} is neither true nor false: {text[:40]!r}")
        return text == "true"

    def seconds(self, default: float, *names: str) -> float:
        text = self.text(*names)
        if text is None:
            return default
        if not re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,3})?", text) or float(text) == 0:
            raise ConfigError(f"{names[0]} is no number of seconds: {text[:40]!r}")
        return float(text)


def settings(
    environ: Mapping[str, str],
    *,
    modern_redis: str = "transport-redis:6379",
    default_timeout: float = DEFAULT_TIMEOUT_SECONDS,
) -> Settings:
    """Reads the variables that all images share; ConfigError where they are missing or nonsense."""
    variables = _Variables(environ)
    test_key = variables.text("TEST_KEY")
    if test_key is not None and not re.fullmatch(r"[0-9a-fA-F]{8}", test_key):
        raise ConfigError(f"TEST_KEY is not 8 hex digits: {test_key[:40]!r}")
    modern = test_key is not None
    host, port = _host_port(variables.text("REDIS_ADDR", "redis_addr") or (modern_redis if modern else "redis:6379"))
    transport = variables.required("TRANSPORT", "transport")
    standalone = transport in STANDALONE
    return Settings(
        is_dialer=variables.flag(None, "IS_DIALER", "is_dialer"),
        redis_host=host,
        redis_port=port,
        key=f"{test_key}_listener_multiaddr" if modern else LEGACY_KEY,
        modern=modern,
        transport=transport,
        security=None if standalone else variables.required("SECURE_CHANNEL", "security"),
        muxer=None if standalone else variables.required("MUXER", "muxer"),
        listen_ip=_ip(variables.text("LISTENER_IP", "ip") or "0.0.0.0"),
        timeout_seconds=variables.seconds(default_timeout, "TEST_TIMEOUT_SECS", "test_timeout_seconds"),
        debug=variables.flag("false", "DEBUG", "debug"),
    )


def perf_settings(environ: Mapping[str, str]) -> PerfSettings:
    """Reads the variables of the perf image; each figure may be absent or `null`."""
    variables = _Variables(environ)
    common = settings(
        environ,
        modern_redis="perf-redis:6379",
        default_timeout=variables.seconds(PERF_TIMEOUT_SECONDS, "PERF_TEST_TIMEOUT_SECS"),
    )
    return PerfSettings(
        common=common,
        upload_bytes=variables.natural("UPLOAD_BYTES", GIB),
        download_bytes=variables.natural("DOWNLOAD_BYTES", GIB),
        upload_iterations=variables.natural("UPLOAD_ITERATIONS", 10),
        download_iterations=variables.natural("DOWNLOAD_ITERATIONS", 10),
        latency_iterations=variables.natural("LATENCY_ITERATIONS", 100),
    )


def kad_settings(environ: Mapping[str, str]) -> KadSettings:
    """Reads the variables of the kad-dht image; ConfigError as `settings`."""
    variables = _Variables(environ)
    role = variables.required("ROLE")
    if role not in KAD_ROLES:
        raise ConfigError(f"ROLE is none of {', '.join(KAD_ROLES)}: {role[:40]!r}")
    transport, security, muxer = KAD_STACK
    fixed = {"IS_DIALER": "false", "TRANSPORT": transport, "SECURE_CHANNEL": security, "MUXER": muxer}
    common = settings({**environ, **fixed, "TEST_KEY": variables.required("TEST_KEY")})
    return KadSettings(common=common, role=role, test_key=variables.required("TEST_KEY"))


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ConfigError(f"REDIS_ADDR is not host:port: {text[:80]!r}")
    return host, int(port)


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ConfigError(f"LISTENER_IP is no IP address: {text[:40]!r}") from None
