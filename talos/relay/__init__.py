"""Circuit relay v2: being a relay, reserving at one, and connections through one (libp2p relay)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.relay.auto import AutoRelayConfig, open_auto_relay
    from talos.relay.circuit import Circuit, CircuitConfig, RelayLost, RelayReserved, open_circuit
    from talos.relay.machine import RelayLimits
    from talos.relay.service import RelayServer, open_relay
    from talos.relay.wire import HOP, STOP, Status

__all__ = [
    "HOP",
    "STOP",
    "AutoRelayConfig",
    "Circuit",
    "CircuitConfig",
    "RelayLimits",
    "RelayLost",
    "RelayReserved",
    "RelayServer",
    "Status",
    "open_auto_relay",
    "open_circuit",
    "open_relay",
]

__getattr__ = lazy_names(
    __name__,
    {
        "HOP": "talos.relay.wire",
        "STOP": "talos.relay.wire",
        "AutoRelayConfig": "talos.relay.auto",
        "Circuit": "talos.relay.circuit",
        "CircuitConfig": "talos.relay.circuit",
        "RelayLimits": "talos.relay.machine",
        "RelayLost": "talos.relay.circuit",
        "RelayReserved": "talos.relay.circuit",
        "RelayServer": "talos.relay.service",
        "Status": "talos.relay.wire",
        "open_auto_relay": "talos.relay.auto",
        "open_circuit": "talos.relay.circuit",
        "open_relay": "talos.relay.service",
    },
)
