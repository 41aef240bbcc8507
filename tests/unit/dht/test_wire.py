from __future__ import annotations

import pytest

from talos.addr import parse
from talos.dht.peer import PeerInfo
from talos.dht.wire import (
    MAX_ANSWER_BYTES,
    MAX_KEY_BYTES,
    MAX_PEER_ADDRS,
    MAX_PEERS,
    MAX_PROVIDERS,
    MAX_REQUEST_BYTES,
    Message,
    MessageType,
    Record,
    Request,
    decode,
    encode,
    encode_answer,
)
from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import fields

PEERS = [PeerId.from_key(PrivateKey.from_seed(bytes([n]) * 32).public_key) for n in range(130)]
ADDR = parse("/ip4/1.2.3.4/tcp/4001")


def info(number: int, addrs: int = 1) -> PeerInfo:
    return PeerInfo(PEERS[number], tuple(parse(f"/ip4/1.2.3.4/tcp/{4001 + n}") for n in range(addrs)))


def test_a_message_comes_back_as_it_was() -> None:
    message = Message(
        MessageType.GET_VALUE,
        b"/pk/key",
        Record(b"/pk/key", b"value", "2026-01-01T00:00:00Z"),
        (info(0), info(1, 2)),
        (info(2),),
    )
    assert decode(encode(message)) == message


def test_the_bytes_are_those_of_the_schema() -> None:
    peer = fields.bytes_field(1, PEERS[0].raw) + fields.bytes_field(2, ADDR.to_bytes())
    expected = fields.uint64_field(1, 4) + fields.bytes_field(2, b"key") + fields.bytes_field(8, peer)
    assert encode(Message(MessageType.FIND_NODE, b"key", closer=(PeerInfo(PEERS[0], (ADDR,)),))) == expected
    zero = encode(Message(MessageType.PUT_VALUE, b"key"))
    assert zero == fields.uint64_field(1, 0) + fields.bytes_field(2, b"key")
    assert decode(fields.bytes_field(2, b"key")) == decode(zero)


def test_a_request_is_framed_and_bounded() -> None:
    request = Request.of(Message(MessageType.PING))
    assert request == (MessageType.PING, b"\x02\x08\x05")
    with pytest.raises(LocalProtocolError):
        Request.of(Message(MessageType.PUT_VALUE, record=Record(b"", bytes(MAX_REQUEST_BYTES))))


@pytest.mark.parametrize(
    "data", [b"\xff", b"\x08", fields.uint64_field(1, 6), fields.bytes_field(2, bytes(MAX_KEY_BYTES + 1))]
)
def test_what_is_malformed_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_a_time_that_is_no_text_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode(fields.bytes_field(3, fields.bytes_field(5, b"\xff")))


def test_fields_of_extensions_are_not_read() -> None:
    plain = encode(Message(MessageType.FIND_NODE, b"key"))
    assert decode(plain + fields.bytes_field(11, b"senderRecord")) == decode(plain)
    assert decode(plain + fields.uint64_field(11, 1)) == decode(plain)
    assert decode(plain + fields.uint64_field(10, 7)) == decode(plain)


def test_peers_that_are_none_are_left_out_and_their_bad_addresses_too() -> None:
    good = fields.bytes_field(1, PEERS[0].raw)
    broken = fields.bytes_field(2, b"\x04\x01")
    unknown = fields.bytes_field(2, b"\xcc\x7f\x01")
    peers = (
        fields.bytes_field(1, b"nobody") + fields.bytes_field(2, ADDR.to_bytes()),
        good + broken + unknown + fields.bytes_field(2, ADDR.to_bytes()),
        b"",
    )
    data = fields.uint64_field(1, 4) + b"".join(fields.bytes_field(8, peer) for peer in peers)
    assert decode(data).closer == (PeerInfo(PEERS[0], (ADDR,)),)


def test_of_long_lists_the_beginning_is_taken() -> None:
    everybody = tuple(info(number) for number in range(130))
    message = decode(encode(Message(MessageType.GET_PROVIDERS, b"key", None, everybody, everybody)))
    assert message.closer == everybody[:MAX_PEERS]
    assert message.providers == everybody[:MAX_PROVIDERS]
    (peer,) = decode(encode(Message(MessageType.FIND_NODE, closer=(info(0, MAX_PEER_ADDRS + 1),)))).closer
    assert len(peer.addrs) == MAX_PEER_ADDRS


class TestAnswers:
    def test_one_that_fits_is_whole(self) -> None:
        message = Message(MessageType.FIND_NODE, b"key", closer=tuple(info(number) for number in range(20)))
        assert encode_answer(message) == encode(message)

    def test_addresses_leave_first(self) -> None:
        message = Message(MessageType.FIND_NODE, b"key", closer=tuple(info(number, 100) for number in range(20)))
        data = encode_answer(message)
        assert len(data) <= MAX_ANSWER_BYTES
        closer = decode(data).closer
        assert [peer.peer for peer in closer] == PEERS[:20]
        assert {len(peer.addrs) for peer in closer} == {MAX_PEER_ADDRS}  # of more that were sent, no more are read
        assert len(encode_answer(message)) > MAX_ANSWER_BYTES - 20 * 10

    def test_then_the_farthest_peers(self) -> None:
        message = Message(MessageType.FIND_NODE, b"key", closer=tuple(info(number, 3) for number in range(20)))
        data = encode_answer(message, 600)
        assert len(data) <= 600
        closer = decode(data).closer
        assert [peer.peer for peer in closer] == PEERS[: len(closer)]
        assert 5 < len(closer) < 20
        assert {len(peer.addrs) for peer in closer} == {1}

    def test_providers_come_before_closer_peers_which_keep_a_quarter(self) -> None:
        everybody = tuple(info(number, 8) for number in range(100))
        data = encode_answer(Message(MessageType.GET_PROVIDERS, b"key", None, everybody[:20], everybody), 4000)
        message = decode(data)
        assert len(data) <= 4000
        assert len(message.providers) > 30
        assert len(message.closer) > 10

    def test_the_record_stays(self) -> None:
        record = Record(b"key", bytes(10_240))
        message = Message(MessageType.GET_VALUE, b"key", record, tuple(info(number, 100) for number in range(20)))
        data = encode_answer(message)
        assert len(data) <= MAX_ANSWER_BYTES
        assert decode(data).record == record
        with pytest.raises(LocalProtocolError):
            encode_answer(Message(MessageType.GET_VALUE, b"key", Record(b"key", bytes(16_000)), message.closer))
