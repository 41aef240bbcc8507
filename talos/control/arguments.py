"""What an operation was asked with: JSON of another process, read by name and checked by type."""

from __future__ import annotations

import base64
import binascii
import math
from typing import TYPE_CHECKING, Final

from talos.control.failure import Failure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from multiaddr import Multiaddr

    from talos.identity.peer_id import PeerId

__all__ = ["Arguments"]

_NEEDED: Final = object()


class Arguments:
    """The arguments of one operation. Each reader raises Failure `usage` for what is missing or of another type."""

    def __init__(
        self,
        values: Mapping[str, object],
        *,
        deadline: float | None = None,
        input: AsyncIterator[bytes] | None = None,  # noqa: A002 - the route's word
    ) -> None:
        self._values = values
        self._deadline = deadline
        self._input = input

    @property
    def input(self) -> AsyncIterator[bytes]:
        """What is piped into the operation, in pieces; a Failure when the asker sends nothing."""
        if self._input is None:
            raise Failure("usage", "this operation is given no input")
        return self._input

    def seconds(self, default: float) -> float:
        """The deadline that was asked for, else the operation's own."""
        return default if self._deadline is None else self._deadline

    def text(self, name: str, default: object = _NEEDED) -> str:
        value = self._value(name, default)
        if not isinstance(value, str):
            raise _wrong(name, "a text")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list; empty when it is missing."""
        value = self._value(name, ())
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise _wrong(name, "a list of texts")
        return tuple(value)

    def flag(self, name: str) -> bool:
        """False when it is missing."""
        value = self._value(name, False)  # noqa: FBT003 - a default
        if not isinstance(value, bool):
            raise _wrong(name, "true or false")
        return value

    def number(
        self, name: str, default: object = _NEEDED, *, least: float = -math.inf, most: float = math.inf
    ) -> float:
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise _wrong(name, f"a number of {least:g} to {most:g}")
        return value

    def count(self, name: str, default: object = _NEEDED, *, least: int = 0, most: int = 1 << 53) -> int:
        """A whole number."""
        value = self.number(name, default, least=least, most=most)
        if not isinstance(value, int):
            raise _wrong(name, "a whole number")
        return value

    def data(self, name: str) -> bytes:
        """Bytes in base64."""
        try:
            return base64.b64decode(self.text(name), validate=True)
        except (binascii.Error, ValueError):
            raise _wrong(name, "base64") from None

    def peer(self, name: str) -> PeerId:
        """A peer id as text."""
        from talos.errors import ConfigError
        from talos.identity.peer_id import PeerId

        try:
            return PeerId.parse(self.text(name))
        except ConfigError as error:
            raise Failure("usage", f"argument {name!r}: {error}") from None

    def addrs(self, name: str) -> tuple[Multiaddr, ...]:
        """Multiaddrs, as they stand; none when it is missing."""
        from talos.addr import parse
        from talos.errors import ConfigError

        try:
            return tuple(parse(text) for text in self.texts(name))
        except ConfigError as error:
            raise Failure("usage", f"argument {name!r}: {error}") from None

    def values(self, name: str) -> Mapping[str, object]:
        """An object; empty when it is missing."""
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise _wrong(name, "an object")
        return value

    def _value(self, name: str, default: object) -> object:
        value = self._values.get(name, default)
        if value is _NEEDED:
            raise Failure("usage", f"argument {name!r} is missing")
        return value


def _wrong(name: str, what: str) -> Failure:
    return Failure("usage", f"argument {name!r} is not {what}")
