"""Whole files put where their owner finds them: linked under a name that is free, never over anything, never outside.

Everything happens below directory descriptors that were opened without following links. All of it runs in threads.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

from talos.errors import TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.names import distinct, numbered, safe_file_name, safe_path
from talos.messaging.files.part import open_directory, part_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.messaging.files.manifest import FileEntry

__all__ = ["free_name", "link_directory", "link_file", "planned_paths"]

MAX_NUMBER = 10_000


def planned_paths(files: Sequence[FileEntry], *, directory: bool) -> list[tuple[str, ...]]:
    """Where each file goes below its directory, or the one name of a lone file.

    TransferFailed(NAME_REFUSED) for lists that no honest sender makes.
    """
    if not directory:
        if len(files) != 1:
            raise TransferFailed("several files without a directory", code=FileCode.NAME_REFUSED)
        return [(safe_file_name(files[0].path),)]
    paths = distinct(safe_path(entry.path) for entry in files)
    inner = {path[:depth] for path in paths for depth in range(1, len(path))}
    if not inner.isdisjoint(paths):
        raise TransferFailed("a file where a directory is to be", code=FileCode.NAME_REFUSED)
    return paths


def free_name(downloads: int, wanted: str) -> str:
    """`wanted`, or the first numbered form of it that nothing has."""
    name, number = wanted, 0
    while _exists(downloads, name):
        number += 1
        if number > MAX_NUMBER:
            raise TransferFailed("too many files of that name", code=FileCode.NAME_REFUSED)
        name = numbered(wanted, number)
    return name


def link_file(downloads: int, parts: int, name: str) -> bool:
    """Links the lone part under `name`, for good; False when something else has that name by now."""
    done = _link(parts, 1, downloads, name)
    os.fsync(downloads)
    return done


def link_directory(downloads: int, parts: int, name: str, paths: Sequence[tuple[str, ...]]) -> None:
    """Links all parts below the directory `name`, for good; what was linked before a crash stays."""
    with ExitStack() as opened:
        top = open_directory(name, parent=downloads)
        opened.callback(os.close, top)
        _link_below(top, parts, paths)
    os.fsync(downloads)


def _link_below(top: int, parts: int, paths: Sequence[tuple[str, ...]]) -> None:
    """Directory by directory, so that few are open at once."""
    by_directory: dict[tuple[str, ...], list[tuple[int, str]]] = {}
    for number, path in enumerate(paths, 1):
        by_directory.setdefault(path[:-1], []).append((number, path[-1]))
    for directory, files in by_directory.items():
        with ExitStack() as opened:
            chain = [top]
            for part in directory:
                chain.append(open_directory(part, parent=chain[-1]))
                opened.callback(os.close, chain[-1])
            for number, name in files:
                while not _link(parts, number, chain[-1], name):
                    name = free_name(chain[-1], name)
            for descriptor in reversed(chain):
                os.fsync(descriptor)


def _link(parts: int, number: int, directory: int, name: str) -> bool:
    part = part_name(number)
    try:
        os.link(part, name, src_dir_fd=parts, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        there = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return os.path.samestat(there, os.stat(part, dir_fd=parts, follow_symlinks=False))
    return True


def _exists(directory: int, name: str) -> bool:
    try:
        os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
