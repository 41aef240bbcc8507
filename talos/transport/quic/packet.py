"""What is read of QUIC packets before a connection has them (RFC 8999, RFC 9000 17), and what is answered without one.

Nothing here is encrypted, and nothing is believed: a header only says where a packet is to go.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from talos.errors import RemoteProtocolError

__all__ = [
    "CID_BYTES",
    "MIN_INITIAL_BYTES",
    "VERSION",
    "Header",
    "RetryTokens",
    "Validated",
    "packets_of",
    "read_header",
    "read_retry",
    "retry_packet",
    "version_negotiation",
]

VERSION = 1
CID_BYTES = 8
"""Of the connection ids that we give out."""
MAX_CID_BYTES = 20
MIN_INITIAL_BYTES = 1200
"""Of a datagram that opens a connection: what we may send before the address is proven depends on it."""

_LONG, _FIXED = 0x80, 0x40
INITIAL, ZERO_RTT, HANDSHAKE, RETRY = range(4)
_TAG_BYTES = 16
# RFC 9001 5.8
_RETRY_KEY = bytes.fromhex("be0c690b9f66575a1d766b54e368c84e")
_RETRY_NONCE = bytes.fromhex("461599d35d632bf2239825bb")


@dataclass(slots=True)
class Header:
    """Of a packet with a long header; `kind` and `end` mean something for our version only."""

    version: int
    kind: int
    destination: bytes
    source: bytes
    token: bytes
    end: int
    """Where the packet ends in its datagram."""


def read_header(data: bytes, start: int = 0) -> Header | None:
    """The long header at `start`; None for a short one. RemoteProtocolError when it is cut or impossible."""
    if not data[start] & _LONG:
        return None
    try:
        version = int.from_bytes(data[start + 1 : start + 5], "big")
        destination, at = _take_short(data, start + 5)
        source, at = _take_short(data, at)
        kind = data[start] >> 4 & 0x3
        if version != VERSION or kind == RETRY:
            return Header(version, kind, destination, source, b"", len(data))
        token = b""
        if kind == INITIAL:
            size, at = _take_varint(data, at)
            token, at = _take(data, at, size)
        size, at = _take_varint(data, at)
    except IndexError:
        raise RemoteProtocolError("QUIC header is cut") from None
    if max(len(destination), len(source)) > MAX_CID_BYTES or at + size > len(data):
        raise RemoteProtocolError("QUIC header has an impossible length")
    return Header(version, kind, destination, source, token, at + size)


def packets_of(datagram: bytes) -> list[tuple[bytes, Header | None]]:
    """The packets that share a datagram, all its bytes: what cannot be read stays with the packet before it.

    Some pad a datagram behind its last packet; the padding counts for what may be answered.
    """
    packets: list[tuple[bytes, Header | None]] = []
    at = 0
    while at < len(datagram):
        try:
            header = read_header(datagram, at) if datagram[at] & _FIXED or not packets else _UNREADABLE
        except RemoteProtocolError:
            header = _UNREADABLE
        if header is _UNREADABLE:
            if packets:
                last, known = packets[-1]
                packets[-1] = (last + datagram[at:], known)
            break
        end = len(datagram) if header is None else header.end
        packets.append((datagram[at:end], header))
        at = end
    return packets


_UNREADABLE = Header(0, 0, b"", b"", b"", 0)


def _take(data: bytes, at: int, size: int) -> tuple[bytes, int]:
    if at + size > len(data):
        raise IndexError
    return data[at : at + size], at + size


def _take_short(data: bytes, at: int) -> tuple[bytes, int]:
    return _take(data, at + 1, data[at])


def _take_varint(data: bytes, at: int) -> tuple[int, int]:
    size = 1 << (data[at] >> 6)
    raw, at = _take(data, at, size)
    return int.from_bytes(raw, "big") & ((1 << (8 * size - 2)) - 1), at


def version_negotiation(header: Header, unused: int) -> bytes:
    """The answer to a version that is not ours; `unused` is a random byte for the bits that mean nothing."""
    return b"".join(
        (
            bytes((_LONG | unused,)),
            bytes(4),
            bytes((len(header.source),)),
            header.source,
            bytes((len(header.destination),)),
            header.destination,
            VERSION.to_bytes(4, "big"),
        )
    )


def retry_packet(header: Header, source: bytes, token: bytes) -> bytes:
    """Asks whoever sent the Initial with that header to come again with `token`, to the id `source`."""
    packet = b"".join(
        (
            bytes((_LONG | _FIXED | RETRY << 4,)),
            VERSION.to_bytes(4, "big"),
            bytes((len(header.source),)),
            header.source,
            bytes((len(source),)),
            source,
            token,
        )
    )
    return packet + _retry_tag(packet, header.destination)


def read_retry(datagram: bytes, header: Header, original: bytes) -> bytes | None:
    """The token of a Retry that answers our Initial to `original`; None when its tag says that it does not."""
    body, tag = datagram[:-_TAG_BYTES], datagram[-_TAG_BYTES:]
    token = body[7 + len(header.destination) + len(header.source) :]
    if not token or not hmac.compare_digest(tag, _retry_tag(body, original)):
        return None
    return token


def _retry_tag(packet: bytes, original: bytes) -> bytes:
    return AESGCM(_RETRY_KEY).encrypt(_RETRY_NONCE, b"", bytes((len(original),)) + original + packet)


@dataclass(slots=True)
class Validated:
    """What a Retry token proves: the address, and which connection id the first Initial went to."""

    original: bytes


class RetryTokens:
    """Tokens bound to an address and a time under a `secret` that never leaves this object; nothing is stored."""

    def __init__(self, secret: bytes, *, seconds: float) -> None:
        self._secret = secret
        self._seconds = seconds

    def make(self, address: str, original: bytes, source: bytes, now: float) -> bytes:
        """For whoever receives at `address`; it is to be used with the connection id `source`."""
        body = int((now + self._seconds) * 1000).to_bytes(8, "big") + original
        return body + self._mac(address, source, body)

    def check(self, token: bytes, address: str, source: bytes, now: float) -> Validated | None:
        """None for what is not ours, is too old, or was made for somebody else."""
        body, mac = token[:-_TAG_BYTES], token[-_TAG_BYTES:]
        if len(body) < 8 or not hmac.compare_digest(mac, self._mac(address, source, body)):
            return None
        if int.from_bytes(body[:8], "big") < now * 1000:
            return None
        return Validated(body[8:])

    def _mac(self, address: str, source: bytes, body: bytes) -> bytes:
        where = address.encode()
        data = b"".join((bytes((len(where),)), where, bytes((len(source),)), source, body))
        return hmac.digest(self._secret, data, hashlib.sha256)[:_TAG_BYTES]
