"""Gossip: RPCs as they come from a neighbour, one behind the other, whatever is in them."""

import random

from talos.errors import RemoteProtocolError
from talos.gossip.config import GossipConfig
from talos.gossip.event import (
    Connect,
    Deliver,
    Disconnect,
    Effect,
    Grafted,
    PeerSubscribed,
    PeerUnsubscribed,
    Pruned,
    Send,
    Validate,
    ValidationResult,
)
from talos.gossip.router import Router
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

KEY = PrivateKey.from_seed(bytes(32))
OWN = PeerId.from_key(KEY.public_key)
NEIGHBOURS = [PeerId.from_key(PrivateKey.from_seed(bytes((number,)) * 32).public_key) for number in (1, 2)]
CONFIG = GossipConfig()
RESULTS = tuple(ValidationResult)
EFFECTS = (Send, Deliver, Validate, Connect, Disconnect, Grafted, Pruned, PeerSubscribed, PeerUnsubscribed)


def target(data: bytes) -> None:
    """Effects, or RemoteProtocolError; and the router lives: it publishes and beats."""
    router = Router(CONFIG, peer_id=OWN, key=KEY, random=random.Random(1), now=0.0, first_seqno=1)
    router.subscribe("news", 0.0)
    router.subscribe("judged", 0.0, validate=True)
    for peer in NEIGHBOURS:
        router.peer_joined(peer, "/meshsub/1.3.0", 0.0, ip=None, outbound=True)
    middle = len(data) // 2
    for number, rpc in enumerate((data, data[:middle], data[middle:])):
        sender = NEIGHBOURS[number % 2]
        try:
            effects = router.receive(sender, rpc, float(number))
        except RemoteProtocolError:
            continue
        _check(router, effects, data)
    _check(router, router.heartbeat(4.0), data)
    _check(router, router.publish("news", b"alive", 4.0)[1], data)
    for peer in NEIGHBOURS:
        router.data_to_send(peer)
        router.peer_left(peer, 5.0)
    if router.peers() or router.mesh("news"):
        raise AssertionError("something is left of who left")


def _check(router: Router, effects: list[Effect], data: bytes) -> None:
    for effect in effects:
        if type(effect) not in EFFECTS:
            raise AssertionError(f"undeclared effect {effect!r}")
        if isinstance(effect, Validate):
            router.validated(effect.message, RESULTS[len(data) % len(RESULTS)], 3.0)
