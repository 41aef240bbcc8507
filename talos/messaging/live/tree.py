"""The Merkle root of a stream (RFC 6962), grown leaf by leaf in little memory."""

from __future__ import annotations

from hashlib import sha256

__all__ = ["Tree", "leaf_hash"]


def leaf_hash(chunk: bytes) -> bytes:
    """The leaf of a chunk, which ChunkInfo names."""
    return sha256(b"\0" + chunk).digest()


class Tree:
    """Holds the roots of whole subtrees only: as many as the count of leaves has bits."""

    def __init__(self) -> None:
        self.size = 0
        self._peaks: list[bytes] = []

    def add(self, leaf: bytes) -> None:
        """One more chunk, by its leaf hash."""
        self.size += 1
        self._peaks.append(leaf)
        for _ in range((self.size & -self.size).bit_length() - 1):
            right, left = self._peaks.pop(), self._peaks.pop()
            self._peaks.append(_node(left, right))

    def root(self) -> bytes:
        """Of all leaves so far; SHA-256 of nothing without one."""
        if not self._peaks:
            return sha256().digest()
        root = self._peaks[-1]
        for peak in reversed(self._peaks[:-1]):
            root = _node(peak, root)
        return root


def _node(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()
