"""The two ends of a pipe, with fewer turns of the scheduler than trio's own stream takes."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn

import trio

if TYPE_CHECKING:
    from trio.lowlevel import FdStream

__all__ = ["PipeReader", "PipeWriter"]

READ_BYTES = 256 * 1024
YIELD_BYTES = 256 * 1024
"""How much a task writes before other tasks get their turn."""
WRITE_BYTES = 1 << 20
"""At most so much is offered to the kernel at once: a view of the rest costs nothing."""


class PipeReader(trio.abc.ReceiveStream):
    """Reads a pipe or socket, whose descriptor `fd` owns: closing this closes that."""

    def __init__(self, fd: FdStream) -> None:
        self._fd = fd
        self._drained = True
        self._busy = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio's; without `max_bytes` at most 256 KiB."""
        if self._busy:
            raise trio.BusyResourceError("another task is receiving on this pipe")
        size = READ_BYTES if max_bytes is None else max_bytes
        self._busy = True
        try:
            while True:
                descriptor = self._fd.fileno()
                if descriptor < 0:
                    raise trio.ClosedResourceError("this pipe was closed")
                if self._drained:
                    await trio.lowlevel.wait_readable(descriptor)
                else:
                    await trio.lowlevel.checkpoint()
                try:
                    data = os.read(self._fd.fileno(), size)
                except BlockingIOError:
                    self._drained = True
                    continue
                self._drained = len(data) < size
                return data
        except OSError as error:
            _raise(error)
        finally:
            self._busy = False

    async def aclose(self) -> None:
        """As trio's."""
        await self._fd.aclose()


class PipeWriter(trio.abc.SendStream):
    """Writes to a pipe or socket, whose descriptor `fd` owns: closing this closes that."""

    def __init__(self, fd: FdStream) -> None:
        self._fd = fd
        self._unyielded = 0
        self._busy = False

    def send_nowait(self, data: bytes) -> int:
        """How many bytes the kernel took at once; none when another task is writing, or it would block."""
        if self._busy:
            return 0
        try:
            return os.write(self._descriptor(), data)
        except BlockingIOError:
            return 0
        except OSError as error:
            _raise(error)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As trio's."""
        if self._busy:
            raise trio.BusyResourceError("another task is sending on this pipe")
        self._busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            self._unyielded += len(data)
            with memoryview(data) as view:
                sent = 0
                while sent < len(view):
                    try:
                        with view[sent : sent + WRITE_BYTES] as piece:
                            sent += os.write(self._descriptor(), piece)
                    except BlockingIOError:
                        self._unyielded = 0
                        await trio.lowlevel.wait_writable(self._descriptor())
            if self._unyielded >= YIELD_BYTES:
                self._unyielded = 0
                await trio.lowlevel.cancel_shielded_checkpoint()
        except OSError as error:
            _raise(error)
        finally:
            self._busy = False

    async def wait_send_all_might_not_block(self) -> None:
        """As trio's."""
        await trio.lowlevel.wait_writable(self._descriptor())

    async def aclose(self) -> None:
        """As trio's."""
        await self._fd.aclose()

    def _descriptor(self) -> int:
        descriptor = self._fd.fileno()
        if descriptor < 0:
            raise trio.ClosedResourceError("this pipe was closed")
        return descriptor


def _raise(error: OSError) -> NoReturn:
    if error.errno == errno.EBADF:
        raise trio.ClosedResourceError("this pipe was closed") from error
    raise trio.BrokenResourceError(f"the pipe broke: {os.strerror(error.errno or 0).lower()}") from error
