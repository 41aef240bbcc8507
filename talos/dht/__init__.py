"""A Kademlia DHT peer (libp2p kad-dht): finds peers, values and providers without a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.dht.config import IPFS_KAD, IPFS_LAN_KAD, TALOS_KAD, DhtConfig, DhtLimits, DhtMode, DhtScope
    from talos.dht.mode import DhtModeChanged
    from talos.dht.query import Lookup, LookupConfig
    from talos.dht.records import Namespace, accept_anything, default_namespaces
    from talos.dht.routing_table import RoutingTable, RoutingTableConfig
    from talos.dht.search import QueryStep
    from talos.dht.service import Dht, DhtStatus, Provider, TablePeer, open_dht, provider_key

_HOMES = {
    "IPFS_KAD": "talos.dht.config",
    "IPFS_LAN_KAD": "talos.dht.config",
    "TALOS_KAD": "talos.dht.config",
    "Dht": "talos.dht.service",
    "DhtConfig": "talos.dht.config",
    "DhtLimits": "talos.dht.config",
    "DhtMode": "talos.dht.config",
    "DhtModeChanged": "talos.dht.mode",
    "DhtScope": "talos.dht.config",
    "DhtStatus": "talos.dht.service",
    "Lookup": "talos.dht.query",
    "LookupConfig": "talos.dht.query",
    "Namespace": "talos.dht.records",
    "Provider": "talos.dht.service",
    "QueryStep": "talos.dht.search",
    "RoutingTable": "talos.dht.routing_table",
    "RoutingTableConfig": "talos.dht.routing_table",
    "TablePeer": "talos.dht.service",
    "accept_anything": "talos.dht.records",
    "default_namespaces": "talos.dht.records",
    "open_dht": "talos.dht.service",
    "provider_key": "talos.dht.service",
}

__all__ = [
    "IPFS_KAD",
    "IPFS_LAN_KAD",
    "TALOS_KAD",
    "Dht",
    "DhtConfig",
    "DhtLimits",
    "DhtMode",
    "DhtModeChanged",
    "DhtScope",
    "DhtStatus",
    "Lookup",
    "LookupConfig",
    "Namespace",
    "Provider",
    "QueryStep",
    "RoutingTable",
    "RoutingTableConfig",
    "TablePeer",
    "accept_anything",
    "default_namespaces",
    "open_dht",
    "provider_key",
]

__getattr__ = lazy_names(__name__, _HOMES)
