"""Names, limits and intervals of mDNS."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from talos.errors import ConfigError

__all__ = ["META_SERVICE", "PUBLIC_SERVICE", "MdnsConfig", "service_name"]

PUBLIC_SERVICE = "_p2p._udp.local"
META_SERVICE = "_services._dns-sd._udp.local"
"""What is asked for a list of services (RFC 6763, section 9)."""
_FINGERPRINT_BYTES = 16


def service_name(network_key: bytes | None = None) -> str:
    """The service to announce: that of everybody, or of the private network whose 32-byte key this is.

    The name of a private network holds a fingerprint, from which the key cannot be told.
    """
    if network_key is None:
        return PUBLIC_SERVICE
    fingerprint = hashlib.sha256(b"/key/swarm/psk/1.0.0/" + network_key).digest()[:_FINGERPRINT_BYTES]
    return f"_p2p-{fingerprint.hex()}._udp.local"


@dataclass(frozen=True, slots=True, kw_only=True)
class MdnsConfig:
    """What is announced where, and how much of others is believed."""

    service: str = PUBLIC_SERVICE
    """See `service_name`."""
    interfaces: tuple[str, ...] | None = None
    """Names of network interfaces; None for all that are up, without loopback."""
    port: int = 5353
    """RFC 6762's; another one only among those who have agreed on it."""
    connect: bool = True
    """Whether each peer that is found is dialled, so that the other services meet it."""
    ttl_seconds: int = 120
    """How long our answers count."""
    first_queries_seconds: tuple[float, ...] = (0.0, 1.0, 2.0)
    """Pauses before the first queries (RFC 6762, section 5.2)."""
    query_seconds: float = 60.0
    """Between later ones."""
    rescan_seconds: float = 30.0
    """Between looks for interfaces that came or went."""
    max_message_bytes: int = 9000
    """Longer ones are ignored (RFC 6762, section 17)."""
    max_addrs: int = 16
    """Addresses of one peer, told or believed."""
    max_peers: int = 1024
    """Peers remembered; who is heard least recently leaves."""
    new_peers_per_minute: int = 100
    """Peers not known before; further ones are ignored until the minute is over."""
    answer_seconds: float = 1.0
    """No answer goes to everybody twice within this time."""
    direct_answers_per_second: int = 10
    """To programs that ask from another port and are answered alone."""
    dials_at_once: int = 8

    def __post_init__(self) -> None:
        labels = self.service.split(".")
        if not all(0 < len(label) <= 63 and label.isascii() for label in labels):
            raise ConfigError(f"mdns: {self.service!r} is no name of a service")
        if not 0 < self.port < 65_536 or not 0 < self.ttl_seconds < 1 << 31:
            raise ConfigError("mdns: the port or the time to live is out of range")
        if (
            min(self.query_seconds, self.rescan_seconds, self.answer_seconds) <= 0
            or min(self.first_queries_seconds, default=0.0) < 0
        ):
            raise ConfigError("mdns: pauses must be above 0")
        if not 512 <= self.max_message_bytes <= 9000:
            raise ConfigError("mdns: messages have 512 to 9000 bytes")
        if min(self.max_addrs, self.max_peers, self.new_peers_per_minute, self.direct_answers_per_second) < 1:
            raise ConfigError("mdns: every limit is at least 1")
        if self.dials_at_once < 1:
            raise ConfigError("mdns: at least one dial at once")
