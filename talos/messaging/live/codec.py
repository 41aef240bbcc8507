"""Codecs of live streams: between what an application says and the bytes of a chunk.

A codec turns one value into one chunk. It is asked for by its name when a stream is offered; an offer with a codec that
is not known is declined before any data. Others come with packages that name them in the entry-point group
`talos.codec`, or by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from talos.errors import ConfigError, NotSupported
from talos.messaging.content import MAX_CODEC_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["BUILT_IN", "RESERVED", "Codec", "CodecRegistry"]

GROUP = "talos.codec"
MAX_DEPTH = 64
MAX_OUTPUT_BYTES = 64 * 1024
RESERVED: Final = frozenset(("zstd", "opus", "vp9", "av1"))
"""Names with a meaning that nothing here implements yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Codec:
    """`encode` makes a chunk of a value, `decode` a value of a peer's chunk; each raises ValueError where it cannot."""

    name: str
    media_types: tuple[str, ...]
    """What it carries, such as `text/plain`; one that ends in `/` is the beginning of many, an empty one of all."""
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]
    max_output: int = MAX_OUTPUT_BYTES
    """A decoded value whose length is more is refused."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.name.encode()) <= MAX_CODEC_BYTES or not self.media_types:
            raise ConfigError("a codec has a name of 1 to 64 bytes, and carries something")

    def carries(self, media_type: str) -> bool:
        """Whether it is for such streams."""
        return any(
            media_type.startswith(one) if not one or one.endswith("/") else media_type == one
            for one in self.media_types
        )

    def decoded(self, chunk: bytes) -> Any:
        """The value of a peer's chunk; ValueError when there is none, or it is longer than it may be."""
        value = self.decode(chunk)
        if isinstance(value, bytes | bytearray | str | list | tuple | dict) and len(value) > self.max_output:
            raise ValueError(f"a chunk that becomes {len(value)} long")
        return value


class CodecRegistry:
    """Codecs by name; it does not change."""

    def __init__(self, codecs: Iterable[Codec] = ()) -> None:
        self._codecs: dict[str, Codec] = {}
        for codec in (*BUILT_IN, *codecs):
            if codec.name in self._codecs:
                raise ConfigError(f"two codecs are called {codec.name}")
            self._codecs[codec.name] = codec

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._codecs)

    def get(self, name: str) -> Codec:
        """NotSupported for a name that has a meaning and no codec here, ConfigError for any other one."""
        codec = self._codecs.get(name)
        if codec is None and name in RESERVED:
            raise NotSupported(f"codec {name} is not built in: give one to CodecRegistry")
        if codec is None:
            raise ConfigError(f"no codec is called {name!r}")
        return codec

    def knows(self, name: str, media_type: str) -> bool:
        """Whether a stream of a peer can be read."""
        codec = self._codecs.get(name)
        return codec is not None and codec.carries(media_type)

    @classmethod
    def installed(cls) -> CodecRegistry:
        """With those of the packages that are installed; ConfigError when one of them is no codec."""
        from importlib.metadata import entry_points

        found = [entry.load() for entry in entry_points(group=GROUP)]
        for codec in found:
            if not isinstance(codec, Codec):
                raise ConfigError(f"what entry point group {GROUP} names is no codec: {codec!r}")
        return cls(found)


def _same(value: bytes | bytearray | memoryview) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ValueError(f"bytes are expected, not {type(value).__name__}")  # noqa: TRY004 - a codec's one error
    return bytes(value)


def _to_utf8(value: str) -> bytes:
    if not isinstance(value, str):
        raise ValueError(f"a text is expected, not {type(value).__name__}")  # noqa: TRY004 - a codec's one error
    return value.encode()


def _to_json(value: object) -> bytes:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, RecursionError) as error:
        raise ValueError(f"not to be said in JSON: {error}") from error


def _of_json(chunk: bytes) -> object:
    text = chunk.decode()
    _check_depth(text)
    return json.loads(text, parse_constant=_no_constant)


def _check_depth(text: str) -> None:
    """Brackets in strings count too: what is refused for them has 64 in a row open."""
    depth = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if depth > MAX_DEPTH:
            raise ValueError(f"more than {MAX_DEPTH} levels of JSON")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


BUILT_IN: Final = (
    Codec(name="identity", media_types=("",), encode=_same, decode=_same),
    Codec(name="utf-8", media_types=("text/",), encode=_to_utf8, decode=bytes.decode),
    Codec(
        name="json",
        media_types=("application/json", "application/x-ndjson", "text/"),
        encode=_to_json,
        decode=_of_json,
    ),
)
