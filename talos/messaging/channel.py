"""Named channels: what is said to all who know a name, each over a topic of its own (docs/protocols/messaging.md).

A name is no secret: whoever guesses it listens, and every neighbour on the way reads what is said.
"""

from __future__ import annotations

from typing import Final

from talos.errors import LocalProtocolError
from talos.messaging.canonical import channel_conversation
from talos.messaging.payload import MAX_CHANNEL_BYTES

__all__ = ["EVERYBODY_TOPIC", "check_channel", "topic_of"]

EVERYBODY_TOPIC: Final = "talos/broadcast/1"


def topic_of(channel: str) -> str:
    """Where in gossip it is spoken; the empty name is that of everybody."""
    return f"talos/channel/1/{channel_conversation(channel).hex()}" if channel else EVERYBODY_TOPIC


def check_channel(name: str) -> str:
    """The name itself. LocalProtocolError for one that is empty, over 64 bytes, or not to be seen whole."""
    if not name or len(name.encode()) > MAX_CHANNEL_BYTES:
        raise LocalProtocolError(f"the name of a channel has 1 to {MAX_CHANNEL_BYTES} bytes")
    if not name.isprintable() or " " in name or name.startswith("#"):
        raise LocalProtocolError(f"{name!r} names no channel: no spaces, no leading #, nothing that cannot be printed")
    return name
