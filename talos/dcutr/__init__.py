"""DCUtR: from a relayed connection to a direct one, by dialling each other at the same moment (libp2p dcutr)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.dcutr.service import Dcutr, DcutrConfig, HolePunched, open_dcutr
    from talos.dcutr.wire import DCUTR

__all__ = ["DCUTR", "Dcutr", "DcutrConfig", "HolePunched", "open_dcutr"]

__getattr__ = lazy_names(
    __name__,
    {
        "DCUTR": "talos.dcutr.wire",
        "Dcutr": "talos.dcutr.service",
        "DcutrConfig": "talos.dcutr.service",
        "HolePunched": "talos.dcutr.service",
        "open_dcutr": "talos.dcutr.service",
    },
)
