"""The client's stdin and stdout as trio streams."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from talos.cli.streams import Wire

__all__ = ["open_reader", "open_writer"]

MAX_READ_BYTES = 1 << 16


def open_reader(wire: Wire) -> trio.abc.ReceiveStream:
    """What the client writes. Pipes and sockets are waited for; their blocking mode comes back at the close."""
    return _Thread(wire.read) if _is_shared_or_file(wire.read) else trio.lowlevel.FdStream(wire.read)


def open_writer(wire: Wire) -> trio.abc.SendStream:
    """Where the client reads."""
    return _Thread(wire.write) if _is_shared_or_file(wire.write) else trio.lowlevel.FdStream(wire.write)


def _is_shared_or_file(descriptor: int) -> bool:
    """A file cannot be waited for, and a terminal's mode belongs to the shell and to all who print there."""
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISREG(mode) or os.isatty(descriptor)


class _Thread(trio.abc.Stream):
    """Reads and writes in a thread; a cancelled read is left behind, for the program ends then."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = max_bytes or MAX_READ_BYTES
        return await trio.to_thread.run_sync(os.read, self._descriptor, size, abandon_on_cancel=True)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            sent = await trio.to_thread.run_sync(os.write, self._descriptor, rest, abandon_on_cancel=True)
            rest = rest[sent:]

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        # The descriptor stays: an abandoned thread may still read it, and its number must not get another file.
        await trio.lowlevel.checkpoint()
