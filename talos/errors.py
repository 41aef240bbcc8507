"""Every error that Talos raises.

    TalosError
    ├─ ProtocolError (never raised itself)
    │  ├─ LocalProtocolError        we used a machine wrongly
    │  └─ RemoteProtocolError       the peer broke the protocol
    │     └─ MessageTooLarge
    ├─ NegotiationError             no protocol in common
    ├─ HandshakeError               no authenticated channel
    │  ├─ PeerIdMismatch
    │  └─ BadSignature
    ├─ DialError(.causes)           ├─ ListenError
    ├─ LimitExceeded(.limit)        ├─ RefusedByGate
    ├─ StreamReset                  in `talos.abc`, for it is trio's BrokenResourceError too
    ├─ RoutingError
    │  ├─ PeerNotFound
    │  └─ RecordRejected
    ├─ ChainError                   the record of what happened
    │  ├─ AuditError                it cannot be written: nothing may happen unrecorded
    │  │  ├─ MempoolFull · ChainFrozen · EntryConflict
    │  │  └─ StoreFull · StoreFailed
    │  ├─ ProofInvalid              it is not what it claims to be
    │  ├─ StoreCorrupt · RollbackSuspected · ChainInUse
    │  └─ BlockRejected(.reason, .height)
    ├─ MessagingError               a message or file did not get through
    │  ├─ DeliveryFailed(.code) · RecipientUnknown · MessageExpired
    │  ├─ EnvelopeRejected(.code)   what came is not a message for us
    │  └─ TransferFailed(.code)
    └─ ConfigError
       ├─ WalletError(.reason)
       ├─ HomeInUse                 another process holds the data directory
       └─ NotSupported              designed, not built

Closed, broken and busy streams raise trio's own errors. An OSError becomes a TalosError in
`talos.transport` only. Messages are lower case, without a full stop, and name the peer or the limit.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "AuditError",
    "BadSignature",
    "BlockRejected",
    "ChainError",
    "ChainFrozen",
    "ChainInUse",
    "ConfigError",
    "ConnectionCode",
    "DeliveryFailed",
    "DialError",
    "EntryConflict",
    "EnvelopeRejected",
    "HandshakeError",
    "HomeInUse",
    "LimitExceeded",
    "ListenError",
    "LocalProtocolError",
    "MempoolFull",
    "MessageExpired",
    "MessageTooLarge",
    "MessagingError",
    "NegotiationError",
    "NotSupported",
    "PeerIdMismatch",
    "PeerNotFound",
    "ProofInvalid",
    "ProtocolError",
    "RecipientUnknown",
    "RecordRejected",
    "RefusedByGate",
    "RemoteProtocolError",
    "RollbackSuspected",
    "RoutingError",
    "StoreCorrupt",
    "StoreFailed",
    "StoreFull",
    "StreamCode",
    "TalosError",
    "TransferFailed",
    "WalletError",
]


class TalosError(Exception):
    """Root of the tree."""


class ProtocolError(TalosError):
    """A protocol was broken; raised only as one of its two children."""

    def __init__(self, *args: object) -> None:
        if type(self) is ProtocolError:
            raise TypeError("raise LocalProtocolError or RemoteProtocolError")
        super().__init__(*args)


class LocalProtocolError(ProtocolError):
    """This side asked a machine for something that its state does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent something malformed, over a limit or out of order."""


class MessageTooLarge(RemoteProtocolError):
    """A length prefix announced more than the reader accepts; judged before any buffer grew."""


class NegotiationError(TalosError):
    """The two sides have no protocol in common, or did not speak multistream."""


class HandshakeError(TalosError):
    """No authenticated channel came to be."""


class PeerIdMismatch(HandshakeError):
    """The peer proved another identity than the one that was dialled."""

    def __init__(self, expected: object, actual: object) -> None:
        super().__init__(f"expected peer {expected}, found {actual}")
        self.expected = expected
        self.actual = actual


class BadSignature(HandshakeError):
    """A signature does not hold, or its key is one that we refuse."""


class DialError(TalosError):
    """No address worked; `causes` says for each address why, `summary` is the message without them."""

    def __init__(self, message: str, causes: Mapping[object, BaseException] | None = None) -> None:
        self.summary = message
        self.causes: Mapping[object, BaseException] = dict(causes or {})
        details = "; ".join(f"{addr}: {cause}" for addr, cause in list(self.causes.items())[:5])
        more = f"; and {len(self.causes) - 5} more" if len(self.causes) > 5 else ""
        super().__init__(f"{message} ({details}{more})" if details else message)


class ListenError(TalosError):
    """An address could not be listened on."""


class LimitExceeded(TalosError):
    """A limit of ours refused; nothing was reserved.

    `limit` is the figure, `scope` names whose it is and `kind` what is counted.
    """

    def __init__(self, message: str, *, limit: float = 0, scope: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.limit = limit
        self.scope = scope
        self.kind = kind


class RefusedByGate(TalosError):
    """The connection gate said no, or raised."""


class RoutingError(TalosError):
    """The network did not give what was looked for."""


class PeerNotFound(RoutingError):
    """Nobody knew an address of the peer."""


class RecordRejected(RoutingError):
    """A record is not valid under its namespace."""


class ChainError(TalosError):
    """The record of what happened; raised as one of its children."""


class AuditError(ChainError):
    """An entry cannot be made durable: the log is full, failed, locked or closed."""


class MempoolFull(AuditError):
    """Too many entries wait for a block; nothing was recorded."""


class EntryConflict(AuditError):
    """The same message was recorded before with other content; both are kept."""

    entry: bytes = b""
    """The second content."""


class ChainFrozen(AuditError):
    """Its author signed two blocks for one height; the chain takes nothing more."""


class StoreFull(AuditError):
    """No space is left; nothing was recorded, and writing resumes when there is some."""


class StoreFailed(AuditError):
    """The disk refused a write or a sync; what was not acknowledged may be lost, and nothing more is written."""


class StoreCorrupt(ChainError):
    """What the store gave back is not what was written; the message names the row."""


class RollbackSuspected(ChainError):
    """The store is older than what was signed: a restored copy, or a deleted journal."""


class ChainInUse(ChainError):
    """Another process writes this chain; the message names it."""


class BlockRejected(ChainError):
    """A block breaks a rule of its chain: `reason` is the rule's word, `height` where it is known."""

    def __init__(self, message: str, *, reason: str, height: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.height = height


class ProofInvalid(ChainError):
    """A receipt, proof or log is not what it claims to be; the message names the first fault."""


class MessagingError(TalosError):
    """A message or file did not get through; raised as one of its children."""


class DeliveryFailed(MessagingError):
    """The recipient refused the message for good; `code` is its word (`talos.messaging.code.Code`)."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class RecipientUnknown(MessagingError):
    """No encryption key of the recipient is known, or it cannot have one."""


class MessageExpired(MessagingError):
    """Its time ran out before it was delivered."""


class EnvelopeRejected(MessagingError):
    """What came is not a message for us; `code` is the answer to whoever brought it."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class TransferFailed(MessagingError):
    """A file did not arrive whole; `code` says why (`talos.messaging.files.code.FileCode`)."""

    def __init__(self, message: str, *, code: int) -> None:
        super().__init__(message)
        self.code = code


class ConfigError(TalosError):
    """Contradictory or dangerous configuration, found at construction."""


class WalletError(ConfigError):
    """A key file or wallet cannot be used; the message holds nothing of its content.

    `reason`: "missing"; "locked" (no passphrase, a wrong one, or altered bytes: nobody can tell which);
    "open" (others may read or replace it); "damaged".
    """

    def __init__(self, message: str, *, reason: str = "damaged") -> None:
        super().__init__(message)
        self.reason = reason


class HomeInUse(ConfigError):
    """Another process holds the lock of the data directory; the message names it."""


class NotSupported(ConfigError):
    """Designed, but not built or not installed; the message names the extra where there is one."""


class StreamCode(enum.IntEnum):
    """Why a stream was reset: go-libp2p's numbers, advice only."""

    NONE = 0
    NEGOTIATION_FAILED = 0x1001
    RESOURCE_LIMIT = 0x1002
    RATE_LIMITED = 0x1003
    PROTOCOL_VIOLATION = 0x1004
    SUPPLANTED = 0x1005
    GARBAGE_COLLECTED = 0x1006
    SHUTDOWN = 0x1007
    GATED = 0x1008
    OUT_OF_RANGE = 0x1009


class ConnectionCode(enum.IntEnum):
    """Why a connection was closed: go-libp2p's numbers, one below the stream's."""

    NONE = 0
    NEGOTIATION_FAILED = 0x1000
    RESOURCE_LIMIT = 0x1001
    RATE_LIMITED = 0x1002
    PROTOCOL_VIOLATION = 0x1003
    SUPPLANTED = 0x1004
    GARBAGE_COLLECTED = 0x1005
    SHUTDOWN = 0x1006
    GATED = 0x1007
    OUT_OF_RANGE = 0x1008
