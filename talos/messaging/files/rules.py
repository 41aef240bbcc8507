"""What is taken: whose, of which kinds and sizes, under which names, and whether there is room."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.mime import HEAD_BYTES, FileClass, FileType, recognise
from talos.messaging.files.place import planned_paths

if TYPE_CHECKING:
    from pathlib import Path

    from talos.messaging.files.config import FileConfig
    from talos.messaging.files.manifest import FileEntry, Manifest

__all__ = ["check_files", "check_head", "check_room", "folder_bytes"]

KEPT_PART = 10
_CLASSES = {"image": FileClass.IMAGE, "audio": FileClass.AUDIO, "video": FileClass.VIDEO}


def check_files(manifest: Manifest, config: FileConfig, *, directory: bool) -> None:
    """TransferFailed unless a list of files is within the limits, by what it says of itself, and its names can be."""
    if len(manifest.files) > config.entries:
        raise TransferFailed(f"{len(manifest.files)} files; {config.entries} are taken", code=FileCode.TOO_LARGE)
    if manifest.total_size > config.total_bytes:
        raise _too_large(manifest.total_size, config.total_bytes)
    for entry in manifest.files:
        _check_type(entry, _claimed(entry.mime), config)
    planned_paths(manifest.files, directory=directory)


def check_head(entry: FileEntry, head: bytes, config: FileConfig) -> None:
    """The same of one file, by what its first chunk begins with."""
    _check_type(entry, recognise(head[:HEAD_BYTES], whole=entry.size <= HEAD_BYTES), config)


def check_room(downloads: int, wanted: int, config: FileConfig) -> None:
    """TransferFailed(NO_SPACE) when the volume would not keep enough free with `wanted` bytes more."""
    volume = os.fstatvfs(downloads)
    free, total = volume.f_bavail * volume.f_frsize, volume.f_blocks * volume.f_frsize
    if free - wanted < min(total // KEPT_PART, config.free_bytes):
        raise TransferFailed(f"no room for {wanted} bytes", code=FileCode.NO_SPACE)


def folder_bytes(folder: Path) -> int:
    """All that the downloads folder holds, unfinished files once; runs in a thread."""
    total, pending, seen = 0, [os.fspath(folder)], set[tuple[int, int]]()
    while pending:
        # What its owner takes away meanwhile does not count.
        with contextlib.suppress(FileNotFoundError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    pending.append(entry.path)
                elif (place := (status.st_dev, status.st_ino)) not in seen:
                    seen.add(place)
                    total += status.st_size
    return total


def _check_type(entry: FileEntry, kind: FileType, config: FileConfig) -> None:
    if config.known_types_only and kind.kind is FileClass.OTHER:
        raise TransferFailed("a file of no known type", code=FileCode.TYPE_REFUSED)
    limit = kind.limit(entry.path, config.limits)
    if entry.size > limit:
        raise _too_large(entry.size, limit)


def _claimed(mime: str) -> FileType:
    if mime == "application/octet-stream":
        return FileType(mime, FileClass.OTHER)
    return FileType(mime, _CLASSES.get(mime.partition("/")[0], FileClass.DOCUMENT))


def _too_large(size: int, limit: int) -> TransferFailed:
    return TransferFailed(f"{size} bytes; {limit} are taken", code=FileCode.TOO_LARGE)
