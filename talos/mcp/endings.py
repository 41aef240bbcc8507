"""How a client's session ends: the exit code, what is said, and what its open requests are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.abc import StreamReset
from talos.errors import (
    ConfigError,
    HandshakeError,
    LimitExceeded,
    NegotiationError,
    RefusedByGate,
    RemoteProtocolError,
    StreamCode,
)
from talos.mcp.flight import Code
from talos.mcp.framing import printable
from talos.mcp.wire import CloseCode, Status

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId
    from talos.mcp.event import Closed
    from talos.mcp.wire import Accept

__all__ = ["McpExit", "Owed", "of_closed", "of_error", "of_refusal"]


@dataclass(frozen=True, slots=True)
class McpExit:
    """What `mcp-connect` ends with."""

    code: int
    """Of the one table of exit codes."""
    message: str = ""
    """Lower case, printable; empty when all is well."""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Owed:
    """The error that every open request gets."""

    code: Code
    reason: str


_REFUSALS = {
    Status.REFUSED: (3, "refused", "refused: no grant for this identity, or no such server"),
    Status.BUSY: (1, "busy", "is busy: too many sessions"),
    Status.VERSION: (6, "failed", "speaks another version of the tunnel"),
    Status.FAILED: (6, "failed", "could not start the server"),
}
_CLOSES = {
    CloseCode.GOING_AWAY: (6, "going-away", "is going away"),
    CloseCode.SERVER: (6, "server-exited", "says that the server ended"),
    CloseCode.PROTOCOL: (1, "connection-lost", "says that we broke the protocol"),
    CloseCode.LIMIT: (6, "connection-lost", "closed the session at a limit"),
    CloseCode.IDLE: (6, "connection-lost", "closed the idle session"),
    CloseCode.RECEIPTS: (8, "connection-lost", "does not agree about what was said"),
    CloseCode.WITHDRAWN: (3, "connection-lost", "has withdrawn the grant"),
}


def of_refusal(accept: Accept, peer: PeerId) -> tuple[McpExit, Owed]:
    """There was an answer, and it was no."""
    code, reason, text = _REFUSALS.get(accept.status, (6, "failed", "gave an answer that does not fit"))
    detail = f" ({printable(accept.detail)})" if accept.detail else ""
    hint = "the owner runs: talos mcp-serve --authorized-peer YOUR-PEER-ID …" if code == 3 else ""
    return McpExit(code, f"{peer} {text}{detail}", hint), Owed(Code.UNREACHABLE, reason)


def of_closed(closed: Closed, peer: PeerId, *, open_requests: int) -> tuple[McpExit, Owed | None]:
    """The session was open, and is over."""
    if closed.code is CloseCode.DONE and not open_requests:
        return McpExit(0), None
    text = f" ({printable(closed.text)})" if closed.text else ""
    if closed.code is CloseCode.AUDIT:
        return McpExit(7, f"the audit log of {peer} refuses{text}"), Owed(Code.AUDIT, "audit")
    if closed.code is None:
        return McpExit(4, f"the connection to {peer} is lost{text}"), _lost("connection-lost")
    code, reason, words = (6, "server-exited", "ended the session")
    if isinstance(closed.code, CloseCode):
        code, reason, words = _CLOSES.get(closed.code, (code, reason, words))
    return McpExit(code, f"{peer} {words}{text}"), _lost(reason)


def of_error(error: BaseException, peer: PeerId) -> tuple[McpExit, Owed]:
    """There was no session to be had, or the peer broke it."""
    text = printable(str(error))
    match error:
        case RefusedByGate():
            return McpExit(3, f"our own rules refuse {peer}: {text}"), Owed(Code.UNREACHABLE, "refused")
        case StreamReset(code=StreamCode.RESOURCE_LIMIT) | LimitExceeded():
            return McpExit(1, f"{peer} is busy: {text}"), Owed(Code.UNREACHABLE, "busy")
        case RemoteProtocolError():
            return McpExit(1, f"{peer} broke the protocol: {text}"), _lost("connection-lost")
        case NegotiationError():
            return McpExit(6, f"{peer} lends no MCP server"), Owed(Code.UNREACHABLE, "failed")
        case HandshakeError():
            return McpExit(6, f"no secure connection to {peer}: {text}"), Owed(Code.UNREACHABLE, "failed")
        case ConfigError():
            return McpExit(5, text), Owed(Code.UNREACHABLE, "failed")
    return McpExit(4, f"cannot reach {peer}: {text}"), Owed(Code.UNREACHABLE, "unreachable")


def _lost(reason: str) -> Owed:
    return Owed(Code.LOST, reason)
