"""Addresses from text, as people and configurations write them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from multiaddr import Multiaddr
from multiaddr.exceptions import Error as LibraryError

from talos.addr.binary import FLAG, MAX_ADDR_BYTES, PROTOCOLS, VAR, components, decode
from talos.errors import ConfigError, RemoteProtocolError
from talos.identity.peer_id import PeerId
from talos.wire import varint

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_TEXT_LENGTH = 4 * MAX_ADDR_BYTES
"""Characters of an address in text: percent signs and base58 make it longer than its bytes."""

_BY_NAME = {name: (code, size) for name, code, size in PROTOCOLS}


def parse(text: str) -> Multiaddr:
    """The address that `text` writes; ConfigError, which says what is wrong, when it is none.

    `/ipfs/…` is read as `/p2p/…`. A unix path runs to the end of the text, but for a final `/p2p/<peer id>`.
    """
    if len(text) > MAX_TEXT_LENGTH:
        raise ConfigError(f"address is longer than {MAX_TEXT_LENGTH} characters")
    if not text.startswith("/"):
        raise ConfigError(f"address {text!r} does not begin with a slash")
    try:
        return decode(b"".join(_components_of_text(text)))
    except (RemoteProtocolError, UnicodeEncodeError) as error:
        raise ConfigError(f"address {text!r}: {error}") from error


def _components_of_text(text: str) -> Iterable[bytes]:
    rest = text.removesuffix("/").split("/")[1:]
    while rest:
        name = rest.pop(0)
        name = {"ipfs": "p2p"}.get(name, name)
        known = _BY_NAME.get(name)
        if known is None:
            raise ConfigError(f"address {text!r}: {name!r} is not a protocol that is known here")
        code, size = known
        if size == FLAG:
            yield varint.encode(code)
            continue
        if not rest:
            raise ConfigError(f"address {text!r}: {name} has no value")
        if name == "unix":
            value, rest = _unix_path(rest)
        else:
            value = _value_of_text(name, rest.pop(0), text)
        yield varint.encode(code) + (varint.encode(len(value)) if size == VAR else b"") + value


def _value_of_text(name: str, value: str, text: str) -> bytes:
    try:
        if name == "ip4":
            return IPv4Address(value).packed
        if name == "ip6":
            return _ip6(value)
        if name in ("tcp", "udp"):
            return _port(value)
        if name == "p2p":
            return PeerId.parse(value).to_bytes()
        if name in ("dns", "dns4", "dns6", "dnsaddr", "sni", "ip6zone"):
            return value.encode()
        if name == "http-path" and value in _BY_NAME:  # which the library takes for the protocol
            return unquote_to_bytes(value)
        return _rare_value(name, value)
    except (LibraryError, ValueError) as error:
        raise ConfigError(f"address {text!r}: {value!r} is no {name}: {error}") from error


def _ip6(value: str) -> bytes:
    address = IPv6Address(value)
    if address.scope_id is not None:
        raise ValueError("a zone is written /ip6zone/<zone>/ip6/…")
    return address.packed


def _port(value: str) -> bytes:
    if not (value.isascii() and value.isdigit() and len(value) <= 5 and int(value) < 65_536):
        raise ValueError("a port is a number up to 65535")
    return int(value).to_bytes(2, "big")


def _rare_value(name: str, value: str) -> bytes:
    """Values of which the library knows the form."""
    # The length keeps the library's own parsing of numbers within bounds.
    if len(value) > MAX_ADDR_BYTES:
        raise ValueError("too long")
    ((_, body),) = components(Multiaddr(f"/{name}/{value}"))
    return body


def _unix_path(rest: list[str]) -> tuple[bytes, list[str]]:
    """The path of all that is left, and what stands behind it: nothing, or a peer id."""
    tail: list[str] = []
    if len(rest) > 2 and rest[-2] in ("p2p", "ipfs"):
        try:
            PeerId.parse(rest[-1])
        except ConfigError:
            pass  # then these are names of files
        else:
            rest, tail = rest[:-2], rest[-2:]
    return unquote_to_bytes("/".join(rest)).strip(b"/"), tail
