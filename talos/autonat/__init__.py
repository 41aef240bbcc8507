"""AutoNAT: whether others can dial us, asked of those who try (libp2p autonat v1 and v2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.autonat.client import Answer, probe, probe_v1
    from talos.autonat.machine import Reachabilities
    from talos.autonat.server import AutonatServer, AutonatServerConfig, open_autonat_server
    from talos.autonat.service import Autonat, AutonatConfig, open_autonat
    from talos.autonat.wire import DIAL_BACK, DIAL_REQUEST, V1

__all__ = [
    "DIAL_BACK",
    "DIAL_REQUEST",
    "V1",
    "Answer",
    "Autonat",
    "AutonatConfig",
    "AutonatServer",
    "AutonatServerConfig",
    "Reachabilities",
    "open_autonat",
    "open_autonat_server",
    "probe",
    "probe_v1",
]

__getattr__ = lazy_names(
    __name__,
    {
        "DIAL_BACK": "talos.autonat.wire",
        "DIAL_REQUEST": "talos.autonat.wire",
        "V1": "talos.autonat.wire",
        "Answer": "talos.autonat.client",
        "Autonat": "talos.autonat.service",
        "AutonatConfig": "talos.autonat.service",
        "AutonatServer": "talos.autonat.server",
        "AutonatServerConfig": "talos.autonat.server",
        "Reachabilities": "talos.autonat.machine",
        "open_autonat": "talos.autonat.service",
        "open_autonat_server": "talos.autonat.server",
        "probe": "talos.autonat.client",
        "probe_v1": "talos.autonat.client",
    },
)
