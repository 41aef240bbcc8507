"""Who a peer is: keys, peer ids, and what a key signs for itself.

Each name is loaded on first use, so that a machine's import of one module loads no file access and no X.509.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from talos.identity.certificate import IdentityCertificate
    from talos.identity.envelope import Envelope
    from talos.identity.keys import KeyType, PrivateKey, PublicKey
    from talos.identity.peer_id import PeerId
    from talos.identity.peer_record import PeerRecord, RecordFormat, SignedPeerRecord

__all__ = [
    "Envelope",
    "IdentityCertificate",
    "KeyType",
    "PeerId",
    "PeerRecord",
    "PrivateKey",
    "PublicKey",
    "RecordFormat",
    "SignedPeerRecord",
]

_MODULES = {
    "Envelope": "envelope",
    "IdentityCertificate": "certificate",
    "KeyType": "keys",
    "PeerId": "peer_id",
    "PeerRecord": "peer_record",
    "PrivateKey": "keys",
    "PublicKey": "keys",
    "RecordFormat": "peer_record",
    "SignedPeerRecord": "peer_record",
}


def __getattr__(name: str) -> object:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
