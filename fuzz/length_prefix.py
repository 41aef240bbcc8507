"""Varints and length prefixes, fed whole and byte by byte: both give the same, or both refuse."""

from __future__ import annotations

from talos.errors import RemoteProtocolError
from talos.wire.length_prefix import LengthPrefixDecoder


def target(data: bytes) -> None:
    whole = _messages([data])
    bytewise = _messages([data[i : i + 1] for i in range(len(data))])
    assert whole == bytewise or (whole is None and bytewise is None), (whole, bytewise)


def _messages(chunks: list[bytes]) -> list[bytes] | None:
    decoder = LengthPrefixDecoder(1000)
    try:
        return [message for chunk in chunks for message in decoder.receive_data(chunk)]
    except RemoteProtocolError:
        return None
