"""The bytes of a message that are hashed and signed: one encoding, never protobuf.

    M = "talos/msg/v1\\n" | u8 type | u8 suite | 16 id | 32 sender | lp(recipient) | lp(channel) | u32 device
      | u64 timestamp_ms | u32 ttl_s | u64 epoch | u64 seq | 32 prev | 32 commit | 12 nonce
      | u8 0, or u8 1 | 16 stream_id | u64 index | u64 total | u64 offset | u32 size | 32 hash | u8 last

    digest    = SHA-256(M ‖ SHA-256(content))
    signature = Ed25519(identity, "talos/msg-sig/v1\\n" ‖ digest)

The content enters by its hash, so a signature can be checked after the content is gone.
"""

from __future__ import annotations

import struct
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from talos.messaging.payload import ChunkInfo, Payload

__all__ = ["SIGNATURE_DOMAIN", "canonical", "channel_conversation", "conversation", "digest"]

SIGNATURE_DOMAIN: Final = b"talos/msg-sig/v1\n"
_DOMAIN: Final = b"talos/msg/v1\n"
_FRONT: Final = struct.Struct(">BB16s32s")
_MIDDLE: Final = struct.Struct(">IQIQQ32s32s12s")
_CHUNK: Final = struct.Struct(">B16sQQQI32sB")


def canonical(payload: Payload) -> bytes:
    """M of a payload whose fields have their lengths (`Payload.check`)."""
    return b"".join(
        (
            _DOMAIN,
            _FRONT.pack(payload.type, payload.suite, payload.id, payload.sender),
            _lp(payload.recipient),
            _lp(payload.channel.encode()),
            _MIDDLE.pack(
                payload.device,
                payload.timestamp_ms,
                payload.ttl_s,
                payload.epoch,
                payload.seq,
                payload.prev,
                payload.commit,
                payload.nonce,
            ),
            b"\0" if payload.chunk_info is None else _chunk(payload.chunk_info),
        )
    )


def digest(m: bytes, content: bytes) -> bytes:
    """What is signed, what an acknowledgement names, and what the next message points back to."""
    return sha256(m + sha256(content).digest()).digest()


def conversation(one: bytes, other: bytes) -> bytes:
    """The id of what two identities say to each other; the same from both sides."""
    smaller, larger = sorted((one, other))
    return sha256(b"talos/conv/v1\n" + smaller + larger).digest()


def channel_conversation(channel: str) -> bytes:
    """The id of what is said to everybody under this name."""
    return sha256(b"talos/channel/v1\n" + _lp(channel.encode())).digest()


def _chunk(chunk: ChunkInfo) -> bytes:
    return _CHUNK.pack(
        1, chunk.stream_id, chunk.index, chunk.total, chunk.offset, chunk.size, chunk.hash, int(chunk.last)
    )


def _lp(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
