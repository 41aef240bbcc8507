"""Names of others: nothing leaves its directory, nothing drives a terminal, nothing is a device."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.names import distinct, numbered, safe_file_name, safe_path

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=400)


@pytest.mark.parametrize(
    ("given_name", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\evil.txt", "evil.txt"),
        ("dir/", "dir"),
        ("", "_"),
        ("..", "_"),
        ("   ", "_"),
        (".bashrc", "_.bashrc"),
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("Com1.tar.gz", "_Com1.tar.gz"),
        ("console.txt", "console.txt"),
        ("a:b*c?.txt", "a_b_c_.txt"),
        ("x\x1b]52;c;aGk=\x07.txt", "x_]52;c;aGk=_.txt"),
        ("exe\u202egpj.scr", "exe_gpj.scr"),
        ("trailing. . ", "trailing"),
        ("e\u0301.txt", "\u00e9.txt"),
        ("\ud800.txt", "?.txt".replace("?", "_")),
    ],
)
def test_lone_files(given_name: str, kept: str) -> None:
    assert safe_file_name(given_name) == kept


@pytest.mark.parametrize("name", ["é" * 400 + ".jpeg", "x" * 300, "x." + "y" * 300])
def test_long_names_are_cut(name: str) -> None:
    kept = safe_file_name(name)
    assert len(kept.encode()) <= 255
    assert kept.endswith(".jpeg") or ".jpeg" not in name


@given(ANY_TEXT)
def test_any_name_becomes_one_harmless_part(name: str) -> None:
    kept = safe_file_name(name)
    assert kept
    assert kept not in (".", "..")
    assert len(kept.encode()) <= 255
    assert not set(kept) & set('/\\:*?"<>|\0')
    assert not any(unicodedata.category(char) == "Cc" for char in kept)
    assert safe_file_name(kept) == kept


@pytest.mark.parametrize(
    "path",
    [
        "/absolute",
        "C:\\windows",
        "c:x",
        "../up",
        "a/../b",
        "a//b",
        "a/./b",
        "a/",
        "",
        "a\0b",
        "a\\..\\b",
        "/".join("d" * 33),
        "x" * 1025,
    ],
)
def test_paths_that_no_honest_sender_makes(path: str) -> None:
    with pytest.raises(TransferFailed) as caught:
        safe_path(path)
    assert caught.value.code == FileCode.NAME_REFUSED


def test_paths_keep_their_shape() -> None:
    assert safe_path("photos/2026/.hidden/a:b.jpg") == ("photos", "2026", "_.hidden", "a_b.jpg")
    assert len(safe_path("/".join("d" * 32))) == 32


def test_case_twins_are_numbered() -> None:
    paths = [("d", "a.txt"), ("d", "A.TXT"), ("D", "a.txt"), ("e", "a.txt"), ("d", "a (1).txt")]
    assert distinct(paths) == [
        ("d", "a.txt"),
        ("d", "A (1).TXT"),
        ("D", "a (2).txt"),
        ("e", "a.txt"),
        ("d", "a (1) (1).txt"),
    ]


@pytest.mark.parametrize(
    ("name", "made"), [("a.txt", "a (7).txt"), ("Makefile", "Makefile (7)"), (".x", ".x (7)"), ("", " (7)")]
)
def test_numbered(name: str, made: str) -> None:
    assert numbered(name, 7) == made


def test_numbered_names_stay_short() -> None:
    assert len(numbered("é" * 127 + ".x", 12).encode()) <= 255
