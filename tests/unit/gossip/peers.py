"""Peers, keys and messages for the tests of the machines."""

from __future__ import annotations

import random
from functools import cache
from typing import TYPE_CHECKING, Any

from talos.gossip import wire
from talos.gossip.config import GossipConfig
from talos.gossip.event import Send
from talos.gossip.router import Router
from talos.gossip.wire import Control, Rpc
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire.length_prefix import LengthPrefixDecoder

if TYPE_CHECKING:
    from talos.gossip.event import Effect

TOPIC = "news"
V1_0, V1_1, V1_2, V1_3 = (f"/meshsub/1.{minor}.0" for minor in range(4))
FLOODSUB = "/floodsub/1.0.0"


@cache
def key(number: int) -> PrivateKey:
    return PrivateKey.from_seed(number.to_bytes(32, "big"))


@cache
def peer(number: int) -> PeerId:
    """Number 0 is ourselves."""
    return PeerId.from_key(key(number).public_key)


def make_router(config: GossipConfig | None = None, **options: Any) -> Router:
    """Our router at time 0."""
    options.setdefault("random", random.Random(1))
    return Router(config or GossipConfig(), peer_id=peer(0), key=key(0), now=0.0, first_seqno=1, **options)


def join(router: Router, *numbers: int, protocol: str = V1_2, topics: tuple[str, ...] = (TOPIC,), outbound: bool = False, ip: Any = None, now: float = 0.0) -> None:  # fmt: skip
    """Peers that want `topics`; what waits for them is thrown away."""
    for number in numbers:
        router.peer_joined(peer(number), protocol, now, ip=ip, outbound=outbound)
        router.receive(peer(number), rpc(*[wire.subscription(topic, wanted=True) for topic in topics]), now)
        router.data_to_send(peer(number))


def rpc(*outer: bytes, control: tuple[bytes, ...] = ()) -> bytes:
    """An RPC without its length."""
    [body] = LengthPrefixDecoder(1 << 24).receive_data(wire.assemble(outer, control))
    return body


def message(author: int, data: bytes = b"hello", *, seqno: int = 1, topic: str = TOPIC) -> bytes:
    """A signed message."""
    unsigned = wire.encode_message(peer(author).to_bytes(), data, seqno.to_bytes(8, "big"), topic)
    return wire.with_signature(unsigned, key(author).sign(wire.SIGN_PREFIX + unsigned), None)


def message_id(author: int, seqno: int = 1) -> bytes:
    return peer(author).to_bytes() + seqno.to_bytes(8, "big")


def give(router: Router, sender: int, *messages: bytes, now: float = 0.0) -> list[Effect]:
    return router.receive(peer(sender), rpc(*map(wire.publish, messages)), now)


def control(router: Router, sender: int, *items: bytes, now: float = 0.0) -> list[Effect]:
    return router.receive(peer(sender), rpc(control=items), now)


def sent(router: Router, number: int) -> Rpc:
    """All that waits for a peer, in one."""
    whole = Rpc(control=Control())
    assert whole.control is not None
    for body in LengthPrefixDecoder(1 << 24).receive_data(router.data_to_send(peer(number))):
        one = wire.decode_rpc(body, GossipConfig().limits)
        whole.subscriptions += one.subscriptions
        whole.messages += one.messages
        if one.control is not None:
            whole.control.ihave += one.control.ihave
            whole.control.iwant += one.control.iwant
            whole.control.graft += one.control.graft
            whole.control.prune += one.control.prune
            whole.control.idontwant += one.control.idontwant
            whole.control.extensions |= one.control.extensions
    return whole


def sent_control(router: Router, number: int) -> Control:
    found = sent(router, number).control
    assert found is not None
    return found


def woken(effects: list[Effect]) -> set[PeerId]:
    return {one for effect in effects if isinstance(effect, Send) for one in effect.peers}


def kinds(effects: list[Effect], kind: type) -> list[Any]:
    return [effect for effect in effects if isinstance(effect, kind)]
