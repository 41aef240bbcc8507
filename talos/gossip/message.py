"""A broadcast message as the machine holds it, and how networks name messages."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from talos.identity.peer_id import PeerId

__all__ = ["Message", "MessageIdFunction", "from_seqno", "sha256_of_data"]


@dataclass(slots=True, eq=False)
class Message:
    """One message; `raw` is its encoding as it was made or received, and is forwarded unchanged."""

    topic: str
    data: bytes
    id: bytes
    source: PeerId
    """The neighbour that brought it; ourselves for our own."""
    author: PeerId | None
    """Who signed it; None under a policy without signatures."""
    seqno: bytes
    raw: bytes


MessageIdFunction: TypeAlias = Callable[[bytes, bytes, bytes, str], bytes]
"""From author (the bytes of its id), sequence number, data and topic to the id that control messages carry."""


def from_seqno(author: bytes, seqno: bytes, data: bytes, topic: str) -> bytes:  # noqa: ARG001 - a MessageIdFunction
    """`from ‖ seqno`: the text's default, and go's."""
    return author + seqno


def sha256_of_data(author: bytes, seqno: bytes, data: bytes, topic: str) -> bytes:  # noqa: ARG001 - a MessageIdFunction
    """SHA-256 of the data, for networks without authors: equal data is one message."""
    return hashlib.sha256(data).digest()
