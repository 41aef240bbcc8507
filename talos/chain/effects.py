"""What the chain's machine asks of its driver, and what it asks a store."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from talos.chain.block import Header

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.chain.block import Checked, Draft, Item
    from talos.chain.messages import Message, ProofReq, Response

__all__ = [
    "Alarm",
    "AlarmKind",
    "Announce",
    "Answered",
    "ChainSource",
    "DropStage",
    "Effect",
    "Evidence",
    "Fault",
    "Mine",
    "Now",
    "Peer",
    "Persist",
    "Replace",
    "Send",
    "Serve",
    "ServeBlock",
    "ServeBlocks",
    "ServeHeaders",
    "ServeProof",
    "Stage",
    "StopMining",
    "Stored",
]

Peer: TypeAlias = Hashable
"""Whatever the driver knows peers by."""


class Now(NamedTuple):
    """The time, both ways."""

    seconds: float
    """Of a clock that never jumps: for deadlines."""
    unix_ms: int
    """For what blocks say."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A block of our chain, as a store has it."""

    raw: bytes
    sig: bytes
    block_id: bytes
    total_work: int

    @property
    def header(self) -> Header:
        return Header.decode(self.raw)


class ChainSource(Protocol):
    """Our own chain, read at once. A store may raise StoreCorrupt from any of these."""

    def tip(self) -> Stored | None: ...

    def header_at(self, height: int) -> Stored | None: ...

    def header_of(self, block_id: bytes) -> Stored | None: ...

    def ending_at(self, log_size: int) -> Stored | None:
        """The block with which the log has exactly this size."""

    def position(self, key: bytes) -> int | None:
        """Where an entry of this message key is: height << 12 | number in its block."""

    def entry_of(self, key: bytes) -> bytes | None:
        """Its bytes. ProofInvalid when they were pruned."""

    def items_at(self, height: int) -> Sequence[Item]: ...

    def tile(self, level: int, n: int) -> bytes: ...


# -- Own blocks -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Mine:
    """Look for the draft's nonce, and give it to `mined` with the ticket."""

    ticket: int
    draft: Draft


@dataclass(frozen=True, slots=True)
class StopMining:
    """The draft of this ticket has lost its place."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Persist:
    """Append these, in one transaction; answer with `persisted` or `persist_failed`."""

    blocks: tuple[Checked, ...]
    own: bool


# -- Another branch -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stage:
    """Keep these aside, behind what is staged already: parts of a branch that may replace ours. Not answered."""

    blocks: tuple[Checked, ...]


@dataclass(frozen=True, slots=True)
class DropStage:
    """The branch came to nothing."""


@dataclass(frozen=True, slots=True)
class Replace:
    """Put what is staged in place of all above `fork_height`, in one transaction; answer as to Persist.

    `readmit` are our own entries and blobs that lost their block: they wait again.
    """

    fork_height: int
    readmit: tuple[tuple[bytes, bytes], ...]


# -- Others ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    peer: Peer
    message: Message


@dataclass(frozen=True, slots=True)
class ServeHeaders:
    start: int
    end: int
    """Included; below `start` when there are none."""


@dataclass(frozen=True, slots=True)
class ServeBlocks:
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ServeBlock:
    block_id: bytes


@dataclass(frozen=True, slots=True)
class ServeProof:
    wanted: ProofReq
    counterparty_only: bool
    """The peer may know of messages between itself and us only; all else is NOT_FOUND."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Read this, send the response with this id, and call `served`."""

    peer: Peer
    request_id: int
    what: ServeHeaders | ServeBlocks | ServeBlock | ServeProof


@dataclass(frozen=True, slots=True)
class Answered:
    """The response to what was asked by `ask`."""

    peer: Peer
    response: Response


@dataclass(frozen=True, slots=True)
class Fault:
    """The peer broke the protocol or was too slow: reset its stream."""

    peer: Peer
    reason: str
    text: str
    banned_until: float | None
    """Its chain streams are refused until then, by `Now.seconds`."""


@dataclass(frozen=True, slots=True)
class Announce:
    """The tip moved, durably."""

    tip: Stored


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two statements of one author that cannot both be true, or the second content of a message: keep the file."""

    file: bytes


@dataclass(frozen=True, slots=True)
class KeepCheckpoint:
    """The author's own, of this size, and our copy agrees: keep it, so that the copy is never taken back behind it."""

    size: int
    note: bytes


class AlarmKind(enum.Enum):
    """What a person should know of."""

    CLOCK = "clock"
    FROZEN = "frozen"
    EQUIVOCATION = "equivocation"
    ROLLBACK = "rollback"
    SPLIT = "split"


@dataclass(frozen=True, slots=True)
class Alarm:
    kind: AlarmKind
    text: str


Effect: TypeAlias = (
    Mine
    | StopMining
    | Persist
    | Stage
    | DropStage
    | Replace
    | Send
    | Serve
    | Answered
    | Fault
    | Announce
    | Evidence
    | KeepCheckpoint
    | Alarm
)
