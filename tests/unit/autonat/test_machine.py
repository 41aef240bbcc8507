"""What AutoNAT decides, on either side."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from talos.addr import parse
from talos.autonat.machine import Rates, Reachabilities, choose
from talos.autonat.wire import (
    DialBack,
    DialBackResponse,
    DialData,
    DialDataRequest,
    DialRequest,
    DialResponse,
    Message,
    V1Request,
    V1Response,
    decode,
    decode_back,
    decode_back_response,
    decode_v1,
    encode,
    encode_back,
    encode_back_response,
    encode_v1,
)
from talos.errors import RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

SERVERS = [PeerId.from_key(PrivateKey.generate().public_key) for _ in range(12)]
ADDR = parse("/ip4/1.2.3.4/tcp/4001")
OTHER = parse("/ip4/1.2.3.5/tcp/4001")
TCP = {("ip4", "tcp")}


def test_four_agreeing_servers_confirm_an_address() -> None:
    known = Reachabilities(4)
    assert known.watch([ADDR]) == []
    changes = [known.answered(ADDR, server, reached=True, servers=9) for server in SERVERS[:5]]
    assert changes == [False, False, False, True, False]
    assert known.public is True
    assert known.confirmed == (ADDR,)
    assert known.settled(ADDR)


def test_where_fewer_are_known_all_have_to_agree() -> None:
    known = Reachabilities(4)
    known.watch([ADDR])
    assert not known.answered(ADDR, SERVERS[0], reached=True, servers=2)
    assert [known.public] == [None]
    assert not known.answered(ADDR, SERVERS[1], reached=False, servers=2)
    assert known.answered(ADDR, SERVERS[1], reached=True, servers=2)


def test_we_are_private_when_every_address_is_refuted() -> None:
    known = Reachabilities(1)
    known.watch([ADDR, OTHER])
    assert known.answered(ADDR, SERVERS[0], reached=False, servers=1)
    assert [known.public] == [None]
    assert [known.answered(OTHER, SERVERS[0], reached=False, servers=1), known.public] == [True, False]
    assert [known.answered(OTHER, SERVERS[0], reached=True, servers=1), known.public] == [True, True]
    assert known.watch([ADDR]) == [OTHER]
    assert not known.answered(OTHER, SERVERS[0], reached=True, servers=1)


def test_answers_are_bounded() -> None:
    known = Reachabilities(2)
    known.watch([ADDR])
    for server in SERVERS:
        known.answered(ADDR, server, reached=False, servers=9)
    assert len(known._addrs[ADDR].answers) == 4


def test_a_server_dials_the_first_address_that_it_may() -> None:
    seen = ip_address("1.2.3.4")
    addrs = [
        b"\xff\xff",
        parse("/dns4/victim.example/tcp/1").to_bytes(),
        parse("/ip4/10.0.0.1/tcp/1").to_bytes(),
        parse("/ip4/1.2.3.4/udp/4001/quic-v1").to_bytes(),
        parse(f"/ip4/1.2.3.4/tcp/1/p2p/{SERVERS[0]}/p2p-circuit").to_bytes(),
        ADDR.to_bytes(),
        OTHER.to_bytes(),
    ]
    choice = choose(addrs, seen, kinds=TCP)
    assert choice is not None
    assert (choice.index, choice.addr, choice.elsewhere) == (5, ADDR, False)
    victim = choose([OTHER.to_bytes()], seen, kinds=TCP)
    assert victim is not None
    assert victim.elsewhere
    assert choose(addrs[:5], seen, kinds=TCP) is None
    assert choose(addrs[:5], seen, kinds=TCP, allow_private=True) is not None


def test_rates() -> None:
    rates = Rates(total=3, per_peer=2, with_data=1, at_once=1)
    a, b, c = SERVERS[:3]
    assert rates.enter(a, 0.0)
    assert not rates.enter(a, 0.0)  # at once
    rates.leave(a)
    assert rates.enter(a, 0.0)
    rates.leave(a)
    assert not rates.enter(a, 0.0)  # of one peer
    assert rates.enter(b, 0.0)
    assert not rates.enter(c, 0.0)  # of all
    assert rates.enter(c, 60.0)
    assert rates.with_data(0.0)
    assert not rates.with_data(0.0)


@pytest.mark.parametrize(
    "message",
    [DialRequest((b"a", b""), 7), DialDataRequest(1, 30_000), DialData(bytes(10)), DialResponse(200, 3, 100)],
)
def test_messages_come_back(message: Message) -> None:
    assert decode(encode(message)) == message


def test_other_messages_come_back() -> None:
    assert decode_back(encode_back(DialBack(1 << 63))) == DialBack(1 << 63)
    assert decode_back_response(encode_back_response(DialBackResponse(0))) == DialBackResponse(0)
    for message in (V1Request(SERVERS[0], (b"a",)), V1Response(100, "no", b"x")):
        assert decode_v1(encode_v1(message)) == message


def test_what_is_no_message() -> None:
    for decoder in (decode, decode_back, decode_back_response, decode_v1):
        with pytest.raises(RemoteProtocolError):
            decoder(b"\xff")
    not_utf8 = b"\x08\x01\x1a\x05\x08\x64\x12\x01\xff"
    for data in (b"", b"\x08\x01", b"\x08\x01\x1a\x00", b"\x08\x00", not_utf8):
        with pytest.raises(RemoteProtocolError):
            decode_v1(data)
    with pytest.raises(RemoteProtocolError):
        decode(b"")
