"""The page of the protocol says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from talos.mcp.detail import Tag
from talos.mcp.transcript import Transcript, Way, msg_id
from talos.mcp.wire import CloseCode, Open, Status, line_header
from talos.wire import length_prefix

PAGE = (Path(__file__).parents[3] / "docs" / "protocols" / "mcp.md").read_text()
DIGITS = re.sub(r"\s+", "", PAGE)


def test_the_opening_and_a_line_are_those_of_the_page() -> None:
    message = Open(
        server="files", nonce=b"n" * 32, max_line=65_536, window=65_536, features=("resume",), agent="talos/1"
    )
    assert length_prefix.frame(message.encode()).hex() in DIGITS
    assert (line_header(1, 0, 2) + b"{}").hex() in DIGITS


def test_the_known_answer_is_that_of_the_page() -> None:
    known = Transcript(b"\x01" * 32, b"\x02" * 32, b"\x03" * 16)
    line_hash = known.line_hash(Way.UP, 1, b'{"jsonrpc":"2.0","id":1,"method":"ping"}')
    known.advance(Way.UP, 1, line_hash)
    for value in (known.session_commit, msg_id(known.session, Way.UP, 1), line_hash, known.heads[Way.UP]):
        assert value.hex() in PAGE


def test_every_number_of_the_format_is_on_the_page() -> None:
    for status in Status:
        if status is not Status.UNSET:
            assert f"{status.value} {status.name}" in PAGE
    assert len(CloseCode) == 9
    assert "8 grant withdrawn" in PAGE
    for tag in Tag:
        assert re.search(rf"\| {tag.value} \| ", PAGE), tag
