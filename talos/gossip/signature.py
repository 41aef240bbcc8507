"""Who wrote a message: signing ours, checking others' (libp2p pubsub, "Message signing").

Signatures are checked over the bytes as received, so fields that we do not know stay covered.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

from talos.errors import BadSignature, ConfigError, LocalProtocolError, RemoteProtocolError
from talos.gossip import wire
from talos.gossip.config import SignaturePolicy
from talos.gossip.wire import BadMessage
from talos.identity.keys import PublicKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from talos.gossip.wire import MessageFields
    from talos.identity.keys import PrivateKey

__all__ = ["Author", "Signatures"]

_SEQNO_BYTES = 8
_MAX_SEQNO = (1 << 64) - 1
_MAX_KEYS = 1024


class Author:
    """An author whose id was read; the key is None where only the message can bring it."""

    __slots__ = ("key", "peer")

    def __init__(self, peer: PeerId) -> None:
        self.peer = peer
        self.key: PublicKey | None = peer.public_key()


class Signatures:
    """The policy of a network, our key, and the keys of the last authors at hand."""

    __slots__ = ("_authors", "_key", "_next_seqno", "_own_key", "_peer_id", "_policy")

    def __init__(self, policy: SignaturePolicy, *, peer_id: PeerId, key: PrivateKey | None, first_seqno: int) -> None:
        if policy.signs and key is None:
            raise ConfigError(f"policy {policy.value} needs a key to sign with")
        self._policy = policy
        self._peer_id = peer_id
        self._key = key
        self._own_key = key.public_key.to_bytes() if key and peer_id.public_key() is None else None
        self._next_seqno = first_seqno
        self._authors: OrderedDict[bytes, Author] = OrderedDict()

    def make(self, topic: str, data: bytes) -> tuple[bytes, bytes, bytes]:
        """Author, sequence number and encoding of a new message; the first two are empty where nothing is signed."""
        if not self._policy.signs:
            return b"", b"", wire.encode_message(None, data, None, topic)
        assert self._key is not None
        if self._next_seqno > _MAX_SEQNO:
            raise LocalProtocolError("the sequence numbers of 64 bits are used up")
        author, seqno = self._peer_id.to_bytes(), self._next_seqno.to_bytes(_SEQNO_BYTES, "big")
        self._next_seqno += 1
        unsigned = wire.encode_message(author, data, seqno, topic)
        signature = self._key.sign(wire.SIGN_PREFIX + unsigned)
        return author, seqno, wire.with_signature(unsigned, signature, self._own_key)

    def author(self, message: MessageFields) -> Author | None:
        """Judges which fields there are; None when the message has no author. BadMessage, nothing is verified yet."""
        signed = message.signature is not None
        if not signed and self._policy is not SignaturePolicy.STRICT_SIGN:
            if message.author is not None or message.seqno is not None or message.key is not None:
                if self._policy.lax:
                    return None
                raise BadMessage("has an author, which this network does not have", message.topic)
            return None
        if self._policy is SignaturePolicy.STRICT_NO_SIGN:
            raise BadMessage("is signed, which this network does not do", message.topic)
        if not signed:
            raise BadMessage("is not signed", message.topic)
        if message.author is None or message.seqno is None or len(message.seqno) != _SEQNO_BYTES:
            raise BadMessage("lacks an author or a sequence number of 8 bytes", message.topic)
        try:
            return self._known(message.author)
        except RemoteProtocolError as error:
            raise BadMessage("has an author that is no peer id", message.topic) from error

    def _known(self, raw: bytes) -> Author:
        author = self._authors.get(raw)
        if author is None:
            author = self._authors[raw] = Author(PeerId(raw))
            if len(self._authors) > _MAX_KEYS:
                self._authors.popitem(last=False)
        return author

    @staticmethod
    def verify(message: MessageFields, author: Author) -> None:
        """BadMessage unless the author signed exactly this."""
        assert message.signature is not None
        try:
            key = author.key
            if message.key is not None and (key is None or message.key != key.to_bytes()):
                key = PublicKey.from_bytes(message.key)
                if PeerId.from_key(key) != author.peer:
                    raise BadMessage("brings the key of another peer than its author", message.topic)
            if key is None:
                raise BadMessage("lacks the key, which its author's id does not hold", message.topic)
            key.verify(message.signed_part(), message.signature)
        except (BadSignature, RemoteProtocolError) as error:
            if isinstance(error, BadMessage):
                raise
            raise BadMessage(f"by {author.peer} has a signature or key that does not hold", message.topic) from error
        author.key = key
