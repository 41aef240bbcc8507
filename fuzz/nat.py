"""Messages of relays, hole punching and AutoNAT, as they come; what a relay and a hole puncher do about them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from talos.addr import parse
from talos.autonat import wire as autonat
from talos.dcutr import wire as dcutr
from talos.dcutr.machine import HolePunchMachine, Side
from talos.errors import BadSignature, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.relay import wire as relay
from talos.relay.machine import RelayLimits, RelayMachine
from talos.relay.wire import Status

if TYPE_CHECKING:
    from collections.abc import Callable

OWN = parse("/ip4/1.2.3.4/tcp/4001")
ASKER = PeerId.from_key(PrivateKey.generate().public_key)
COME_BACK: list[tuple[Callable[[bytes], Any], Callable[[Any], bytes]]] = [
    (relay.decode_hop, relay.encode_hop),
    (relay.decode_stop, relay.encode_stop),
    (autonat.decode, autonat.encode),
    (autonat.decode_back, autonat.encode_back),
    (autonat.decode_v1, autonat.encode_v1),
    (dcutr.decode, dcutr.encode),
]


def target(data: bytes) -> None:
    """Messages that come back as they were, or RemoteProtocolError; machines that answer, or refuse."""
    for decode, encode in COME_BACK:
        message = read(decode, data)
        if message is not None and read(decode, encode(message)) != message:
            raise AssertionError("a message changed on its way")
    try:
        relay.open_voucher(data)
    except (RemoteProtocolError, BadSignature):
        pass
    asked = read(relay.decode_hop, data)
    if asked is not None:
        serve(asked)
    punch = read(dcutr.decode, data)
    if punch is not None:
        exchange(punch)


def read(decode: Callable[[bytes], Any], data: bytes) -> Any:
    """None where `data` is no such message."""
    try:
        return decode(data)
    except RemoteProtocolError:
        return None


def serve(asked: relay.HopMessage) -> None:
    """Nobody gets a circuit to who has no reservation."""
    machine = RelayMachine(RelayLimits())
    ip = ip_address("198.51.100.1")
    if machine.reserve(ASKER, ip, limited=False, now=0.0) is not Status.OK:
        raise AssertionError("the first reservation was refused")
    if asked.peer is None or asked.peer == ASKER:
        return
    if machine.connect(ASKER, asked.peer, ip, limited=False, now=0.0) is Status.OK:
        raise AssertionError("a circuit to who has no reservation")


def exchange(message: dcutr.HolePunch) -> None:
    """A side answers, or refuses what is out of turn."""
    machine = HolePunchMachine(Side.A, [OWN])
    for now in (0.0, 1.0):
        try:
            machine.receive(message, now)
        except RemoteProtocolError:
            return
