"""Proof of work: a block id below 2^(256 - bits). It keeps spam dear and ranks branches, and is no authority.

The nonce is the header's last field, so all before it is hashed once. Python's hashing of so few bytes keeps the
interpreter to itself: above `PROCESS_BITS` mining belongs in a process of its own.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from talos.errors import LocalProtocolError

__all__ = ["PROCESS_BITS", "SLICE_NONCES", "Solver", "meets", "solve", "work"]

SLICE_NONCES = 4096
"""About 1.6 ms."""
PROCESS_BITS = 16
MAX_BITS = 255
MAX_NONCE = 1 << 64
_DOMAIN = b"talos/block/v1\n"
_HEADER_BYTES = 232
_TAILS: Final = tuple(bytes((tail,)) for tail in range(256))


def work(bits: int) -> int:
    """What a block of this difficulty counts: the hashes it took, on average."""
    return 1 << bits


def meets(block_id: bytes, bits: int) -> bool:
    return not int.from_bytes(block_id, "big") >> (256 - bits)


class Solver:
    """Looks for the smallest nonce from `start` on, a slice at a time; the bits are those in the header."""

    __slots__ = ("_base", "_target", "nonce")

    def __init__(self, raw_header: bytes, *, start: int = 0) -> None:
        if len(raw_header) != _HEADER_BYTES:
            raise LocalProtocolError(f"a header has {_HEADER_BYTES} bytes, not {len(raw_header)}")
        bits = int.from_bytes(raw_header[82:84], "big")
        if not 1 <= bits <= MAX_BITS:
            raise LocalProtocolError(f"{bits} bits of work cannot be done")
        self._target = (1 << (256 - bits)).to_bytes(32, "big")
        self._base = sha256(_DOMAIN + raw_header[:-8])
        self.nonce = start
        """The next one to be tried; once one was found, that one."""

    def run(self, nonces: int = SLICE_NONCES) -> int | None:
        """Tries that many, or up to 255 more; the nonce, or None when it is not among them. Call it again to go on."""
        end = min(self.nonce + nonces, MAX_NONCE)
        while self.nonce < end:
            # All but the last byte of the nonce is hashed once for 256 of them.
            high, first = divmod(self.nonce, 256)
            base = self._base.copy()
            base.update(high.to_bytes(7, "big"))
            copy, target = base.copy, self._target
            for tail in _TAILS[first:]:
                trial = copy()
                trial.update(tail)
                if trial.digest() < target:
                    self.nonce = high * 256 + tail[0]
                    return self.nonce
            self.nonce = (high + 1) * 256
        return None


def solve(raw_header: bytes, *, start: int = 0) -> int:
    """The smallest nonce from `start` on. Blocks for as long as it takes: for few bits, and for child processes."""
    solver = Solver(raw_header, start=start)
    while (nonce := solver.run()) is None:
        if solver.nonce >= MAX_NONCE:
            raise LocalProtocolError("no nonce solves this header")
    return nonce
