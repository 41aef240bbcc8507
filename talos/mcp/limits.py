"""What one tunnel may use (docs/protocols/mcp.md). At a limit something definite happens; nothing grows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from talos.errors import ConfigError

__all__ = [
    "MAX_LINE_RANGE",
    "MAX_WINDOW_RANGE",
    "GrantLimits",
    "McpLimits",
]

KIB = 1024
MIB = 1024 * KIB

MAX_LINE_RANGE = (64 * KIB, 256 * MIB)
"""What the wire format lets either side announce, in bytes."""
MAX_WINDOW_RANGE = (64 * KIB, 64 * MIB)
"""The same for the window."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantLimits:
    """What a grant of the policy changes in the limits; None leaves them."""

    sessions: int | None = None
    in_flight: int | None = None
    rate: float | None = None
    """Requests a second."""
    burst: int | None = None
    call_timeout: float | None = None
    """Seconds."""

    def __post_init__(self) -> None:
        for name in ("sessions", "in_flight", "burst"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"limit {name} is {value}, the least is 1")
        for name in ("rate", "call_timeout"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"limit {name} is {value}, it must be a positive number")
        if self.burst is not None and self.rate is None:
            raise ConfigError("limit burst needs a rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class McpLimits:
    """Bounds of a tunnel and of all of them. Sizes in bytes, times in seconds."""

    max_line: int = 16 * MIB
    """Of a line in either direction. Up: error 4131; from the server: dropped."""
    window: int = 4 * MIB
    """Unconsumed lines that the peer may have sent, each counted with 64 more. At it the source is not read."""
    sessions_per_peer: int = 8
    """BUSY above it."""
    sessions: int = 64
    """Of all peers together; BUSY above it."""
    openings_per_minute: int = 60
    """New sessions of one peer; BUSY above it."""
    in_flight: int = 256
    """Open requests of a session; error 4291 above it."""
    subscriptions: int = 16
    """Open `subscriptions/listen` of a session, which do not count as in flight; error 4291 above it."""
    answered_ids: int = 256
    """Requests answered by us whose late response would still be recognised; the oldest goes."""
    rate: float | None = None
    """Requests a second of one peer, None for no limit; error 4291 above it."""
    burst: int | None = None
    """Requests at once within the rate; None: as many as come in a second."""
    call_timeout: float | None = None
    """For a request to be answered, None for no limit; then error 4081."""
    idle_timeout: float | None = None
    """Without a line in either direction, None for no limit; then CLOSE 5."""
    audit_queue_entries: int = 4096
    """Entries on their way to the log; at it lines wait."""
    audit_queue_bytes: int = 4 * MIB
    """The same in bytes."""
    audit_late_seconds: float = 5.0
    """How long lines wait for the log before the session ends with CLOSE 6."""
    refusals_per_minute: int = 1
    """Refusals of one peer that are recorded singly; the rest are counted into the next one."""
    refusal_peers: int = 1024
    """Refused peers that are told apart; the rest share a counter."""
    opening_seconds: float = 10.0
    """For Open and Accept together."""
    pings_per_10s: int = 10
    """PINGs of the peer in 10 seconds; above it is a protocol error."""

    def __post_init__(self) -> None:
        for name, (least, most) in (("max_line", MAX_LINE_RANGE), ("window", MAX_WINDOW_RANGE)):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} is {getattr(self, name)}, it must be within {least} and {most}")
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, the least is 1")
        for name in ("audit_late_seconds", "opening_seconds", "idle_timeout"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} is {value}, it must be positive")
        GrantLimits(rate=self.rate, burst=self.burst, call_timeout=self.call_timeout)

    def for_grant(self, grant: GrantLimits) -> McpLimits:
        """These limits with what `grant` says put over them; a grant's rate without a burst has its own burst."""
        limits = replace(
            self,
            sessions_per_peer=self.sessions_per_peer if grant.sessions is None else grant.sessions,
            in_flight=self.in_flight if grant.in_flight is None else grant.in_flight,
            call_timeout=self.call_timeout if grant.call_timeout is None else grant.call_timeout,
        )
        return limits if grant.rate is None else replace(limits, rate=grant.rate, burst=grant.burst)


_COUNTS = (
    "sessions_per_peer",
    "sessions",
    "openings_per_minute",
    "in_flight",
    "subscriptions",
    "answered_ids",
    "audit_queue_entries",
    "audit_queue_bytes",
    "refusals_per_minute",
    "refusal_peers",
    "pings_per_10s",
)
