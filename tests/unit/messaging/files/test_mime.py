"""Types by content, held against file(1), and the limits that follow."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
import zipfile
from typing import TYPE_CHECKING

import pytest

from talos.messaging.files.mime import FileClass, FileType, TypeLimits, recognise

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1024 * 1024


def _zip() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("data.bin", b"content")
    return made.getvalue()


def _wave() -> bytes:
    made = io.BytesIO()
    with wave.open(made, "wb") as sound:
        sound.setparams((1, 2, 8000, 8, "NONE", ""))
        sound.writeframes(bytes(16))
    return made.getvalue()


SAMPLES = {
    "photo.jpg": (b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0", "image/jpeg", FileClass.IMAGE),
    "a.png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\x08\2\0\0\0", "image/png", FileClass.IMAGE),
    "a.gif": (b"GIF89a\1\0\1\0\0\0\0;", "image/gif", FileClass.IMAGE),
    "a.webp": (b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0/\0\0\0", "image/webp", FileClass.IMAGE),
    "a.wav": (_wave(), "audio/x-wav", FileClass.AUDIO),
    "a.ogg": (
        b"OggS\0\2" + bytes(8) + b"\1\2\3\4\0\0\0\0\0\0\0\0\1\x1e\1vorbis" + bytes(23),
        "audio/ogg",
        FileClass.AUDIO,
    ),
    "a.flac": (b"fLaC\0\0\0\x22\x10\0\x10\0\0\0\0\0\0\0\x0a\xc4\x42\xf0" + bytes(20), "audio/flac", FileClass.AUDIO),
    "a.mp3": (b"ID3\3\0\0\0\0\0\0" + b"\xff\xfb\x90\x00" + bytes(413), "audio/mpeg", FileClass.AUDIO),
    "b.mp3": (b"\xff\xfb\x90\x00" + bytes(413) + b"\xff\xfb\x90\x00" + bytes(413), "audio/mpeg", FileClass.AUDIO),
    "a.mp4": (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video/mp4", FileClass.VIDEO),
    "a.mov": (b"\0\0\0\x14ftypqt  \0\0\0\0qt  ", "video/quicktime", FileClass.VIDEO),
    "a.webm": (
        b"\x1a\x45\xdf\xa3\x9f\x42\x86\x81\1\x42\xf7\x81\1\x42\xf2\x81\4\x42\xf3\x81\x08\x42\x82\x84webm",
        "video/webm",
        FileClass.VIDEO,
    ),
    "a.pdf": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "application/pdf", FileClass.DOCUMENT),
    "a.zip": (_zip(), "application/zip", FileClass.DOCUMENT),
    "a.txt": ("Grüße aus der Küche\n".encode(), "text/plain", FileClass.DOCUMENT),
    "b.txt": ("\ufeffwide".encode("utf-16-le"), "text/plain", FileClass.DOCUMENT),
    "a.bin": (b"\0\1\2\3\4\xff\xfe", "application/octet-stream", FileClass.OTHER),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_types_are_recognised_as_file_does(name: str, tmp_path: Path) -> None:
    data, mime, kind = SAMPLES[name]
    assert recognise(data, whole=True) == (mime, kind)
    if shutil.which("file") is None:
        pytest.skip("file(1) is not here to compare with")
    (tmp_path / name).write_bytes(data)
    told = subprocess.run(
        ["file", "--brief", "--mime-type", tmp_path / name],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert told == mime


@pytest.mark.parametrize(
    ("data", "whole", "text"),
    [
        (b"", True, False),
        (b"plain", True, True),
        (b"with a \x1b[31m colour", True, True),
        (b"a\0b", True, False),
        (b"a\x7fb", True, False),
        (b"latin \xe9t", True, False),
        ("cut é".encode()[:-1], False, True),
        ("cut é".encode()[:-1], True, False),
        (b"\xff\xfea\0\0\0", True, False),
        (b"\xff\xfea\0b", False, True),
        (b"\xff\xfea\0b", True, False),
    ],
)
def test_texts(data: bytes, *, whole: bool, text: bool) -> None:
    assert (recognise(data, whole=whole).mime == "text/plain") is text


@pytest.mark.parametrize(
    "head", [b"\xff", b"\xff\xfb\xf0\x00", b"\xff\xfb\x9c\x00", b"\xff\xeb\x90\x00", b"\xff\xfd\x90\x00"]
)
def test_what_is_no_mp3(head: bytes) -> None:
    assert recognise(head, whole=True).kind is FileClass.OTHER


def test_a_name_can_only_lower_the_limit() -> None:
    limits = TypeLimits()
    picture, video = recognise(SAMPLES["a.png"][0], whole=True), recognise(SAMPLES["a.mp4"][0], whole=True)
    assert picture.limit("a.png", limits) == 50 * MIB
    assert picture.limit("a.mp4", limits) == 50 * MIB, "content decides"
    assert video.limit("a.mp4", limits) == 2048 * MIB
    assert video.limit("a.JPG", limits) == 50 * MIB, "claims to be smaller"
    assert video.limit("noext", limits) == 2048 * MIB
    assert FileType("x", FileClass.OTHER).limit("a.mp3", limits) == 100 * MIB
