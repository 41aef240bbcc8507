"""The payload of handshake messages 2 and 3 (libp2p noise, "handshake payload"): bytes to dataclass and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from talos.errors import HandshakeError
from talos.wire.pb import noise_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.security.noise.config import NoiseConfig

__all__ = ["SIGNATURE_PREFIX", "HandshakePayload", "decode", "encode", "muxers_of"]

SIGNATURE_PREFIX = b"noise-libp2p-static-key:"


@dataclass(frozen=True, slots=True)
class HandshakePayload:
    """What a side proves, and what it offers beside.

    `extensions` stay encoded until the proof holds: `muxers_of` reads them.
    """

    identity_key: bytes
    identity_sig: bytes
    extensions: bytes = b""


def encode(identity_key: bytes, identity_sig: bytes, muxers: Sequence[str] = ()) -> bytes:
    """The payload of our side; without muxers it has no extensions, so that the peer falls back to multistream."""
    message = noise_pb2.NoiseHandshakePayload(identity_key=identity_key, identity_sig=identity_sig)
    if muxers:
        message.extensions.stream_muxers.extend(muxers)
    return message.SerializeToString(deterministic=True)


def decode(data: bytes) -> HandshakePayload:
    """The peer's payload; HandshakeError when it is malformed. Unknown fields and extensions are ignored."""
    try:
        message = noise_pb2.NoiseHandshakePayload.FromString(data)
    except DecodeError as error:
        raise HandshakeError("noise payload is malformed") from error
    return HandshakePayload(message.identity_key, message.identity_sig, message.extensions.SerializeToString())


def muxers_of(payload: HandshakePayload, config: NoiseConfig) -> tuple[str, ...]:
    """The muxers that the peer lists in its order of preference; HandshakeError over a limit or on bad UTF-8."""
    try:
        # Depending on its build, the protobuf runtime raises on bad UTF-8, or gives the bytes.
        listed: tuple[object, ...] = tuple(noise_pb2.NoiseExtensions.FromString(payload.extensions).stream_muxers)
    except (DecodeError, UnicodeError) as error:
        raise HandshakeError("noise extensions are malformed") from error
    muxers = tuple(muxer for muxer in listed if isinstance(muxer, str))
    if len(muxers) != len(listed):
        raise HandshakeError("noise muxer list is not UTF-8")
    longest = max((len(muxer.encode()) for muxer in muxers), default=0)
    if len(muxers) > config.max_muxers or longest > config.max_muxer_bytes:
        raise HandshakeError(f"noise muxer list is over {config.max_muxers} entries of {config.max_muxer_bytes} bytes")
    return muxers
