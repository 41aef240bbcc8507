"""Who a peer is: keys, peer ids, and what a key signs for itself.

Each name is loaded on first use, so that a machine's import of one module loads no file access and no X.509.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

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

__getattr__ = lazy_names(
    __name__,
    {
        "Envelope": "talos.identity.envelope",
        "IdentityCertificate": "talos.identity.certificate",
        "KeyType": "talos.identity.keys",
        "PeerId": "talos.identity.peer_id",
        "PeerRecord": "talos.identity.peer_record",
        "PrivateKey": "talos.identity.keys",
        "PublicKey": "talos.identity.keys",
        "RecordFormat": "talos.identity.peer_record",
        "SignedPeerRecord": "talos.identity.peer_record",
    },
)
