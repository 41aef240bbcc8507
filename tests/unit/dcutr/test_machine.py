"""An exchange of DCUtR: who says what when."""

from __future__ import annotations

import pytest

from talos.addr import parse
from talos.dcutr.machine import HolePunchMachine, Punch, Send, Side, usable
from talos.dcutr.wire import HolePunch, HolePunchType, decode, encode
from talos.errors import LocalProtocolError, RemoteProtocolError

OURS = parse("/ip4/1.2.3.4/tcp/4001")
THEIRS = parse("/ip4/5.6.7.8/tcp/4001")
CONNECT = HolePunch(HolePunchType.CONNECT, (THEIRS,))
SYNC = HolePunch(HolePunchType.SYNC)


@pytest.mark.parametrize("rtt", [0.0, 0.1, 5.0])
def test_both_sides_punch_at_the_same_moment(rtt: float) -> None:
    a, b = HolePunchMachine(Side.A, [OURS]), HolePunchMachine(Side.B, [THEIRS])
    first = b.begin(10.0)
    (answer,) = a.receive(first.message, 10.0 + rtt / 2)
    assert isinstance(answer, Send)
    sync, punch_b = b.receive(answer.message, 10.0 + rtt)
    assert isinstance(sync, Send)
    assert isinstance(punch_b, Punch)
    assert punch_b.addrs == (OURS,)
    assert punch_b.seconds == pytest.approx(rtt / 2)
    assert a.receive(sync.message, 10.0 + rtt * 1.5) == [Punch((THEIRS,), 0.0)]
    assert a.done
    assert b.done


def test_messages_out_of_turn_are_refused() -> None:
    for side, messages in ((Side.A, [SYNC]), (Side.A, [CONNECT, CONNECT]), (Side.B, [CONNECT])):
        machine = HolePunchMachine(side, [OURS])
        with pytest.raises(RemoteProtocolError, match="out of turn"):  # noqa: PT012
            for message in messages:
                machine.receive(message, 0.0)
    b = HolePunchMachine(Side.B, [OURS])
    b.begin(0.0)
    with pytest.raises(RemoteProtocolError):
        b.receive(SYNC, 0.0)
    with pytest.raises(LocalProtocolError):
        b.begin(0.0)
    with pytest.raises(LocalProtocolError):
        HolePunchMachine(Side.A, [OURS]).begin(0.0)


def test_without_an_address_nothing_is_punched() -> None:
    machine = HolePunchMachine(Side.A, [OURS])
    with pytest.raises(RemoteProtocolError, match="without an address"):
        machine.receive(HolePunch(HolePunchType.CONNECT, (parse("/ip4/10.0.0.1/tcp/1"),)), 0.0)


def test_which_addresses_are_dialled() -> None:
    mixed = [
        THEIRS,
        parse(f"{THEIRS}/p2p/12D3KooWAZBY9QYHdUNAkwSPH9ijzNoBJUMHxGnAdUY5hcvGaFeF"),
        parse("/ip4/10.0.0.1/tcp/1"),
        parse("/ip4/127.0.0.1/tcp/1"),
        parse("/dns4/example.com/tcp/1"),
        parse(f"{THEIRS}/p2p/12D3KooWAZBY9QYHdUNAkwSPH9ijzNoBJUMHxGnAdUY5hcvGaFeF/p2p-circuit"),
    ]
    assert usable(mixed, allow_private=False) == (THEIRS,)
    assert len(usable(mixed, allow_private=True)) == 3
    assert len(usable([parse(f"/ip4/5.6.7.8/tcp/{port}") for port in range(1, 40)], allow_private=False)) == 16


def test_messages_come_back() -> None:
    assert decode(encode(CONNECT)) == CONNECT
    assert encode(SYNC) == bytes.fromhex("08ac02")
    for data in (b"", b"\x08\x01", b"\xff"):
        with pytest.raises(RemoteProtocolError):
            decode(data)
    unknown = bytes.fromhex("0864") + b"\x12\x02\xff\x7f" + b"\x12\x01\x99"
    assert decode(unknown).addrs == ()
