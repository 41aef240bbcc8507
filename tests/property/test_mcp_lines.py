"""Lines: however they are cut and whichever way they are looked into, the same is found."""

from __future__ import annotations

import inspect as inspect_module
import itertools
import json
import sys
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from talos.mcp.framing import Inspection, Kind, LineDecoder, LineInfo, LongLine, inspect
from talos.mcp.line_info import KNOWN_KEYS
from talos.mcp.scanner import Scanner

if TYPE_CHECKING:
    from types import ModuleType

SPACE = st.sampled_from(["", "", "", " ", "\t", "\r", " \t "])
WORDS = [
    "jsonrpc",
    "2.0",
    "initialize",
    "notifications/cancelled",
    "tools/call",
    "a\\b",
    '"',
    "é",
    "\u2028",
    "[{",
    "]}",
]
TEXT = st.one_of(st.sampled_from([*KNOWN_KEYS, *WORDS]), st.text(max_size=8))
KEYS = st.sampled_from([*KNOWN_KEYS, "ID", "Method", "paramſ", "_meta", "requestId", "protocolVersion", "x"])
META = "io.modelcontextprotocol/protocolVersion"


@st.composite
def spelt_text(draw: st.DrawFn, texts: st.SearchStrategy[str] = TEXT) -> str:
    """A JSON string, in plain or with odd escapes."""
    text = draw(texts)
    style = draw(st.sampled_from(["plain", "ascii", "escaped"]))
    if style == "escaped":
        return '"' + "".join(f"\\u{unit:04x}" for unit in _utf16(text)) + '"'
    return json.dumps(text, ensure_ascii=style == "ascii")


def _utf16(text: str) -> list[int]:
    raw = text.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(raw[i : i + 2], "big") for i in range(0, len(raw), 2)]


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(
        ["0", "-0", "1.0", "1e2", "-1.50E-3", "1e99999999999999999999", "9" * 1023, "9" * 1025, "9" * 5000]
    ),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
SCALARS = st.one_of(spelt_text(), NUMBERS, st.sampled_from(["true", "false", "null", "NaN", "-Infinity", "Infinity"]))


@st.composite
def containers(draw: st.DrawFn, inner: st.SearchStrategy[str], keys: st.SearchStrategy[str] = KEYS) -> str:
    def pad(text: str) -> str:
        return draw(SPACE) + text + draw(SPACE)

    if draw(st.booleans()):
        return "[" + (",".join(pad(item) for item in draw(st.lists(inner, max_size=4))) or draw(SPACE)) + "]"
    pairs = draw(st.lists(st.tuples(spelt_text(keys), inner), max_size=5))
    return "{" + (",".join(f"{pad(key)}:{pad(value)}" for key, value in pairs) or draw(SPACE)) + "}"


VALUES = st.recursive(SCALARS, lambda inner: containers(inner, st.sampled_from([META, "a", "id"])), max_leaves=8)


@st.composite
def messages(draw: st.DrawFn) -> str:
    """Mostly JSON-RPC messages, as odd as JSON allows."""
    meta = st.tuples(st.just(f'"{META}"'), VALUES).map(lambda pair: "{" + ":".join(pair) + "}")
    params = st.one_of(containers(st.one_of(SCALARS, VALUES, meta)), meta.map(lambda m: '{"_meta":' + m + "}"), VALUES)
    value = {"params": params, "id": SCALARS, "method": spelt_text()}
    pairs = []
    for key in draw(st.lists(KEYS, max_size=6)):
        usual = draw(st.integers(0, 3)) > 0
        pairs.append((draw(spelt_text(st.just(key))), draw(value.get(key, VALUES) if usual else VALUES)))
    return draw(SPACE) + "{" + ",".join(f"{k}:{draw(SPACE)}{v}{draw(SPACE)}" for k, v in pairs) + "}" + draw(SPACE)


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    message = draw(
        st.one_of(messages(), messages(), VALUES, st.lists(messages(), max_size=3).map(lambda m: f"[{','.join(m)}]"))
    )
    line = message.encode("utf-8", "surrogatepass" if draw(st.booleans()) else "backslashreplace")
    match draw(st.integers(0, 9)):
        case 0:
            line = b"\xef\xbb\xbf" + line
        case 1:
            line += draw(st.sampled_from([b"}", b" x", b",", b"\x00", b"{}", b"\xff"]))
        case 2:
            line = line[: draw(st.integers(0, len(line)))]
        case _:
            pass
    return line.replace(b"\n", b" ")


def scanned(line: bytes, cuts: list[int]) -> LineInfo:
    scanner = Scanner()
    edges = [0, *sorted(min(cut, len(line)) for cut in cuts), len(line)]
    for start, end in itertools.pairwise(edges):
        scanner.feed(line[start:end])
    return scanner.finish()


@given(lines(), st.lists(st.integers(0, 400), max_size=12))
@example(b'{"id":"\\', [])
@example(b'{"id":1,"method":"m","params":{"NAME":1,"name":"n","name":"o"}}', [3])
def test_scanning_finds_what_parsing_finds(line: bytes, cuts: list[int]) -> None:
    assert scanned(line, cuts) == inspect(line)


@given(lines())
def test_every_cut_gives_the_same(line: bytes) -> None:
    assert scanned(line, list(range(len(line)))) == inspect(line)


@given(messages().map(str.encode), st.integers(65_000, 70_000))
def test_a_long_line_is_what_its_short_form_is(message: bytes, pad: int) -> None:
    line = message.rstrip() + b" " * pad
    steps = Inspection(line)
    for _ in steps:
        pass
    assert steps.info == inspect(message) == inspect(line)


@given(
    st.lists(st.one_of(lines(), st.binary(max_size=20), st.just(b"x" * 70)), max_size=8),
    st.lists(st.integers(0, 600), max_size=10),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_lines_are_cut_out_whole(content: list[bytes], cuts: list[int], ending: bytes, unended: bool) -> None:
    limit = 60
    content = [line.replace(b"\n", b"") for line in content]
    data = ending.join(content) + (b"" if unended else ending)
    expected = [piece[:-1] if piece[-1:] == b"\r" else piece for piece in data.split(b"\n")]
    expected = [piece for piece in expected if piece.strip(b" \t\r")]
    decoder = LineDecoder(limit)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    got = [item for start, end in itertools.pairwise(edges) for item in decoder.receive_data(data[start:end])]
    got = [item for item in [*got, *decoder.end()] if item is not None]
    assert len(got) == len([piece for piece in expected if piece])
    for item, piece in zip(got, expected, strict=True):
        if len(piece) <= limit:
            assert item == piece
        else:
            assert isinstance(item, LongLine)
            assert item.size == len(piece)
            assert item.info == inspect(piece)


@given(st.integers(), st.text(max_size=20))
def test_ids_are_equal_by_type_and_value(number: int, text: str) -> None:
    def key(raw: str) -> object:
        info = inspect(f'{{"id":{raw},"method":"m"}}'.encode("utf-8", "surrogatepass"))
        assert info.kind is Kind.REQUEST
        return info.id_key

    assert key(str(number)) == key(f"{number}.0") == key(f"{number}e0")
    assert key(str(number)) != key(f'"{number}"')
    assert key(json.dumps(text)) == key(json.dumps(text, ensure_ascii=False))


def tokens_of(version: tuple[int, int, int]) -> ModuleType:
    """The tokens as another Python reads them."""
    spec = find_spec("talos.mcp.tokens")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    with mock.patch.object(sys, "version_info", version):
        spec.loader.exec_module(module)
    return module


OLD, NEW = tokens_of((3, 11, 4)), tokens_of((3, 11, 5))
MATCHERS = [name for name, value in vars(OLD).items() if inspect_module.isbuiltin(value) and value.__name__ == "match"]
FRAGMENTS = [
    *'"\\[]{},:',
    '"a"',
    '"k":',
    '"\\n',
    "1",
    "1.5e3",
    "1.",
    "true",
    "tru",
    "N",
    " ",
    "[1]",
    "[[{}]]",
    '{"a":[1]}',
]


@pytest.mark.skipif(sys.version_info < (3, 11, 5), reason="this Python has held groups wrong")
@given(st.one_of(lines(), st.lists(st.sampled_from(FRAGMENTS), max_size=40).map(lambda found: "".join(found).encode())))
def test_groups_that_may_go_back_find_what_held_ones_find(data: bytes) -> None:
    assert len(MATCHERS) == 12
    assert OLD.HELD != NEW.HELD
    for name in MATCHERS:
        old, new = (getattr(module, name)(data, 0) for module in (OLD, NEW))
        assert (old and old.end()) == (new and new.end()), name
