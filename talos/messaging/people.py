"""Whom messages go between: keys of identities, and what the owner thinks of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from talos.errors import RecipientUnknown, RemoteProtocolError
from talos.identity.keys import KeyType, PublicKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.identity.keys import PrivateKey
    from talos.identity.wallet import Wallet

__all__ = ["Acquaintances", "Everybody", "Keyring", "WalletKeys", "identity_of", "peer_of"]

KEYS_TRIED = 3
"""The newest encryption key and so many older ones together open what comes."""

RESIGN_MS = 7 * 86_400_000
"""A record of that age is signed anew; until then everybody sees the same bytes."""


class Acquaintances(Protocol):
    """What the owner says of peers; asked at each message, so that a change counts at once."""

    def known(self, peer: PeerId) -> bool:
        """A contact."""

    def blocked(self, peer: PeerId) -> bool:
        """Nothing of this peer is taken."""


class Everybody:
    """No contacts, and nobody is blocked."""

    def known(self, peer: PeerId) -> bool:  # noqa: ARG002 - the seam's
        return False

    def blocked(self, peer: PeerId) -> bool:  # noqa: ARG002 - the seam's
        return False


class Keyring(Protocol):
    """Our own keys; the encryption key changes while the node runs."""

    @property
    def identity(self) -> PrivateKey: ...

    @property
    def store_key(self) -> bytes: ...

    def secrets(self) -> Sequence[bytes]:
        """X25519 secrets that open what comes, newest first."""

    def key_record(self, now_ms: int) -> bytes:
        """Our signed record, for those who write to us."""


class WalletKeys:
    """The keys of a wallet that does not change while it is used."""

    def __init__(self, wallet: Wallet) -> None:
        self._wallet = wallet
        self.identity = wallet.identity
        self.store_key = wallet.store_key
        self._record = (0, b"")

    def secrets(self) -> Sequence[bytes]:
        return tuple(key.secret for key in self._wallet.encryption[:KEYS_TRIED])

    def key_record(self, now_ms: int) -> bytes:
        signed_ms, record = self._record
        if not record or now_ms - signed_ms > RESIGN_MS:
            record = self._wallet.key_record(now_ms)
            self._record = (now_ms, record)
        return record


def identity_of(peer: PeerId) -> bytes:
    """The Ed25519 key inside a peer id; RecipientUnknown when it holds another kind, which cannot have messages."""
    key = peer.public_key()
    if key is None or key.type is not KeyType.ED25519:
        raise RecipientUnknown(f"{peer} is no Ed25519 identity, so messages cannot be sealed for it")
    return key.data


def peer_of(identity: bytes) -> PeerId:
    """The peer id of an Ed25519 key; RemoteProtocolError or BadSignature where it is none that may be used."""
    if len(identity) != 32:
        raise RemoteProtocolError(f"an identity of {len(identity)} bytes")
    return PeerId.from_key(PublicKey(KeyType.ED25519, identity))
