"""What every muxer's machine offers to the trio half."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from talos.muxer.event import Event
    from talos.muxer.send_queue import Piece

__all__ = ["MuxerLimits", "MuxerMachine"]


class MuxerLimits(Protocol):
    """The deadlines of the trio half, part of each muxer's configuration."""

    @property
    def stall_seconds(self) -> float: ...

    @property
    def flush_seconds(self) -> float: ...


class MuxerMachine(Protocol):
    """Verbs and questions; see `YamuxMachine` for what each of them promises."""

    frames_in: int
    frames_out: int
    resets_in: int
    resets_out: int
    dropped: int

    @property
    def can_open(self) -> bool: ...

    @property
    def closing(self) -> bool: ...

    @property
    def wants_to_send(self) -> bool: ...

    @property
    def rtt_seconds(self) -> float: ...

    def room(self, stream_id: int) -> int: ...

    def window(self, stream_id: int) -> int: ...

    def next_deadline(self) -> float | None: ...

    def deadline_passed(self, now: float) -> list[Event]: ...

    def open_stream(self, now: float = 0.0) -> int: ...

    def accept(self, stream_id: int) -> None: ...

    def send(self, stream_id: int, data: Piece) -> int: ...

    def close(self, stream_id: int) -> None: ...

    def abandon(self, stream_id: int) -> None: ...

    def reset(self, stream_id: int, code: int = 0) -> None: ...

    def consumed(self, stream_id: int, size: int, now: float = 0.0) -> None: ...

    def go_away(self, code: int = 0) -> None: ...

    def receive_data(self, data: bytes | bytearray | memoryview, now: float = 0.0) -> list[Event]: ...

    def data_to_send(self) -> bytes: ...
