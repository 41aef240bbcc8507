"""Lines cut out of bytes, and what is found in them."""

from __future__ import annotations

import pytest

from talos.errors import LocalProtocolError
from talos.mcp.framing import (
    SMALL_LINE_BYTES,
    Inspection,
    Kind,
    LineDecoder,
    LongLine,
    Problem,
    inspect,
    members,
    printable,
)
from talos.mcp.line_info import MAX_KEYS, LineInfo, id_key
from talos.mcp.scanner import SLICE_BYTES, Scanner

BOTH_WAYS = pytest.mark.parametrize("look", ["parse", "scan"])


def find(line: bytes, look: str = "parse") -> LineInfo:
    if look == "parse":
        return inspect(line)
    scanner = Scanner()
    scanner.feed(line)
    return scanner.finish()


# ----------------------------------------------------------------------------------- what a line is


@BOTH_WAYS
@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"add","arguments":{"a":1}}}',
            LineInfo(Kind.REQUEST, b"1", ("number", 1), "tools/call", "add"),
        ),
        (
            b' { "method" : "resources/read" , "id" : "a\\"b" , "params" : { "uri" : "file:///x" } } ',
            LineInfo(Kind.REQUEST, b'"a\\"b"', ("string", 'a"b'), "resources/read", None, "file:///x"),
        ),
        (b'{"method":"notifications/initialized"}', LineInfo(Kind.NOTIFICATION, method="notifications/initialized")),
        (b'{"id":1.0,"result":{}}', LineInfo(Kind.RESPONSE, b"1.0", ("number", 1))),
        (
            b'{"id":9007199254740993,"error":{"code":1}}',
            LineInfo(Kind.RESPONSE, b"9007199254740993", ("number", 2**53 + 1)),
        ),
        (
            b'{"id":0,"method":"initialize","params":{"protocolVersion":"2025-06-18","_meta":{}}}',
            LineInfo(Kind.REQUEST, b"0", ("number", 0), "initialize", version="2025-06-18"),
        ),
        (
            b'{"id":0,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}}',
            LineInfo(Kind.REQUEST, b"0", ("number", 0), "tools/list", version="2026-07-28"),
        ),
        (
            b'{"method":"notifications/cancelled","params":{"requestId":"r1","reason":"x"}}',
            LineInfo(Kind.NOTIFICATION, method="notifications/cancelled", cancels=("string", "r1")),
        ),
        (b'{"method":"m","params":{"requestId":7}}', LineInfo(Kind.NOTIFICATION, method="m")),
        (b'[{"id":1,"method":"m"},{}]', LineInfo(Kind.BATCH)),
        (b"[]", LineInfo(garbage=True)),
        (b'[{"a":1}, 2]', LineInfo(garbage=True)),
        (b'[2, {"a":1}]', LineInfo(garbage=True)),
        (b"{}", LineInfo()),
        (b'{"id":1}', LineInfo(id_raw=b"1", id_key=("number", 1))),
        (b'{"result":1}', LineInfo()),
        (b'{"id":1,"method":2}', LineInfo(id_raw=b"1", id_key=("number", 1))),
        (b'{"id":1,"method":{"a":[]}}', LineInfo(id_raw=b"1", id_key=("number", 1))),
        (b'{"id":1,"method":"m","params":[1,"a",[],{}]}', LineInfo(Kind.REQUEST, b"1", ("number", 1), "m")),
        (b'{"method":"m","params":{"name":[1],"uri":{"a":2},"_meta":5}}', LineInfo(Kind.NOTIFICATION, method="m")),
        (b'{"id":null,"error":{}}', LineInfo(Kind.RESPONSE, problems=Problem.ID)),
        (b'{"id":[1],"method":"m"}', LineInfo(Kind.REQUEST, method="m", problems=Problem.ID)),
        (b'{"id":true,"method":"m"}', LineInfo(Kind.REQUEST, method="m", problems=Problem.ID)),
        (
            b'{"id":"' + b"x" * 1022 + b'","method":"m"}',
            LineInfo(Kind.REQUEST, b'"' + b"x" * 1022 + b'"', ("string", "x" * 1022), "m"),
        ),
        (b'{"id":"' + b"x" * 1023 + b'","method":"m"}', LineInfo(Kind.REQUEST, method="m", problems=Problem.ID)),
        (
            b'{"id":1,"id":2,"method":"m"}',
            LineInfo(Kind.REQUEST, b"2", ("number", 2), "m", problems=Problem.DUPLICATE_KEY),
        ),
        (
            b'{"method":"m","params":{"name":"a","n\\u0061me":"b"}}',
            LineInfo(Kind.NOTIFICATION, method="m", name="b", problems=Problem.DUPLICATE_KEY),
        ),
        (b'{"method":"m","params":{"x":{"a":1,"a":2}}}', LineInfo(Kind.NOTIFICATION, method="m")),
        (b'{"method":"m","Method":"n"}', LineInfo(Kind.NOTIFICATION, method="m", problems=Problem.CASE)),
        (
            '{"method":"m","params":{"argumentſ":1}}'.encode(),
            LineInfo(Kind.NOTIFICATION, method="m", problems=Problem.CASE),
        ),
        (b'{"method":"m","params":{"x":[NaN]}}', LineInfo(Kind.NOTIFICATION, method="m", problems=Problem.CONSTANT)),
        (b'{"method":"m","x":-Infinity}', LineInfo(Kind.NOTIFICATION, method="m", problems=Problem.CONSTANT)),
        (b'{"method":"NaN"}', LineInfo(Kind.NOTIFICATION, method="NaN")),
        (b'\xef\xbb\xbf{"method":"m"}', LineInfo(Kind.NOTIFICATION, method="m", problems=Problem.BOM)),
        (b'{"method":"m","x":"\xff"}', LineInfo(Kind.NOTIFICATION, method="m", problems=Problem.NOT_UTF8)),
        (b'{"method":"m"} x', LineInfo(problems=Problem.TRAILING, garbage=True)),
        (b'{"method":"m"}\xe2\x80', LineInfo(problems=Problem.TRAILING | Problem.NOT_UTF8, garbage=True)),
        (b'{"method":"m"', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"method":"m",}', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"method" "m"}', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"method":"\x01"}', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"method":"\\x"}', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"a":[1 2]}', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"a":01}', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"a":tru}', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"a":[[', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b'{"a":[["\\', LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b"{1:2}", LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b"Server listening on stdio", LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        (b"\xff", LineInfo(problems=Problem.BAD_JSON | Problem.NOT_UTF8, garbage=True)),
        (b"17", LineInfo(problems=Problem.BAD_JSON, garbage=True)),
    ],
)
def test_what_a_line_is(line: bytes, expected: LineInfo, look: str) -> None:
    assert find(line, look) == expected


@BOTH_WAYS
def test_more_keys_than_are_compared(look: str) -> None:
    many = b",".join(b'"k%d":1' % number for number in range(MAX_KEYS - 1))
    assert find(b'{"method":"m",' + many + b"}", look) == LineInfo(Kind.NOTIFICATION, method="m")
    assert find(b'{"method":"m","x":1,' + many + b"}", look) == LineInfo(problems=Problem.KEYS)
    again = b'{"method":"m","method":"m",' + many + b',"y":[1,{"a":[]}]}'
    assert find(again, look) == LineInfo(problems=Problem.KEYS)
    params = b'{"method":"m","params":{"name":"n","x":1,' + many + b',"uri":"u","z":{"a":[]}}}'
    assert find(params, look) == LineInfo(Kind.NOTIFICATION, method="m", problems=Problem.KEYS)


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_depth_is_counted(opening: bytes) -> None:
    def nested(depth: int) -> bytes:
        closing = b"]" if opening == b"[" else b"}"
        return b'{"id":1,"method":"m","params":' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"

    for depth in (50, 101, 102, 300, 512):
        assert inspect(nested(depth)) == LineInfo(Kind.REQUEST, b"1", ("number", 1), "m")
    for depth in (513, 5000):
        assert inspect(nested(depth)) == LineInfo(Kind.REQUEST, b"1", ("number", 1), "m", problems=Problem.DEPTH)
    assert inspect(b"[" * 200_000).problems == Problem.BAD_JSON


def test_wide_lines_are_parsed_whole() -> None:
    line = b'{"id":1,"result":{"a":[' + b'{"x":"]}"},' * 200 + b"{}]}}"
    assert inspect(line).kind is Kind.RESPONSE
    assert inspect(line.replace(b"{}]", b"{]]")).problems == Problem.BAD_JSON


@pytest.mark.parametrize("at", ["id", "method", "key", "params", "meta", "skipped", "number", "batch"])
def test_long_texts_are_passed_over_in_slices(at: str) -> None:
    long = b"x" * (3 * SMALL_LINE_BYTES)
    line, expected = {
        "id": (b'{"method":"m","id":"' + long + b'"}', LineInfo(Kind.REQUEST, method="m", problems=Problem.ID)),
        "method": (b'{"id":1,"method":"' + long + b'"}', LineInfo(id_raw=b"1", id_key=("number", 1))),
        "key": (b'{"id":1,"method":"m","' + long + b'":1}', LineInfo(problems=Problem.KEYS)),
        "params": (
            b'{"id":1,"method":"m","params":{"uri":"u","name":"' + long + b'"}}',
            LineInfo(Kind.REQUEST, b"1", ("number", 1), "m", uri="u"),
        ),
        "meta": (
            b'{"id":1,"method":"m","params":{"_meta":{"a":["' + long + b'"]}}}',
            LineInfo(Kind.REQUEST, b"1", ("number", 1), "m"),
        ),
        "skipped": (
            b'{"id":1,"result":{"a":["' + long + b'\\"",[{"b":"\\\\"}]],"c":[{}]}}',
            LineInfo(Kind.RESPONSE, b"1", ("number", 1)),
        ),
        "number": (b'{"a":' + b"1" * len(long) + b"}", LineInfo(problems=Problem.BAD_JSON, garbage=True)),
        "batch": (b'[{"a":"' + long + b'"},{"b":[' + b"1," * len(long) + b"1]}]", LineInfo(Kind.BATCH)),
    }[at]
    steps = Inspection(line)
    with pytest.raises(LocalProtocolError, match="not finished"):
        _ = steps.info
    count = sum(1 for _ in steps)
    assert count == -(-len(line) // SLICE_BYTES)
    assert steps.info == expected
    assert inspect(line) == expected


def test_a_short_line_needs_no_steps() -> None:
    steps = Inspection(b"{}")
    assert list(steps) == []
    assert steps.info == LineInfo()


def test_a_meta_that_cannot_be_read_names_no_version() -> None:
    scanner = Scanner()
    scanner.feed(b'{"method":"m","params":{"_meta":{"a" 1}}}')
    assert scanner.finish() == LineInfo(Kind.NOTIFICATION, method="m")


def test_odd_ids_have_keys() -> None:
    assert inspect(b'{"id":1e99999999999999999999,"method":"m"}').id_key == ("number", "1e99999999999999999999")
    assert inspect(b'{"id":15e-1,"method":"m"}').id_key == inspect(b'{"id":1.5,"method":"m"}').id_key
    assert inspect(b'{"id":1.' + b"0" * 2000 + b',"method":"m"}').problems == Problem.ID
    long = b'{"method":"notifications/cancelled","params":{"requestId":1.' + b"0" * 2000 + b"}}"
    assert inspect(long).cancels is None
    assert id_key(5) is None


def test_the_messages_of_a_batch() -> None:
    line = b' [{"id":"a\\u0062","method":"m"},{"method":"n"},{"id":1.50,"result":{}}]'
    assert members(line) == [
        LineInfo(Kind.REQUEST, b'"ab"', ("string", "ab"), "m"),
        LineInfo(Kind.NOTIFICATION, method="n"),
        inspect(b'{"id":1.50,"result":{}}'),
    ]
    assert members(b'{"id":1,"method":"m"}') == []
    assert members(b"[{" + b" " * SMALL_LINE_BYTES + b"}]") == []
    assert members(b'[{"a":' + b"[" * 101 + b"]" * 101 + b"}]") == []


# ----------------------------------------------------------------------------------- cutting


def cut(data: bytes, *, limit: int = 10, size: int | None = None) -> list[bytes | LongLine | None]:
    decoder = LineDecoder(limit)
    size = size or len(data)
    items = [item for at in range(0, len(data), size) for item in decoder.receive_data(data[at : at + size])]
    return [*items, *decoder.end()]


@pytest.mark.parametrize("size", [None, 1, 2, 3])
def test_lines_end_at_line_feeds_only(size: int | None) -> None:
    assert cut("a\u2028\nb\x0b\x0c\n\n\r\n \t\r\nc\r\nd\r\r\n\x85e".encode("latin-1", "ignore"), size=size) == [
        b"a",
        b"b\x0b\x0c",
        b"c",
        b"d\r",
        b"\x85e",
    ]
    assert cut("\u2028\n".encode(), size=size) == ["\u2028".encode()]


@pytest.mark.parametrize("size", [None, 1, 7])
def test_the_longest_line_may_have_a_carriage_return(size: int | None) -> None:
    assert cut(b"0123456789\r\n0123456789\n", size=size) == [b"0123456789"] * 2
    assert cut(b"0123456789", size=size) == [b"0123456789"]
    assert cut(b"0123456789\r", size=size) == [b"0123456789"]


@pytest.mark.parametrize("size", [None, 1, 7])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b""])
def test_a_longer_line_is_looked_into_and_dropped(size: int | None, ending: bytes) -> None:
    line = b'{"id":5,"method":"m"}'
    items = [item for item in cut(line + ending, size=size) if item is not None]
    assert items == [LongLine(len(line), inspect(line))]
    again = [item for item in cut(b"a\n" + line + b"\nb\n", size=size) if item is not None]
    assert again == [b"a", LongLine(len(line), inspect(line)), b"b"]
    one_more = [item for item in cut(b"01234567890" + ending, size=size) if item is not None]
    assert one_more == [LongLine(11, inspect(b"01234567890"))]


def test_a_line_without_end_takes_no_memory() -> None:
    decoder = LineDecoder(100_000)
    assert [item for item in decoder.receive_data(b'{"id":7,"method":"m","params":["') if item is not None] == []
    piece = b"x" * 50_000
    for _ in range(200):
        assert all(item is None for item in decoder.receive_data(piece))
        assert sum(map(len, decoder._pieces)) <= 100_001
        if decoder._scanner is not None:
            assert len(decoder._scanner._data) <= 2 * SLICE_BYTES
    (line,) = [item for item in decoder.receive_data(b'"]}\n') if item is not None]
    assert isinstance(line, LongLine)
    assert (line.size, line.info.id_raw) == (10_000_035, b"7")


def test_others_run_between_the_slices() -> None:
    decoder = LineDecoder(10)
    items = list(decoder.receive_data(b"x" * (5 * SLICE_BYTES) + b"\n"))
    assert items[:5] == [None] * 5
    assert isinstance(items[5], LongLine)


def test_printable() -> None:
    assert printable(b"\x1b[31mred\x07 \xff caf\xc3\xa9") == "\\x1b[31mred\\x07 \\xff caf\\xe9"
    assert printable("\u202e\U0001f600\n") == "\\u202e\\U0001f600\\x0a"
    assert printable(b"x" * 300) == "x" * 256 + "..."
    assert printable("abc", 2) == "ab..."
