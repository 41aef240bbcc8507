"""What an operation or a command gives up with: a code of one table, which decides the exit. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["CODES", "Failure", "Problem"]

CODES = {
    "failed": 1,
    "version_skew": 1,
    "usage": 2,
    "peer_unknown": 2,
    "peer_ambiguous": 2,
    "ticket_damaged": 2,
    "refused": 3,
    "declined": 3,
    "unreachable": 4,
    "not_found": 4,
    "no_bootstrap": 4,
    "timeout": 4,
    "agent_down": 4,
    "going_away": 4,
    "no_identity": 5,
    "wallet_locked": 5,
    "wallet_open": 5,
    "wallet_damaged": 5,
    "config_invalid": 5,
    "not_supported": 5,
    "file_unusable": 5,
    "remote_failed": 6,
    "record_refused": 7,
    "verification_failed": 8,
    "identity_exists": 9,
    "file_exists": 9,
    "name_taken": 9,
    "port_in_use": 9,
    "address_unusable": 9,
    "home_in_use": 9,
    "chain_in_use": 9,
    "queued": 75,
}
"""Each code of the JSON error object and the exit that it has."""


class Failure(Exception):
    """What a command gives up with; `code` is one of CODES and decides the exit."""

    def __init__(self, code: str, message: str, *, hint: str = "", tried: Sequence[str] = ()) -> None:
        super().__init__(message)
        if code not in CODES:
            raise ValueError(f"no exit for code {code!r}")
        self.code = code
        self.hint = hint
        self.tried = tuple(tried)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as it is printed."""

    code: str
    message: str
    hint: str = ""
    tried: tuple[str, ...] = ()

    @property
    def exit(self) -> int:
        return CODES[self.code]

    def fields(self) -> dict[str, object]:
        """As the JSON error object has it."""
        return {
            "code": self.code,
            "exit": self.exit,
            "message": self.message,
            "hint": self.hint or None,
            "tried": list(self.tried),
        }
