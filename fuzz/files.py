"""Frames of files, lists of files, and names in them, as peers send them; and a plan that is fed whatever comes."""

from __future__ import annotations

from talos.errors import RemoteProtocolError, TransferFailed
from talos.messaging.files.config import FileConfig
from talos.messaging.files.frames import Chunk, Want, decode, encode
from talos.messaging.files.machine import Pull
from talos.messaging.files.manifest import Manifest
from talos.messaging.files.names import safe_file_name
from talos.messaging.files.place import planned_paths
from talos.messaging.files.rules import check_files

CONFIG = FileConfig()
MAX_CHUNKS = 4096


def target(data: bytes) -> None:
    """A frame that comes back as it was; a list whose names stay inside; or the declared errors."""
    frame(data)
    files(data)


def frame(data: bytes) -> None:
    try:
        found = decode(data)
    except RemoteProtocolError:
        return
    if decode(encode(found)) != found:
        raise AssertionError("a frame changed on its way")


def files(data: bytes) -> None:
    try:
        manifest = Manifest.decode(data)
        check_files(manifest, CONFIG, directory=True)
    except TransferFailed:
        return
    if Manifest.decode(manifest.encode()) != manifest:
        raise AssertionError("a list changed on its way")
    paths = planned_paths(manifest.files, directory=True)
    for entry, path in zip(manifest.files, paths, strict=True):
        for part in (*path, safe_file_name(entry.path)):
            if (
                part in ("", ".", "..")
                or "/" in part
                or "\\" in part
                or part.startswith(".")
                or len(part.encode()) > 255
            ):
                raise AssertionError("a name that is not harmless")
    if len(set(paths)) != len(paths):
        raise AssertionError("two files in one place")
    pull(manifest, data)


def pull(manifest: Manifest, data: bytes) -> None:
    """The window holds, whichever chunks come in whatever order."""
    if sum(entry.chunks for entry in manifest.files) > MAX_CHUNKS:
        return
    plan = Pull(manifest.files, window_bytes=CONFIG.window_bytes, ahead=2)
    asked: list[Want] = []
    for byte in data:
        for number in plan.begin():
            plan.ready(number, [index for index in range(plan.entry(number).chunks) if (index ^ byte) & 3])
        asked += plan.wants()
        if plan.open_bytes > max(CONFIG.window_bytes, 1 << 20):
            raise AssertionError("more was asked for than fits")
        want = asked[byte % len(asked)] if asked else Want(byte, 0, 1)
        index = want.first + byte % max(1, want.count)
        deliver(plan, want.file, index, right=bool(byte & 0x80))


def deliver(plan: Pull, file: int, index: int, *, right: bool) -> None:
    entry = plan.entry(1) if file < 1 or file > plan.count else plan.entry(file)
    size = entry.chunk_bytes(index) + 16 if index < entry.chunks else 16
    try:
        plan.came(Chunk(file, index, index == entry.chunks - 1, bytes(size)))
        if right:
            plan.kept(file, index)
        else:
            plan.bad(file, index)
    except (RemoteProtocolError, TransferFailed):
        return
