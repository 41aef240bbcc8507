"""Chunks of live streams: any places and sizes, in any order, with hashes that are right and with such that are not."""

from __future__ import annotations

import struct

from talos.errors import RemoteProtocolError
from talos.messaging.content import StreamEnd
from talos.messaging.live.codec import BUILT_IN
from talos.messaging.live.config import LiveLimits
from talos.messaging.live.machine import Assembly
from talos.messaging.live.tree import leaf_hash
from talos.messaging.payload import ChunkInfo

LIMITS = LiveLimits(ahead_chunks=8, ahead_bytes=64 * 1024, unanswered=4)
PLACE = struct.Struct(">BBBHB")


def target(data: bytes) -> None:
    """What is shown is what was said, each chunk once and in order, in bounded memory; or the stream is broken."""
    for codec in BUILT_IN:
        try:
            codec.decoded(data)
        except ValueError:
            continue
    if not data:
        return
    assembly = Assembly(LIMITS, lossy=bool(data[0] & 1))
    try:
        _play(assembly, data[1:])
    except RemoteProtocolError:
        return


def _play(assembly: Assembly, data: bytes) -> None:
    shown = 0
    for position in range(0, len(data) - PLACE.size, PLACE.size):
        index, total, size, offset, flags = PLACE.unpack_from(data, position)
        chunk = bytes([index]) * (size % 8)
        info = ChunkInfo(
            stream_id=bytes(16),
            index=index,
            total=total if flags & 1 else 0,
            offset=offset,
            size=len(chunk) if flags & 2 else size,
            hash=leaf_hash(chunk) if flags & 4 else bytes(32),
            last=bool(flags & 8),
        )
        shown += len(assembly.place(info, chunk))
        if shown != assembly.received or assembly.next_index < shown:
            raise AssertionError("a chunk was shown twice, or one that is not there")
        if assembly.ahead_bytes > LIMITS.ahead_bytes:
            raise AssertionError("more is held than may be")
    assembly.finish(StreamEnd(stream_id=bytes(16), chunks=shown, bytes_total=0, root=bytes(32)))
