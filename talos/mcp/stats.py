"""The tunnel's numbers: plain ints, and their Prometheus text. Never a peer, tool or id among them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CALL_SECONDS", "McpStats"]

CALL_SECONDS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0)
"""Upper bounds of the buckets of `call_seconds`; one more has the rest."""


@dataclass(slots=True)
class McpStats:
    """What a tunnel has done; each field is one metric of the name `talos_mcp_<field>`."""

    sessions: Counter[str] = field(default_factory=Counter)
    """By state: open, closing."""
    opens_total: Counter[str] = field(default_factory=Counter)
    """By status of the Accept."""
    lines_total: Counter[tuple[str, str]] = field(default_factory=Counter)
    """By direction (up, down) and kind."""
    bytes_total: Counter[str] = field(default_factory=Counter)
    """By direction, of lines without their ends."""
    in_flight: int = 0
    call_seconds: list[int] = field(default_factory=lambda: [0] * (len(CALL_SECONDS) + 1))
    call_seconds_sum: float = 0.0
    denied_total: Counter[str] = field(default_factory=Counter)
    dropped_total: Counter[str] = field(default_factory=Counter)
    errors_total: Counter[str] = field(default_factory=Counter)
    """Errors that the tunnel originated, by code."""
    resumes_total: Counter[str] = field(default_factory=Counter)
    restarts_total: int = 0
    replay_bytes: int = 0
    children: int = 0
    child_exits_total: Counter[str] = field(default_factory=Counter)
    """By how: clean, status, signal, killed (by us)."""
    audit_queue: int = 0
    receipts_total: Counter[str] = field(default_factory=Counter)

    def line(self, direction: str, kind: str, size: int) -> None:
        """A line crossed."""
        self.lines_total[direction, kind] += 1
        self.bytes_total[direction] += size

    def call(self, seconds: float) -> None:
        """A request was answered."""
        self.call_seconds_sum += seconds
        for index, bound in enumerate(CALL_SECONDS):
            if seconds <= bound:
                self.call_seconds[index] += 1
                return
        self.call_seconds[-1] += 1

    def prometheus(self) -> str:
        """Prometheus' text format, version 0.0.4."""
        lines: list[str] = []
        for name, labels in _COUNTERS.items():
            lines += _counter(name, labels, getattr(self, name))
        lines.append("# TYPE talos_mcp_restarts_total counter")
        lines.append(f"talos_mcp_restarts_total {self.restarts_total}")
        for name in ("in_flight", "replay_bytes", "children", "audit_queue"):
            lines.append(f"# TYPE talos_mcp_{name} gauge")
            lines.append(f"talos_mcp_{name} {getattr(self, name)}")
        return "\n".join([*lines, *self._histogram(), ""])

    def _histogram(self) -> Iterable[str]:
        yield "# TYPE talos_mcp_call_seconds histogram"
        count = 0
        for bound, more in zip((*map(str, CALL_SECONDS), "+Inf"), self.call_seconds, strict=True):
            count += more
            yield f'talos_mcp_call_seconds_bucket{{le="{bound}"}} {count}'
        yield f"talos_mcp_call_seconds_sum {self.call_seconds_sum:.6f}"
        yield f"talos_mcp_call_seconds_count {count}"


_COUNTERS = {
    "sessions": ("state",),
    "opens_total": ("status",),
    "lines_total": ("dir", "kind"),
    "bytes_total": ("dir",),
    "denied_total": ("reason",),
    "dropped_total": ("reason",),
    "errors_total": ("code",),
    "resumes_total": ("result",),
    "child_exits_total": ("how",),
    "receipts_total": ("result",),
}


def _counter(name: str, labels: tuple[str, ...], values: Mapping[str | tuple[str, ...], int]) -> Iterable[str]:
    yield f"# TYPE talos_mcp_{name} {'counter' if name.endswith('_total') else 'gauge'}"
    for key, value in sorted(values.items(), key=str):
        parts = key if isinstance(key, tuple) else (key,)
        pairs = ",".join(f'{label}="{part}"' for label, part in zip(labels, parts, strict=True))
        yield f"talos_mcp_{name}{{{pairs}}} {value}"
