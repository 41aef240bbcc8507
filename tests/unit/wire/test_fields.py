import pytest
from hypothesis import given
from hypothesis import strategies as st

from talos.errors import RemoteProtocolError
from talos.wire import fields
from talos.wire.pb import envelope_pb2, peer_record_pb2


def test_reads_each_wire_type() -> None:
    data = b"\x08\x96\x01" + b"\x12\x03abc" + b"\x1d\0\0\0\0" + b"\x21\0\0\0\0\0\0\0\0"
    assert list(fields.read(data)) == [(1, 150), (2, b"abc"), (3, None), (4, None)]


def test_varints_need_not_be_minimal_here_but_fit_64_bits() -> None:
    assert list(fields.read(b"\x08\x81\x00")) == [(1, 1)]
    assert list(fields.read(b"\x08" + b"\xff" * 9 + b"\x01")) == [(1, 2**64 - 1)]


@pytest.mark.parametrize(
    "data",
    [
        b"\x08",
        b"\x08\x80",
        b"\x08" + b"\xff" * 9 + b"\x02",  # 65 bits
        b"\x08" + b"\x80" * 10 + b"\x00",
        b"\x12\x05abc",
        b"\x12",
        b"\x1d\0\0\0",
        b"\x0b\x0c",  # a group
        b"\x0e",  # no such wire type
        b"\x00\x00",  # field 0
        b"\x80\x80\x80\x80\x10\x00",  # field 2^29
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length without end
    ],
)
def test_malformed(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        list(fields.read(data))


def test_singular_bytes() -> None:
    data = fields.bytes_field(1, b"a") + fields.bytes_field(2, b"b") + fields.uint64_field(3, 7)
    assert fields.singular_bytes(data, (1, 2)) == {1: b"a", 2: b"b"}
    with pytest.raises(RemoteProtocolError, match="repeated"):
        fields.singular_bytes(data + fields.bytes_field(1, b"a"), (1, 2))
    with pytest.raises(RemoteProtocolError, match="not a byte string"):
        fields.singular_bytes(data, (1, 3))


@given(
    peer_id=st.binary(max_size=40),
    seq=st.integers(0, 2**63 - 1),
    addrs=st.lists(st.binary(max_size=200), max_size=5),
    field=st.integers(4, 2**29 - 1),
)
def test_agrees_with_the_generated_reader(peer_id: bytes, seq: int, addrs: list[bytes], field: int) -> None:
    data = fields.bytes_field(1, peer_id) + fields.uint64_field(2, seq) + fields.bytes_field(field, b"unknown")
    data += b"".join(fields.bytes_field(3, fields.bytes_field(1, addr)) for addr in addrs)
    message = peer_record_pb2.PeerRecord.FromString(data)
    assert (message.peer_id, message.seq) == (peer_id, seq)
    assert [info.multiaddr for info in message.addresses] == addrs


@given(
    st.lists(st.one_of(st.binary(max_size=12), st.sampled_from([b"\x12\x01a", b"\x1a\x01b", b"\x2a\x01c"])), max_size=6)
)
def test_what_is_accepted_means_the_same_to_the_generated_reader(pieces: list[bytes]) -> None:
    data = b"".join(pieces)
    try:
        found = fields.singular_bytes(data, (1, 2, 3, 5))
    except RemoteProtocolError:
        return
    if 1 in found:
        return  # the key is a message, whose form is another matter
    message = envelope_pb2.Envelope.FromString(data)
    assert message.payload_type == found.get(2, b"")
    assert message.payload == found.get(3, b"")
    assert message.signature == found.get(5, b"")


def test_spans_say_where_fields_stand() -> None:
    long = fields.bytes_field(2, bytes(200))
    pieces = [fields.bytes_field(1, b"ab"), long, fields.uint64_field(3, 300), b"\x21" + bytes(8), b"\x2d" + bytes(4)]
    data = b"".join(pieces)
    spans = fields.spans(data, 64)
    assert [data[start:end] for _, start, _, end in spans] == pieces
    assert [tag for tag, *_ in spans] == [0x0A, 0x12, 0x18, 0x21, 0x2D]
    assert [data[begin:end] for _, _, begin, end in spans] == [b"ab", bytes(200), b"\xac\x02", bytes(8), bytes(4)]


def test_spans_are_counted() -> None:
    assert len(fields.spans(b"\x0a\x00" * 3, 3)) == 3
    with pytest.raises(RemoteProtocolError, match="more than 3 fields"):
        fields.spans(b"\x0a\x00" * 4, 3)


@given(st.binary(max_size=64))
def test_spans_are_cut_as_read_reads(data: bytes) -> None:
    try:
        numbers = [number for number, _ in fields.read(data)]
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            fields.spans(data, 64)
        return
    spans = fields.spans(data, 64)
    assert [tag >> 3 for tag, *_ in spans] == numbers
    assert b"".join(data[start:end] for _, start, _, end in spans) == data
