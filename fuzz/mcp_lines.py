"""Lines from anywhere: however they are cut, the same is found; parsing and scanning agree where both are strict."""

from __future__ import annotations

from talos.errors import RemoteProtocolError
from talos.mcp.framing import LineDecoder, LongLine, Problem, inspect, is_deep, members, printable
from talos.mcp.scanner import Scanner

MAX_LINE = 200


def target(data: bytes) -> None:
    try:
        whole = lines([data])
        bytewise = lines([data[at : at + 1] for at in range(len(data))])
    except RemoteProtocolError as error:  # a line is judged, never refused
        raise AssertionError(data) from error
    assert whole == bytewise
    for line in data.split(b"\n"):
        agree(line)


def lines(pieces: list[bytes]) -> list[object]:
    decoder = LineDecoder(MAX_LINE)
    found: list[object] = []
    for piece in pieces:
        found += [item for item in decoder.receive_data(piece) if item is not None]
    found += [item for item in decoder.end() if item is not None]
    assert all(isinstance(item, LongLine) or (isinstance(item, bytes) and 0 < len(item) <= MAX_LINE) for item in found)
    return found


def agree(line: bytes) -> None:
    parsed = inspect(line)
    members(line)
    assert printable(line).isprintable()
    assert (parsed.id_raw is None) == (parsed.id_key is None)
    scanner = Scanner()
    for at in range(0, len(line), 3):
        scanner.feed(line[at : at + 3])
    scanned = scanner.finish()
    if is_deep(line):
        assert scanned == parsed
    # Below depth 2 the scanner follows brackets and strings only: what parsing refuses there, it may take.
    elif Problem.BAD_JSON not in parsed.problems:
        assert scanned == parsed, (line, scanned, parsed)
