"""Addresses from bytes: a strict walk over the components, before the library sees any of them."""

from __future__ import annotations

from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as LibraryError

from talos.errors import MessageTooLarge, RemoteProtocolError
from talos.identity.peer_id import PeerId
from talos.wire import varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAX_ADDR_BYTES = 1024
MAX_COMPONENTS = 16

VAR, FLAG = -1, 0
PROTOCOLS: tuple[tuple[str, int, int], ...] = (
    # name, code, size of the value in bytes
    ("ip4", 4, 4),
    ("tcp", 6, 2),
    ("ip6", 41, 16),
    ("ip6zone", 42, VAR),
    ("ipcidr", 43, 1),
    ("dns", 53, VAR),
    ("dns4", 54, VAR),
    ("dns6", 55, VAR),
    ("dnsaddr", 56, VAR),
    ("udp", 273, 2),
    ("webrtc-direct", 280, FLAG),
    ("webrtc", 281, FLAG),
    ("p2p-circuit", 290, FLAG),
    ("unix", 400, VAR),
    ("p2p", 421, VAR),
    ("https", 443, FLAG),
    ("onion3", 445, 37),
    ("garlic64", 446, VAR),
    ("garlic32", 447, VAR),
    ("tls", 448, FLAG),
    ("sni", 449, VAR),
    ("noise", 454, FLAG),
    ("quic", 460, FLAG),
    ("quic-v1", 461, FLAG),
    ("webtransport", 465, FLAG),
    ("certhash", 466, VAR),
    ("ws", 477, FLAG),
    ("wss", 478, FLAG),
    ("http", 480, FLAG),
    ("http-path", 481, VAR),
    # Variable in the public table, eight bytes in the library. These addresses never leave the process.
    ("memory", 777, 8),
)
_MEMORY = varint.encode(777)
_BY_NAME = {name: (code, size) for name, code, size in PROTOCOLS}
_BY_CODE = {code: (name, size) for name, code, size in PROTOCOLS}


_MAX_NAME_LENGTH = 253
# What would let a name be read as another address, or as more than a name, once it is text.
_NOT_IN_NAMES = frozenset("/\\%?#\x7f" + "".join(map(chr, range(0x21))))
_IN_ZONES = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-")
_NOT_IN_PATHS = frozenset("\0\\")


class Component(NamedTuple):
    """One part of an address: the protocol's name and its value in bytes (empty for a flag)."""

    name: str
    value: bytes


def decode(data: bytes) -> Multiaddr:
    """The address in `data`; RemoteProtocolError when it is malformed, over a limit, or has an unknown protocol.

    An address in a message goes through `decode_known` or `decode_or_skip` instead: there an unknown protocol
    is no fault of the peer.
    """
    addr = decode_or_skip(data)
    if addr is None:
        raise RemoteProtocolError("address with a protocol that is not known here")
    return addr


def decode_or_skip(data: bytes) -> Multiaddr | None:
    """The address in `data`, or None when it has a protocol that is not known here: keep such bytes as they are.

    RemoteProtocolError for what is malformed, of no or over 16 components; MessageTooLarge over 1 KiB.
    """
    if len(data) > MAX_ADDR_BYTES:
        raise MessageTooLarge(f"address of {len(data)} bytes is over the limit of {MAX_ADDR_BYTES}")
    return _decode(bytes(data))


def decode_known(items: Iterable[bytes], *, limit: int) -> list[Multiaddr]:
    """The addresses of a message without those of unknown protocols, of the first `limit` that it names.

    RemoteProtocolError when one of them is malformed.
    """
    return [addr for item in islice(items, limit) if (addr := decode_or_skip(item)) is not None]


def decode_each(items: Iterable[bytes], *, limit: int | None = None) -> Iterator[Multiaddr]:
    """As `decode_known`, where one that is malformed says nothing against the others."""
    for item in islice(items, limit):
        try:
            addr = decode_or_skip(item)
        except RemoteProtocolError:
            continue
        if addr is not None:
            yield addr


@lru_cache(maxsize=2048)
def _decode(data: bytes) -> Multiaddr | None:
    try:
        walked = _walk(data)
    except RemoteProtocolError:
        if data.startswith(_MEMORY):
            return None  # a foreign one, with a length: of no use here, and no fault
        raise
    if walked is None:
        return None
    if not walked:
        raise RemoteProtocolError("address without a component")
    addr = Multiaddr(data)
    try:
        str(addr)  # values of the rarer protocols are known to the library alone
    except (LibraryError, ValueError) as error:
        raise RemoteProtocolError("address with a value that its protocol cannot have") from error
    return addr


def _walk(data: bytes) -> tuple[Component, ...] | None:
    """The components of `data`, or None at the first unknown protocol, behind which nothing can be told."""
    parts: list[Component] = []
    offset = 0
    while offset < len(data):
        if len(parts) == MAX_COMPONENTS:
            raise RemoteProtocolError(f"address of more than {MAX_COMPONENTS} components")
        code, offset = _varint(data, offset)
        known = _BY_CODE.get(code)
        if known is None:
            return None
        name, size = known
        if size == VAR:
            size, offset = _varint(data, offset)
            if size == 0:
                raise RemoteProtocolError(f"address with an empty {name}")
        value = data[offset : offset + size]
        offset += size
        if offset > len(data):
            raise RemoteProtocolError(f"address is cut off in its {name}")
        _check_value(name, value)
        parts.append(Component(name, value))
    return tuple(parts)


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    decoded = varint.decode(data, offset)
    if decoded is None:
        raise RemoteProtocolError("address is cut off")
    return decoded


def _check_value(name: str, value: bytes) -> None:
    """What the library takes, but would print as another address."""
    if name == "p2p":
        PeerId.from_bytes(value)
    elif name in ("dns", "dns4", "dns6", "dnsaddr", "sni"):
        text = _text(name, value)
        _require(len(text) <= _MAX_NAME_LENGTH and _NOT_IN_NAMES.isdisjoint(text), name)
    elif name == "ip6zone":
        _require(_IN_ZONES.issuperset(_text(name, value)), name)
    elif name == "unix":
        path = _text(name, value)
        # The library writes paths without their first slash.
        _require(path.strip("/") == path and _NOT_IN_PATHS.isdisjoint(path), name)


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"address with a {name} that is not UTF-8") from error


def _require(condition: bool, name: str) -> None:  # noqa: FBT001 - an assertion
    if not condition:
        raise RemoteProtocolError(f"address with a {name} of characters or a length that it cannot have")


def encode(parts: Iterable[Component]) -> bytes:
    """The bytes of an address of these parts, which were checked before."""
    data = bytearray()
    for name, value in parts:
        code, size = _BY_NAME[name]
        data += varint.encode(code) + (varint.encode(len(value)) if size == VAR else b"") + value
    return bytes(data)


@lru_cache(maxsize=2048)
def _components(data: bytes) -> tuple[Component, ...]:
    walked = _walk(data)
    if walked is None:
        raise RemoteProtocolError("address with a protocol that is not known here")
    return walked


def components(addr: Multiaddr) -> tuple[Component, ...]:
    """The parts of `addr` in order."""
    return _components(addr.to_bytes())
