"""Chunks in their order: whole streams, gaps, repeats, and what breaks a stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import ConfigError, RemoteProtocolError
from talos.messaging.content import StreamEnd
from talos.messaging.files.manifest import tree_root
from talos.messaging.live.config import MAX_CHUNK_BYTES, LiveLimits
from talos.messaging.live.machine import Assembly, Numbering
from talos.messaging.live.tree import Tree, leaf_hash

if TYPE_CHECKING:
    from talos.messaging.payload import ChunkInfo

ID = bytes(range(16))
LIMITS = LiveLimits(ahead_chunks=8, ahead_bytes=128 * 1024, unanswered=4)


def numbered(chunks: list[bytes]) -> tuple[list[tuple[ChunkInfo, bytes]], StreamEnd]:
    numbering = Numbering(ID)
    made = [(numbering.next(chunk), chunk) for chunk in chunks]
    end = StreamEnd(stream_id=ID, bytes_total=numbering.bytes_total, chunks=numbering.chunks, root=numbering.root())
    return made, end


CHUNKS = [bytes([number]) * (number + 1) for number in range(6)]


def test_a_whole_stream() -> None:
    made, end = numbered(CHUNKS)
    assembly = Assembly(LIMITS, lossy=False)
    assert [assembly.place(*one) for one in made] == [[chunk] for chunk in CHUNKS]
    assembly.finish(end)
    assert (assembly.received, assembly.missing, assembly.repeated) == (6, 0, 0)
    empty = Assembly(LIMITS, lossy=False)
    empty.finish(numbered([])[1])


@given(st.permutations(range(6)), st.lists(st.integers(0, 5), max_size=6))
def test_any_order_and_any_repeats_give_the_same(order: list[int], again: list[int]) -> None:
    made, end = numbered(CHUNKS)
    assembly, shown = Assembly(LIMITS, lossy=False), []
    for index in [*again, *order]:
        shown += assembly.place(*made[index])
    assert shown == CHUNKS
    assert assembly.repeated == len(again)
    assert assembly.ahead_bytes == 0
    assembly.finish(end)


@given(st.lists(st.integers(0, 5), max_size=12))
def test_a_lossy_stream_shows_what_comes_and_counts_the_rest(order: list[int]) -> None:
    made, end = numbered(CHUNKS)
    assembly, shown = Assembly(LIMITS, lossy=True), []
    for index in order:
        shown += assembly.place(*made[index])
    assert shown == sorted(set(shown), key=shown.index), "each once"
    assert [chunk[0] for chunk in shown] == sorted(chunk[0] for chunk in shown)
    assembly.finish(end)
    assert assembly.received + assembly.missing == 6


HOSTILE: dict[str, dict[str, Any]] = {
    "another hash": {"hash": bytes(32)},
    "another size": {"size": 3},
    "an index beyond all numbers": {"index": 2**63},
    "an offset beyond all numbers": {"offset": 2**63},
    "a total beyond all numbers": {"total": 2**63},
    "a gap before it": {"offset": 100},
    "behind its own end": {"total": 2, "index": 2},
    "last of more": {"last": True, "total": 9},
    "too far ahead": {"index": 1 + 8},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_breaks_a_stream(name: str) -> None:
    made, _ = numbered(CHUNKS)
    assembly = Assembly(LIMITS, lossy=False)
    assembly.place(*made[0])
    info, data = made[1]
    with pytest.raises(RemoteProtocolError):
        assembly.place(replace(info, **HOSTILE[name]), data)


def test_too_long_a_chunk() -> None:
    data = bytes(MAX_CHUNK_BYTES + 1)
    info = replace(Numbering(ID).next(data), size=len(data))
    with pytest.raises(RemoteProtocolError, match="65537"):
        Assembly(LIMITS, lossy=False).place(info, data)


def test_two_chunks_in_one_place_and_two_ends() -> None:
    made, end = numbered(CHUNKS)
    assembly = Assembly(LIMITS, lossy=False)
    assembly.place(*made[2])
    other = replace(made[2][0], hash=leaf_hash(b"xyz"))
    with pytest.raises(RemoteProtocolError, match="one place"):
        assembly.place(other, b"xyz")
    for first, second in (({"total": 6}, {"total": 7}), ({"total": 6}, {"last": True}), ({"last": True}, {})):
        assembly = Assembly(LIMITS, lossy=False)
        assembly.place(replace(made[0][0], **first), made[0][1])
        with pytest.raises(RemoteProtocolError, match=r"two places|behind"):
            assembly.place(replace(made[1][0], **second), made[1][1])
    assembly = Assembly(LIMITS, lossy=False)
    assembly.place(replace(made[0][0], last=True), made[0][1])
    with pytest.raises(RemoteProtocolError, match="announced"):
        assembly.finish(end)


def test_what_is_ahead_is_bounded_by_bytes() -> None:
    big = [bytes(MAX_CHUNK_BYTES)] * 4
    made, _ = numbered(big)
    assembly = Assembly(LIMITS, lossy=False)
    assembly.place(*made[1])
    assembly.place(*made[2])
    assert assembly.ahead_bytes == 128 * 1024
    with pytest.raises(RemoteProtocolError, match="far ahead"):
        assembly.place(*made[3])


@pytest.mark.parametrize(
    "change", [{"chunks": 5}, {"chunks": 7}, {"bytes_total": 1}, {"bytes_total": 99}, {"root": bytes(32)}]
)
def test_ends_that_are_not_what_came(change: dict[str, Any]) -> None:
    made, end = numbered(CHUNKS)
    assembly = Assembly(LIMITS, lossy=False)
    for one in made:
        assembly.place(*one)
    with pytest.raises(RemoteProtocolError):
        assembly.finish(replace(end, **change))


def test_a_lossy_stream_breaks_too() -> None:
    made, end = numbered(CHUNKS)
    assembly = Assembly(LIMITS, lossy=True)
    assembly.place(*made[2])
    for offset, index in ((7, 3), (1, 5)):
        with pytest.raises(RemoteProtocolError, match="begin"):
            assembly.place(replace(made[index][0], offset=offset), made[index][1])
    assert assembly.place(*made[0]) == []
    assembly.finish(end)
    assert (assembly.missing, assembly.repeated) == (5, 1)
    whole = Assembly(LIMITS, lossy=True)
    for one in made:
        whole.place(*one)
    with pytest.raises(RemoteProtocolError, match="root"):
        whole.finish(replace(end, root=bytes(32)))


@given(st.lists(st.binary(max_size=4), max_size=40))
def test_the_root_is_that_of_files(chunks: list[bytes]) -> None:
    """RFC 6962, made in one go."""
    tree = Tree()
    for chunk in chunks:
        tree.add(leaf_hash(chunk))
    assert tree.root() == tree_root([leaf_hash(chunk) for chunk in chunks])


def test_limits_that_make_no_sense() -> None:
    for change in ({"streams": 0}, {"ahead_bytes": 1}, {"unanswered": 300}):
        with pytest.raises(ConfigError):
            LiveLimits(**change)
