"""Sealing and opening of records."""

from __future__ import annotations

import pytest

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.security.noise.record import (
    MAX_PLAINTEXT_BYTES,
    RESERVED_NONCE,
    NoiseRecords,
    RecordReader,
    RecordWriter,
)

KEY = bytes(range(32))


@pytest.mark.parametrize(
    ("size", "records"),
    [(0, 0), (1, 1), (MAX_PLAINTEXT_BYTES, 1), (MAX_PLAINTEXT_BYTES + 1, 2), (200_000, 4)],
)
def test_full_records_in_one_buffer(size: int, records: int) -> None:
    data = bytes(n % 251 for n in range(size))
    sealed = RecordWriter(KEY).seal(data)
    assert len(sealed) == size + records * 18
    if size > MAX_PLAINTEXT_BYTES:
        assert sealed[:2] == b"\xff\xff"
    assert RecordReader(KEY).receive_data(sealed) == data


def test_every_seam() -> None:
    writer = RecordWriter(KEY)
    stream = writer.seal(b"first") + writer.seal(b"second")
    for cut in range(len(stream) + 1):
        reader = RecordReader(KEY)
        assert reader.receive_data(stream[:cut]) + reader.receive_data(stream[cut:]) == b"firstsecond"
        assert not reader.cut_by_end()


def test_byte_by_byte() -> None:
    reader = RecordReader(KEY)
    stream = RecordWriter(KEY).seal(b"x" * 300)
    assert b"".join(reader.receive_data(stream[n : n + 1]) for n in range(len(stream))) == b"x" * 300


def test_empty_records_carry_nothing() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

    empty = b"\x00\x10" + ChaCha20Poly1305(KEY).encrypt(bytes(12), b"", None)
    reader = RecordReader(KEY)
    assert reader.receive_data(empty) == b""
    assert reader.receive_data(RecordWriter(KEY, nonce=1).seal(b"more")) == b"more"


def test_an_end_within_a_record_cuts_it() -> None:
    reader = RecordReader(KEY)
    assert not reader.cut_by_end()
    for piece in (b"\x00", b"\x20", b"abc"):
        reader.receive_data(piece)
        assert reader.cut_by_end()


def test_what_came_before_a_forged_record_is_given_out_once() -> None:
    writer = RecordWriter(KEY)
    stream = writer.seal(b"intact") + writer.seal(b"forged") + writer.seal(b"never")
    stream[-30] ^= 1
    reader = RecordReader(KEY)
    assert reader.receive_data(stream) == b"intact"
    assert reader.failure == "noise record does not decrypt"
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="does not decrypt"):
            reader.receive_data(b"more")


def test_a_forged_record_alone_raises_at_once() -> None:
    stream = RecordWriter(KEY).seal(b"forged")
    stream[5] ^= 1
    with pytest.raises(RemoteProtocolError, match="does not decrypt"):
        RecordReader(KEY).receive_data(stream)


@pytest.mark.parametrize("length", [0, 1, 15])
def test_a_record_without_room_for_its_tag(length: int) -> None:
    data = length.to_bytes(2, "big") + bytes(length)
    with pytest.raises(RemoteProtocolError, match="shorter than its tag"):
        RecordReader(KEY).receive_data(data)
    reader = RecordReader(KEY)
    reader.receive_data(data[:1])
    with pytest.raises(RemoteProtocolError, match="shorter than its tag"):
        reader.receive_data(data[1:])


def test_the_last_nonce_is_never_used() -> None:
    writer = RecordWriter(KEY, nonce=RESERVED_NONCE - 1)
    with pytest.raises(LocalProtocolError, match="used up"):
        writer.seal(bytes(MAX_PLAINTEXT_BYTES + 1))
    last = writer.seal(b"last")
    with pytest.raises(LocalProtocolError, match="used up"):
        writer.seal(b"x")
    reader = RecordReader(KEY, nonce=RESERVED_NONCE - 1)
    assert reader.receive_data(last) == b"last"
    with pytest.raises(RemoteProtocolError, match="used up"):
        reader.receive_data(last)


def test_both_directions() -> None:
    records = NoiseRecords(RecordWriter(KEY), RecordReader(KEY))
    assert records.receive_data(records.seal(b"loop")) == b"loop"
    assert records.failure is None
    assert (records.confirmed, records.ended, records.farewell()) == (True, False, b"")
