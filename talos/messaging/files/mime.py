"""What a file is, by its content; its name can only make it smaller."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["HEAD_BYTES", "FileClass", "FileType", "TypeLimits", "recognise"]

HEAD_BYTES = 4096
"""How much of a file's beginning `recognise` wants."""
MIB = 1024 * 1024


class FileClass(enum.Enum):
    """What limits go by."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    DOCUMENT = "document"
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeLimits:
    """Largest sizes in bytes, by class."""

    image: int = 50 * MIB
    audio: int = 200 * MIB
    video: int = 2048 * MIB
    document: int = 100 * MIB
    other: int = 100 * MIB

    def of(self, kind: FileClass) -> int:
        return {
            FileClass.IMAGE: self.image,
            FileClass.AUDIO: self.audio,
            FileClass.VIDEO: self.video,
            FileClass.DOCUMENT: self.document,
            FileClass.OTHER: self.other,
        }[kind]


class FileType(NamedTuple):
    """What the content is."""

    mime: str
    kind: FileClass

    def limit(self, name: str, limits: TypeLimits) -> int:
        """The largest size for it under this name: the smaller one where the extension claims another class."""
        claimed = _CLASS_OF.get(name.rpartition(".")[2].lower(), self.kind)
        return min(limits.of(self.kind), limits.of(claimed))


_IMAGE, _AUDIO, _VIDEO = FileClass.IMAGE, FileClass.AUDIO, FileClass.VIDEO
_CLASS_OF = {
    **dict.fromkeys(("jpg", "jpeg", "png", "gif", "webp"), _IMAGE),
    **dict.fromkeys(("mp3", "wav", "ogg", "flac"), _AUDIO),
    **dict.fromkeys(("mp4", "mov", "webm"), _VIDEO),
    **dict.fromkeys(("pdf", "zip", "doc", "docx", "txt"), FileClass.DOCUMENT),
}

_MAGIC: tuple[tuple[re.Pattern[bytes], FileType], ...] = tuple(
    (re.compile(pattern, re.DOTALL), FileType(mime, kind))
    for pattern, mime, kind in (
        (rb"\xff\xd8\xff", "image/jpeg", _IMAGE),
        (rb"\x89PNG\r\n\x1a\n", "image/png", _IMAGE),
        (rb"GIF8[79]a", "image/gif", _IMAGE),
        (rb"RIFF.{4}WEBP", "image/webp", _IMAGE),
        (rb"RIFF.{4}WAVE", "audio/x-wav", _AUDIO),
        (rb"OggS", "audio/ogg", _AUDIO),
        (rb"fLaC", "audio/flac", _AUDIO),
        (rb"ID3[\x02-\x04]", "audio/mpeg", _AUDIO),
        (rb".{4}ftypqt  ", "video/quicktime", _VIDEO),
        (rb".{4}(moov|mdat|wide|free|skip)", "video/quicktime", _VIDEO),
        (rb".{4}ftyp", "video/mp4", _VIDEO),
        (rb"\x1a\x45\xdf\xa3.{0,64}\x42\x82.{1,8}webm", "video/webm", _VIDEO),
        (rb"PK(\x03\x04|\x05\x06)", "application/zip", FileClass.DOCUMENT),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "application/msword", FileClass.DOCUMENT),
    )
)
_PDF_WITHIN = 1024
_TEXT_CONTROLS = re.compile(rb"[\x00-\x06\x0e-\x1a\x1c-\x1f\x7f]")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_MP3_RATES = (1, 14)
_LONGEST_UTF8 = 4


def recognise(head: bytes, *, whole: bool) -> FileType:
    """The type of a file that begins with `head`; `whole` when that is all of it."""
    for pattern, found in _MAGIC:
        if pattern.match(head):
            return found
    if _is_mp3_frame(head):
        return FileType("audio/mpeg", _AUDIO)
    if b"%PDF-" in head[:_PDF_WITHIN]:
        return FileType("application/pdf", FileClass.DOCUMENT)
    if head and _is_text(head, whole=whole):
        return FileType("text/plain", FileClass.DOCUMENT)
    return FileType("application/octet-stream", FileClass.OTHER)


def _is_mp3_frame(head: bytes) -> bool:
    """An MPEG audio frame: eleven ones, a layer III, and rates that exist."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2 or head[1] & 0x18 == 0x08:
        return False
    return _MP3_RATES[0] <= head[2] >> 4 <= _MP3_RATES[1] and head[2] & 0x0C != 0x0C


def _is_text(head: bytes, *, whole: bool) -> bool:
    if head.startswith(_UTF16_MARKS):
        encoding = "utf-16"
        head = head if whole else head[: len(head) & ~1]
        try:
            return "\0" not in head.decode(encoding, "strict" if whole else "ignore")
        except UnicodeDecodeError:
            return False
    if _TEXT_CONTROLS.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return not whole and error.start > len(head) - _LONGEST_UTF8 and error.reason == "unexpected end of data"
    return True
