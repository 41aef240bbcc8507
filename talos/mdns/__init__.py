"""mDNS: peers on the local network find each other by multicast (libp2p mdns discovery)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.mdns.config import MdnsConfig, service_name
    from talos.mdns.service import MdnsService, PeerFound, open_mdns

__all__ = ["MdnsConfig", "MdnsService", "PeerFound", "open_mdns", "service_name"]

__getattr__ = lazy_names(
    __name__,
    {
        "MdnsConfig": "talos.mdns.config",
        "MdnsService": "talos.mdns.service",
        "PeerFound": "talos.mdns.service",
        "open_mdns": "talos.mdns.service",
        "service_name": "talos.mdns.config",
    },
)
