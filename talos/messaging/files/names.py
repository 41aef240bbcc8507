"""Names of others made harmless, before anything of that name exists here."""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["distinct", "numbered", "safe_file_name", "safe_path"]

MAX_PART_BYTES = 255
MAX_PATH_BYTES = 1024
MAX_DEPTH = 32
NAMELESS = "_"

_HARMFUL = re.compile('[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069/\\\\:*?"<>|]')
_DEVICE = re.compile(r"(con|prn|aux|nul|com[1-9¹²³]|lpt[1-9¹²³])(\..*)?", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


def safe_file_name(name: str) -> str:
    """The name under which a lone file is kept: only its last part, whichever separator it came with."""
    return _safe_part(re.split(r"[/\\]", name.rstrip("/\\"))[-1])


def safe_path(path: str) -> tuple[str, ...]:
    """The parts under which a file of a directory is kept.

    TransferFailed(NAME_REFUSED) for a path that leaves its directory, is absolute, or is too deep or too long:
    such a list was not made by an honest sender.
    """
    if len(path.encode("utf-8", "surrogatepass")) > MAX_PATH_BYTES:
        raise _refused("longer than 1,024 bytes")
    if "\0" in path or path.startswith("/") or _DRIVE.match(path):
        raise _refused("absolute")
    parts = path.split("/")
    if len(parts) > MAX_DEPTH:
        raise _refused("deeper than 32 directories")
    if any(part in ("", ".", "..") or set(part.split("\\")) & {".."} for part in parts):
        raise _refused("outside its directory")
    return tuple(_safe_part(part) for part in parts)


def distinct(paths: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The paths, in order; those that a case-folding file system would take for an earlier one are numbered."""
    taken: set[tuple[str, ...]] = set()
    made = []
    for path in paths:
        chosen, number = path, 0
        while _folded(chosen) in taken:
            number += 1
            chosen = (*path[:-1], numbered(path[-1], number))
        taken.add(_folded(chosen))
        made.append(chosen)
    return made


def numbered(name: str, number: int) -> str:
    """`name (2).ext`, within the length of a name."""
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    mark = f" ({number}){dot}{extension}"
    return _cut(stem, MAX_PART_BYTES - len(mark.encode())) + mark


def _safe_part(part: str) -> str:
    part = unicodedata.normalize("NFC", part.encode("utf-8", "replace").decode())
    part = _HARMFUL.sub("_", part).rstrip(". ")
    if not part:
        return NAMELESS
    if part.startswith(".") or _DEVICE.fullmatch(part):
        part = "_" + part
    if len(part.encode()) <= MAX_PART_BYTES:
        return part
    stem, dot, extension = part.rpartition(".")
    ending = dot + extension
    if not stem or len(ending.encode()) > MAX_PART_BYTES // 2:
        stem, ending = part, ""
    return _cut(stem, MAX_PART_BYTES - len(ending.encode())) + ending


def _cut(text: str, size: int) -> str:
    return text.encode()[:size].decode("utf-8", "ignore").rstrip(". ")


def _folded(path: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(unicodedata.normalize("NFKC", part).casefold() for part in path)


def _refused(why: str) -> TransferFailed:
    return TransferFailed(f"a file name that is {why}", code=FileCode.NAME_REFUSED)
