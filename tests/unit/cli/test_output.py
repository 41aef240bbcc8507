"""Printing: nothing foreign drives a terminal, JSON keeps its promises."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.cli.exits import Problem
from talos.cli.output import Output, printable, short


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 🙂 …", "plain é 漢 🙂 …"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x1b]52;c;aGk=\x07", "\\x1b]52;c;aGk=\\x07"),
        ("a\nb\r\tc\x00\x7f\x9b", "a\\x0ab\\x0d\\x09c\\x00\\x7f\\x9b"),
        ("\u202egnp.exe\u2066\u200f\u061c", "\\u202egnp.exe\\u2066\\u200f\\u061c"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\udc80\ud800", "\\udc80\\ud800"),
        ("[red]:smile:", "[red]:smile:"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(exclude_categories=())))
def test_what_is_printable_stays_and_can_be_encoded(text: str) -> None:
    shown = printable(text)
    shown.encode()
    assert printable(shown) == shown
    assert not any(ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0 for character in shown)


def test_short_keeps_both_ends() -> None:
    assert short("12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs") == "12D3KooWCwdo…1Mjs"
    assert short("bob") == "bob"


def test_streams(capsys: pytest.CaptureFixture[str]) -> None:
    for quiet, verbose, said in ((False, False, ["n"]), (True, True, []), (False, True, ["n", "d"])):
        out = Output(quiet=quiet, verbose=verbose)
        out.line("a\x1b")
        out.note("n")
        out.detail("d")
        captured = capsys.readouterr()
        assert captured.out == "a\\x1b\n"
        assert captured.err.split() == said
    Output(quiet=True).warn("w\n")
    assert capsys.readouterr().err == "talos: warning: w\\x0a\n"


def test_errors_are_lines_with_at_most_eight_tries(capsys: pytest.CaptureFixture[str]) -> None:
    tried = tuple(f"/ip4/192.0.2.{number}\x1b" for number in range(20))
    Output().problem(Problem(code="unreachable", message="cannot\nreach", hint="talos\x07", tried=tried))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "talos: error: cannot\\x0areach"
    assert lines[1:9] == [f"  tried /ip4/192.0.2.{number}\\x1b" for number in range(8)]
    assert lines[9:] == ["  and 12 more", "talos: hint: talos\\x07"]


def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    Output().emit(
        "call", name="é\u202e", big=2**53 + 1, small=2**53, yes=True, none=None, deep=[{"n": 2**60}], pair=(1, 2)
    )
    line = capsys.readouterr().out
    assert line.isascii()
    assert json.loads(line) == {
        "v": 1,
        "kind": "call",
        "name": "é\u202e",
        "big": str(2**53 + 1),
        "small": 2**53,
        "yes": True,
        "none": None,
        "deep": [{"n": str(2**60)}],
        "pair": [1, 2],
    }


def test_json_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Output(as_json=True).problem(Problem(code="failed", message="é", tried=("a",)))
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.isascii()
    assert json.loads(captured.err) == {
        "v": 1, "kind": "error", "code": "failed", "exit": 1, "message": "é", "hint": None, "tried": ["a"],
    }  # fmt: skip
