"""Proof of work beside everything else: in slices on the event loop, or in a process of its own.

hashlib keeps the interpreter's lock for inputs as short as a header, so a thread would stop the loop; a slice takes
about 1.6 ms, and above 16 bits the slices would take too much of it.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Final

import trio

from talos.chain.pow import Solver

if TYPE_CHECKING:
    from talos.chain.block import Header

__all__ = ["mine"]

SLICE_NONCES = 4096
PROCESS_BITS = 17
"""From here on a process pays for itself: 130,000 hashes are 50 ms."""
_PROGRAM: Final = "import sys; from talos.chain.pow import solve; print(solve(bytes.fromhex(sys.argv[1])))"


async def mine(header: Header) -> int:
    """The smallest nonce with which the header's id has its work. Cancelled, it stops at once."""
    raw = header.encode()
    if header.pow_bits >= PROCESS_BITS:
        return await _mine_apart(raw)
    solver = Solver(raw)
    while (nonce := solver.run(SLICE_NONCES)) is None:
        await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint_if_cancelled()
    return nonce


async def _mine_apart(raw: bytes) -> int:
    """In a child, which dies with the cancellation."""
    done = await trio.run_process(
        [sys.executable, "-c", _PROGRAM, raw.hex()], capture_stdout=True, stdin=subprocess.DEVNULL
    )
    return int(done.stdout)
