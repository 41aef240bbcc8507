"""Codecs: those that are built in, those that are not, and what a peer's chunk may do to them."""

from __future__ import annotations

import importlib.metadata
from typing import Any

import pytest

from talos.errors import ConfigError, NotSupported
from talos.messaging.live.codec import RESERVED, Codec, CodecRegistry


@pytest.mark.parametrize(
    ("name", "value", "chunk"),
    [
        ("identity", b"\x00\xff", b"\x00\xff"),
        ("identity", bytearray(b"ab"), b"ab"),
        ("utf-8", "Grüße", "Grüße".encode()),
        ("json", {"x": [1, None, "ü"]}, b'{"x":[1,null,"\\u00fc"]}'),
    ],
)
def test_what_is_said_comes_back(name: str, value: Any, chunk: bytes) -> None:
    codec = CodecRegistry().get(name)
    assert codec.encode(value) == chunk
    assert codec.decoded(chunk) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("identity", "text"),
        ("utf-8", b"bytes"),
        ("utf-8", "\ud800"),
        ("json", float("nan")),
        ("json", object()),
    ],
)
def test_what_a_codec_does_not_take(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r".+"):
        CodecRegistry().get(name).encode(value)


@pytest.mark.parametrize(
    ("name", "chunk"),
    [
        ("utf-8", b"\xff"),
        ("utf-8", "ü".encode()[:1]),
        ("json", b"\xff"),
        ("json", b""),
        ("json", b"{"),
        ("json", b"NaN"),
        ("json", b"[-Infinity]"),
        ("json", b"[" * 65_000),
        ("json", b'{"a":' * 100),
        ("json", b"9" * 5000),
    ],
)
def test_hostile_chunks_are_value_errors(name: str, chunk: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        CodecRegistry().get(name).decoded(chunk)


def test_a_chunk_does_not_become_more_than_it_may() -> None:
    bomb = Codec(
        name="bomb", media_types=("x/y",), encode=lambda value: value, decode=lambda data: data * 1000, max_output=4096
    )
    assert len(bomb.decoded(b"1234")) == 4000
    with pytest.raises(ValueError, match="5000 long"):
        bomb.decoded(b"12345")


def test_names() -> None:
    registry = CodecRegistry()
    assert registry.names == ("identity", "utf-8", "json")
    for name in RESERVED:
        with pytest.raises(NotSupported):
            registry.get(name)
        assert not registry.knows(name, "audio/ogg")
    with pytest.raises(ConfigError, match="no codec is called 'mp3'"):
        registry.get("mp3")
    assert registry.knows("identity", "audio/ogg")
    assert registry.knows("utf-8", "text/plain")
    assert not registry.knows("utf-8", "image/png")
    assert registry.knows("json", "application/json")
    assert not registry.knows("json", "application/jsonp")


def test_others_are_plugged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    opus = Codec(name="opus", media_types=("audio/",), encode=bytes, decode=bytes)
    assert CodecRegistry((opus,)).get("opus") is opus
    with pytest.raises(ConfigError, match="two codecs"):
        CodecRegistry((opus, opus))
    with pytest.raises(ConfigError):
        Codec(name="", media_types=("audio/",), encode=bytes, decode=bytes)

    class Entry:
        def __init__(self, found: object) -> None:
            self.load = lambda: found

    groups: list[str] = []

    def entry_points(*, group: str) -> list[Entry]:
        groups.append(group)
        return [Entry(opus)]

    monkeypatch.setattr(importlib.metadata, "entry_points", entry_points)
    assert CodecRegistry.installed().get("opus") is opus
    assert groups == ["talos.codec"]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [Entry(group)])
    with pytest.raises(ConfigError, match="no codec"):
        CodecRegistry.installed()
