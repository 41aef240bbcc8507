"""Live streams between identities: chunks as they are made, each sealed and signed like a letter, kept by nobody.

async with await messaging.open_live(peer, codec="utf-8", media_type="text/plain") as stream:
    await stream.send("one line")

async for stream in messaging.streams():        # at the other end
    async for line in stream:
        print(line)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.messaging.live.codec import Codec, CodecRegistry
    from talos.messaging.live.config import LiveLimits
    from talos.messaging.live.receiving import IncomingStream
    from talos.messaging.live.sending import LiveStream

__all__ = ["Codec", "CodecRegistry", "IncomingStream", "LiveLimits", "LiveStream"]

_HOMES = {
    "Codec": "talos.messaging.live.codec",
    "CodecRegistry": "talos.messaging.live.codec",
    "IncomingStream": "talos.messaging.live.receiving",
    "LiveLimits": "talos.messaging.live.config",
    "LiveStream": "talos.messaging.live.sending",
}

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
