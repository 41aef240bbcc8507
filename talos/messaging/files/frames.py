"""The frames of `/talos/file/1.0.0`: the receiver asks, the sender gives."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from talos.errors import RemoteProtocolError
from talos.wire import varint
from talos.wire.pb import messaging_pb2 as pb

__all__ = [
    "MAX_FRAME_BYTES",
    "PROTOCOL_ID",
    "Chunk",
    "Fault",
    "FileDone",
    "Frame",
    "Hello",
    "Leaves",
    "Side",
    "Want",
    "chunk_head",
    "decode",
    "encode",
]

PROTOCOL_ID = "/talos/file/1.0.0"
MAX_FRAME_BYTES = 1024 * 1024 + 4096
MAX_INDEX = 1 << 32
ID_BYTES = 16
HASH_BYTES = 32
_FOURTH = b"\x22"
"""Of both a frame and a chunk, bytes of which the length follows."""
_CHUNK_HEAD: Final = re.compile(
    rb"\x22(?P<inner>[\x80-\xff]{0,4}[\0-\x7f])"
    rb"(?P<head>(?:[\x08\x10\x18][\x80-\xff]{0,4}[\0-\x7f]){0,3})"
    rb"\x22(?P<sealed>[\x80-\xff]{0,4}[\0-\x7f])"
)
"""What stands before the sealed bytes when these come last, as from everybody who writes fields in order."""


class Side(enum.IntEnum):
    """What whoever says it does."""

    SENDS = 1
    RECEIVES = 2


@dataclass(frozen=True, slots=True)
class Hello:
    """The first frame, of the side that opened the stream."""

    stream_id: bytes
    side: Side


@dataclass(frozen=True, slots=True)
class Want:
    """Chunks `first` … of a file; a `count` of 0 asks for the leaves of its tree. File 0 is the list of files."""

    file: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Leaves:
    """All leaves of a file, 32 bytes each."""

    file: int
    hashes: bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sealed chunk."""

    file: int
    index: int
    last: bool
    sealed: bytes | memoryview


@dataclass(frozen=True, slots=True)
class FileDone:
    """The receiver has the file, verified and in its place."""

    file: int


@dataclass(frozen=True, slots=True)
class Fault:
    """The transfer is over for whoever says it: a `FileCode`."""

    code: int
    file: int = 0


Frame: TypeAlias = Hello | Want | Leaves | Chunk | FileDone | Fault


def encode(frame: Frame) -> bytes:
    match frame:
        case Chunk():
            return _encode_chunk(frame)
        case Want():
            want = pb.Want(file=frame.file, first=frame.first, count=frame.count)
            return pb.FileFrame(want=want).SerializeToString()
        case Leaves():
            return pb.FileFrame(leaves=pb.Leaves(file=frame.file, hashes=frame.hashes)).SerializeToString()
        case Hello():
            hello = pb.FileHello(stream_id=frame.stream_id, role=frame.side)
            return pb.FileFrame(hello=hello).SerializeToString()
        case FileDone():
            return pb.FileFrame(done=pb.FileDone(file=frame.file)).SerializeToString()
        case Fault():
            return pb.FileFrame(error=pb.FileError(code=frame.code, file=frame.file)).SerializeToString()


def _encode_chunk(chunk: Chunk) -> bytes:
    return b"".join((chunk_head(chunk), chunk.sealed))


def chunk_head(chunk: Chunk) -> bytes:
    """What a chunk's frame has before its sealed bytes: as protobuf does, which copies those several times."""
    head = pb.Chunk(file=chunk.file, index=chunk.index, last=chunk.last).SerializeToString()
    if len(chunk.sealed):
        head += _FOURTH + varint.encode(len(chunk.sealed))
    return b"".join((_FOURTH, varint.encode(len(head) + len(chunk.sealed)), head))


def decode(data: bytes) -> Frame:
    """The one frame in `data`, of which the bytes of a chunk are a view; RemoteProtocolError when it is none."""
    if (chunk := _chunk_in_place(data)) is not None:
        return chunk
    try:
        found = pb.FileFrame.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("a frame of files that is no protobuf") from error
    match found.WhichOneof("body"):
        case "chunk":
            return _chunk(found.chunk, found.chunk.sealed)
        case "want":
            return _want(found.want)
        case "leaves":
            if len(found.leaves.hashes) % HASH_BYTES:
                raise RemoteProtocolError("leaves that are no hashes")
            return Leaves(found.leaves.file, found.leaves.hashes)
        case "hello":
            return _hello(found.hello)
        case "done":
            return FileDone(found.done.file)
        case "error":
            return Fault(found.error.code, found.error.file)
        case _:
            raise RemoteProtocolError("a frame of files that is empty")


def _chunk_in_place(data: bytes) -> Chunk | None:
    """A chunk whose sealed bytes are the last of the frame, without copying them; None for any other frame."""
    match = _CHUNK_HEAD.match(data)
    if match is None:
        return None
    size = len(data)
    if match["inner"] != varint.encode(size - match.start("head")):
        return None
    if match["sealed"] != varint.encode(size - match.end()):
        return None
    try:
        head = pb.Chunk.FromString(match["head"])
    except DecodeError:
        return None
    return _chunk(head, memoryview(data)[match.end() :])


def _chunk(found: pb.Chunk, sealed: bytes | memoryview) -> Chunk:
    if found.index >= MAX_INDEX:
        raise RemoteProtocolError("a chunk whose number is over 2^32")
    return Chunk(found.file, found.index, found.last, sealed)


def _want(found: pb.Want) -> Want:
    if found.first >= MAX_INDEX or found.count >= MAX_INDEX:
        raise RemoteProtocolError("chunks are wanted whose numbers are over 2^32")
    return Want(found.file, found.first, found.count)


def _hello(found: pb.FileHello) -> Hello:
    if len(found.stream_id) != ID_BYTES or found.role not in (Side.SENDS, Side.RECEIVES):
        raise RemoteProtocolError("a greeting about no transfer")
    return Hello(found.stream_id, Side(found.role))
