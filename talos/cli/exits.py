"""Exit codes and the words for them: one table for all commands, and the error tree mapped onto it."""

from __future__ import annotations

import errno

from talos.control.failure import CODES, Failure, Problem
from talos.errors import DeliveryFailed, DialError, ListenError, TalosError, TransferFailed, WalletError

__all__ = ["CODES", "INTERRUPTED", "OF_CLASS", "Failure", "Problem", "problem_of"]

INTERRUPTED = 130
SIGNALLED = 128

OF_CLASS = {
    "TalosError": "failed",
    "ProtocolError": "failed",
    "LocalProtocolError": "failed",
    "RemoteProtocolError": "failed",
    "MessageTooLarge": "failed",
    "LimitExceeded": "failed",
    "RefusedByGate": "refused",
    "DialError": "unreachable",
    "StreamReset": "unreachable",
    "RoutingError": "not_found",
    "PeerNotFound": "not_found",
    "RecordRejected": "not_found",
    "ConfigError": "config_invalid",
    "WalletError": "wallet_damaged",
    "NotSupported": "not_supported",
    "HandshakeError": "remote_failed",
    "PeerIdMismatch": "remote_failed",
    "BadSignature": "remote_failed",
    "NegotiationError": "remote_failed",
    "ChainError": "record_refused",
    "AuditError": "record_refused",
    "MempoolFull": "record_refused",
    "ChainFrozen": "record_refused",
    "StoreFull": "record_refused",
    "StoreFailed": "record_refused",
    "EntryConflict": "verification_failed",
    "BlockRejected": "verification_failed",
    "RollbackSuspected": "verification_failed",
    "StoreCorrupt": "verification_failed",
    "ChainInUse": "chain_in_use",
    "ProofInvalid": "verification_failed",
    "ListenError": "address_unusable",
    "HomeInUse": "home_in_use",
    "MessagingError": "failed",
    "DeliveryFailed": "remote_failed",
    "RecipientUnknown": "not_found",
    "MessageExpired": "timeout",
    "EnvelopeRejected": "verification_failed",
    "TransferFailed": "remote_failed",
}
"""Code by the name of the class: `StreamReset` lives in a module that loads trio."""

_DELIVERY = {21: "refused"}
"""By the receiver's word (`talos.messaging.code.Code`), which would load more than a table."""
_TRANSFER = {
    1: "declined", 2: "declined", 4: "declined", 5: "declined", 8: "declined", 6: "file_unusable",
    7: "verification_failed", 9: "timeout",
}  # fmt: skip
"""The same by `talos.messaging.files.code.FileCode`."""
_WALLET = {"missing": "no_identity", "locked": "wallet_locked", "open": "wallet_open"}
_HINTS = {
    "no_identity": "talos init --name YOU",
    "wallet_locked": "--passphrase-file FILE, or TALOS_PASSPHRASE_FILE",
    "wallet_damaged": "talos init --recover --data-dir DIR makes the identity anew from its 24 words",
    "home_in_use": "talos status says who; another identity: --data-dir DIR",
    "agent_down": "talos up",
    "no_bootstrap": "talos doctor",
    "port_in_use": "--port 0 takes a free one",
    "record_refused": "nothing was done unrecorded; look at the free space and the owner of the data directory",
    "verification_failed": "keep the file as it is: it is the evidence",
    "declined": "ask the other side to let it in: talos contacts add, and [files] in its config.toml",
    "queued": "talos outbox; it is sent by whoever next runs `talos up` here",
    "unreachable": "is the other side running, and is this its address?",
}
_RUN = "; run: "
_TOO_SLOW = "TooSlowError"


def problem_of(error: Exception) -> Problem | None:
    """How `error` is told, nearest class first; None for what should not have come out of a command."""
    if isinstance(error, Failure):
        return _problem(error.code, str(error), error.hint, error.tried)
    if isinstance(error, TalosError):
        message = str(error)
        tried: tuple[str, ...] = ()
        if isinstance(error, DialError):
            message = error.summary
            tried = tuple(f"{addr}: {cause}" for addr, cause in error.causes.items())
        return _problem(_code_of(error), message, "", tried)
    if type(error).__name__ == _TOO_SLOW:  # trio's, by its name: this module loads no trio
        return _problem("timeout", "no answer in time", "--timeout S waits longer")
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _problem("file_unusable", f"{where}{error.strerror.lower()}")
    return None


def _problem(code: str, message: str, hint: str = "", tried: tuple[str, ...] = ()) -> Problem:
    message, _, run = message.partition(_RUN)
    return Problem(code=code, message=message, hint=hint or run or _HINTS.get(code, ""), tried=tried)


def _code_of(error: TalosError) -> str:
    if isinstance(error, WalletError):
        return _WALLET.get(error.reason, "wallet_damaged")
    if isinstance(error, DeliveryFailed):
        return _DELIVERY.get(error.code, "remote_failed")
    if isinstance(error, TransferFailed):
        return _TRANSFER.get(error.code, "remote_failed")
    if isinstance(error, ListenError) and _errno_below(error) == errno.EADDRINUSE:
        return "port_in_use"
    return next(OF_CLASS[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in OF_CLASS)


def _errno_below(error: BaseException) -> int | None:
    """The system's number for what went wrong, however often it was wrapped."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__
    return None if found is None else found.errno
