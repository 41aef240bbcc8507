"""Frames of `/talos/file/1.0.0`, and those that are none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import RemoteProtocolError
from talos.messaging.files.frames import (
    MAX_FRAME_BYTES,
    Chunk,
    Fault,
    FileDone,
    Frame,
    Hello,
    Leaves,
    Side,
    Want,
    decode,
    encode,
)
from talos.wire.pb import messaging_pb2 as pb

FRAMES = [
    Hello(bytes(range(16)), Side.RECEIVES),
    Want(3, 4, 5),
    Leaves(1, bytes(64)),
    Chunk(1, 2, True, b"sealed"),
    FileDone(7),
    Fault(6, 2),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_there_and_back(frame: Frame) -> None:
    assert decode(encode(frame)) == frame


def test_the_largest_chunk_and_all_leaves_of_the_largest_transfer_fit() -> None:
    assert len(encode(Chunk(10_000, (1 << 32) - 1, True, bytes(1024 * 1024 + 16)))) <= MAX_FRAME_BYTES
    assert len(encode(Leaves(10_000, bytes(32 * 8192)))) <= MAX_FRAME_BYTES


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"",
        pb.FileFrame(hello=pb.FileHello(stream_id=bytes(15), role=1)).SerializeToString(),
        pb.FileFrame(hello=pb.FileHello(stream_id=bytes(16), role=3)).SerializeToString(),
        pb.FileFrame(want=pb.Want(first=1 << 32)).SerializeToString(),
        pb.FileFrame(want=pb.Want(count=1 << 63)).SerializeToString(),
        pb.FileFrame(chunk=pb.Chunk(index=1 << 32)).SerializeToString(),
        pb.FileFrame(leaves=pb.Leaves(hashes=bytes(33))).SerializeToString(),
    ],
)
def test_what_is_no_frame(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 70_000])
@pytest.mark.parametrize(("file", "index", "last"), [(0, 0, False), (1, 0, True), (300, 70_000, False)])
def test_chunks_are_written_as_protobuf_does(size: int, file: int, index: int, *, last: bool) -> None:
    chunk = pb.Chunk(file=file, index=index, last=last, sealed=bytes(size))
    assert encode(Chunk(file, index, last, bytes(size))) == pb.FileFrame(chunk=chunk).SerializeToString()


def test_the_bytes_of_a_chunk_are_not_copied() -> None:
    data = encode(Chunk(3, 0, True, bytes(1000)))
    chunk = decode(data)
    assert isinstance(chunk, Chunk)
    assert isinstance(chunk.sealed, memoryview)
    assert chunk.sealed.obj is data


@pytest.mark.parametrize(
    "data",
    [
        b"\x22\x07" + b"\x22\x01s" + b"\x08\x05\x10\x06",  # the sealed bytes first
        b"\x22\x08" + b"\x08\x05\x10\x06" + b"\x22\x81\x00s",  # a length that is not in its shortest form
        b"\x22\x09" + b"\x08\x05\x10\x06" + b"\x22\x01s" + b"\x28\x01",  # a field that nobody knows, at the end
    ],
)
def test_a_chunk_written_in_another_way_is_the_same_chunk(data: bytes) -> None:
    assert decode(data) == Chunk(5, 6, False, b"s")


@given(st.binary(max_size=60).map(lambda tail: b"\x22" + tail))
def test_a_chunk_in_place_is_what_protobuf_reads(data: bytes) -> None:
    try:
        chunk = decode(data)
    except RemoteProtocolError:
        return
    read = pb.FileFrame.FromString(data)
    if isinstance(chunk, Chunk):
        assert chunk == Chunk(read.chunk.file, read.chunk.index, read.chunk.last, read.chunk.sealed)
    else:
        assert read.WhichOneof("body") != "chunk"
