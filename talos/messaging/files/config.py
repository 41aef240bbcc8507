"""What can be set about files."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from talos.errors import ConfigError
from talos.messaging.files.manifest import MAX_FILES, MIB
from talos.messaging.files.mime import TypeLimits

__all__ = ["Accept", "FileConfig"]

GIB = 1024 * MIB
DAY_SECONDS = 86_400


class Accept(enum.Enum):
    """Whose files are taken without asking."""

    ANYONE = "anyone"
    CONTACTS = "contacts"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileConfig:
    """Files between identities. Sizes are in bytes."""

    accept: Accept = Accept.ANYONE
    ask: bool = False
    """Offers that the policy does not take wait for the owner instead of being declined."""
    known_types_only: bool = False
    """Refuse what is neither image, audio, video nor document by its content."""
    limits: TypeLimits = field(default_factory=TypeLimits)
    total_bytes: int = 8 * GIB
    """Of one transfer."""
    entries: int = MAX_FILES
    folder_bytes: int = 20 * GIB
    """Of the downloads folder, unfinished files included."""
    free_bytes: int = GIB
    """So much of the volume stays free, or a tenth of it where that is less."""
    stranger_bytes_per_day: int = 4 * GIB
    """Taken from each who is not a contact."""
    transfers_per_peer: int = 4
    transfers: int = 32
    remembered: int = 1000
    """Transfers that are over."""
    window_bytes: int = 8 * MIB
    """Asked for and not yet written."""
    serve_bytes: int = 64 * MIB
    """A peer that asks for more at once is cut off."""
    sync_bytes: int = 16 * MIB
    """What a crash can cost, or `sync_seconds` of data."""
    sync_seconds: float = 1.0
    block_seconds: float = 60.0
    """A chunk that was asked for has to come within this."""
    idle_seconds: float = 300.0
    """Without any frame a stream is given up, and the transfer waits for another one."""
    hello_seconds: float = 15.0
    part_seconds: float = 7.0 * DAY_SECONDS
    """A transfer that stands still for so long is over."""

    def __post_init__(self) -> None:
        if self.window_bytes < MIB or self.serve_bytes < self.window_bytes:
            raise ConfigError("the window of files holds a chunk at least, and fits what is served")
        if not 1 <= self.entries <= MAX_FILES or min(self.transfers, self.transfers_per_peer, self.remembered) < 1:
            raise ConfigError("limits of files are at least 1, and a transfer has at most 10,000 of them")
