"""Transport parameters (RFC 9000 18): what each side tells in its handshake."""

from __future__ import annotations

from dataclasses import dataclass

from talos.errors import RemoteProtocolError

__all__ = ["EXTENSION", "Parameters", "decode", "encode"]

EXTENSION = 0x39
"""The TLS extension that carries them (RFC 9001 8.2)."""

_MAX_VARINT = (1 << 62) - 1
_MAX_STREAMS = 1 << 60
_INTEGERS = {
    0x01: "idle_milliseconds",
    0x03: "max_udp_payload",
    0x04: "max_data",
    0x05: "stream_data_bidi_local",
    0x06: "stream_data_bidi_remote",
    0x07: "stream_data_uni",
    0x08: "max_streams_bidi",
    0x09: "max_streams_uni",
    0x0A: "ack_delay_exponent",
    0x0B: "max_ack_delay_milliseconds",
    0x0E: "active_connection_ids",
}
_IDS = {0x00: "original_destination", 0x02: "reset_token", 0x0F: "initial_source", 0x10: "retry_source"}
_DISABLE_MIGRATION, _PREFERRED_ADDRESS = 0x0C, 0x0D
_LISTENER_ONLY = frozenset({0x00, 0x02, _PREFERRED_ADDRESS, 0x10})
_BOUNDS = {
    "max_udp_payload": (1200, _MAX_VARINT),
    "max_streams_bidi": (0, _MAX_STREAMS),
    "max_streams_uni": (0, _MAX_STREAMS),
    "ack_delay_exponent": (0, 20),
    "max_ack_delay_milliseconds": (0, (1 << 14) - 1),
    "active_connection_ids": (2, _MAX_VARINT),
}


@dataclass(slots=True, kw_only=True)
class Parameters:
    """The known ones, with the values that hold when they are left out."""

    original_destination: bytes | None = None
    initial_source: bytes | None = None
    retry_source: bytes | None = None
    reset_token: bytes | None = None
    idle_milliseconds: int = 0
    max_udp_payload: int = 65527
    max_data: int = 0
    stream_data_bidi_local: int = 0
    stream_data_bidi_remote: int = 0
    stream_data_uni: int = 0
    max_streams_bidi: int = 0
    max_streams_uni: int = 0
    ack_delay_exponent: int = 3
    max_ack_delay_milliseconds: int = 25
    active_connection_ids: int = 2
    disable_migration: bool = False


_DEFAULTS = Parameters()


def encode(parameters: Parameters) -> bytes:
    """Ours; what has its default is left out."""
    parts = []
    for number, name in _IDS.items():
        if (value := getattr(parameters, name)) is not None:
            parts.append(_varint(number) + _varint(len(value)) + value)
    for number, name in _INTEGERS.items():
        if (integer := getattr(parameters, name)) != getattr(_DEFAULTS, name):
            body = _varint(integer)
            parts.append(_varint(number) + _varint(len(body)) + body)
    if parameters.disable_migration:
        parts.append(_varint(_DISABLE_MIGRATION) + b"\0")
    return b"".join(parts)


def decode(data: bytes, *, from_dialer: bool) -> Parameters:
    """The peer's; unknown ones are ignored. RemoteProtocolError for doubles, bad and misplaced ones."""
    found = Parameters()
    seen: set[int] = set()
    at = 0
    while at < len(data):
        number, at = _read_varint(data, at)
        size, at = _read_varint(data, at)
        if at + size > len(data):
            raise RemoteProtocolError("transport parameter is cut")
        value, at = data[at : at + size], at + size
        if number in seen:
            raise RemoteProtocolError(f"transport parameter {number:#x} comes twice")
        if from_dialer and number in _LISTENER_ONLY:
            raise RemoteProtocolError(f"transport parameter {number:#x} is not for dialers")
        seen.add(number)
        _apply(found, number, value)
    return found


def _apply(found: Parameters, number: int, value: bytes) -> None:
    if number in _INTEGERS:
        name = _INTEGERS[number]
        integer, end = _read_varint(value, 0)
        least, most = _BOUNDS.get(name, (0, _MAX_VARINT))
        if end != len(value) or not least <= integer <= most:
            raise RemoteProtocolError(f"transport parameter {name} has a value that is not allowed")
        setattr(found, name, integer)
    elif number in _IDS:
        if len(value) > 20 or (number == 0x02 and len(value) != 16):
            raise RemoteProtocolError(f"transport parameter {_IDS[number]} has a wrong length")
        setattr(found, _IDS[number], value)
    elif number == _DISABLE_MIGRATION:
        if value:
            raise RemoteProtocolError("transport parameter disable_migration has a value")
        found.disable_migration = True


def _varint(value: int) -> bytes:
    for prefix, size in enumerate((1, 2, 4, 8)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(f"{value} is too large for a QUIC integer")


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    if at >= len(data):
        raise RemoteProtocolError("transport parameters are cut")
    size = 1 << (data[at] >> 6)
    if at + size > len(data):
        raise RemoteProtocolError("transport parameters are cut")
    return int.from_bytes(data[at : at + size], "big") & ((1 << (8 * size - 2)) - 1), at + size
