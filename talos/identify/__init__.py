"""Identify: who a peer is, what it speaks and where it listens (libp2p identify and identify/push)."""

from talos.identify.machine import ReadLimits
from talos.identify.rate import PushLimits, PushRate
from talos.identify.service import (
    IDENTIFY,
    PUSH,
    AddressObserved,
    IdentifyConfig,
    IdentifyService,
    open_identify,
)

__all__ = [
    "IDENTIFY",
    "PUSH",
    "AddressObserved",
    "IdentifyConfig",
    "IdentifyService",
    "PushLimits",
    "PushRate",
    "ReadLimits",
    "open_identify",
]
