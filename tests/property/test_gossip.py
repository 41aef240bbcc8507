"""Gossip over any bytes, and through meshes that lose what they carry."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz import gossip as fuzz_gossip
from talos.errors import RemoteProtocolError
from talos.gossip import wire
from talos.gossip.config import GossipConfig, GossipLimits
from talos.gossip.event import Deliver, Send
from talos.gossip.router import Router
from talos.gossip.wire import MessageFields, Prune
from talos.wire.length_prefix import LengthPrefixDecoder
from talos.wire.pb import gossip_pb2 as pb
from tests.unit.gossip.peers import TOPIC, V1_2, key, peer, rpc

if TYPE_CHECKING:
    from talos.gossip.event import Effect

LIMITS = GossipLimits()
ids = st.binary(max_size=40)
topics = st.sampled_from(["news", "other", ""])


@given(st.binary(max_size=300))
def test_any_bytes_give_effects_or_a_protocol_error(data: bytes) -> None:
    fuzz_gossip.target(data)


@st.composite
def rpcs(draw: st.DrawFn) -> bytes:
    """RPCs that can be read, of whatever sense."""
    control = draw(
        st.lists(
            st.one_of(
                st.builds(wire.ihave, topics, st.lists(ids, max_size=5)),
                st.builds(wire.iwant, st.lists(ids, max_size=5)),
                st.builds(wire.idontwant, st.lists(ids, max_size=5)),
                st.builds(wire.graft, topics),
                st.builds(
                    lambda topic, peers, backoff: wire.prune(Prune(topic, peers, backoff)),
                    topics,
                    st.lists(st.tuples(ids, ids), max_size=3),
                    st.none() | st.integers(0, 2**63 - 1),
                ),
                st.just(wire.EXTENSIONS),
            ),
            max_size=6,
        )
    )
    outer = draw(
        st.lists(
            st.one_of(
                st.builds(lambda topic, wanted: wire.subscription(topic, wanted=wanted), topics, st.booleans()),
                st.builds(wire.publish, st.binary(max_size=30)),
            ),
            max_size=6,
        )
    )
    return rpc(*outer, control=tuple(control))


@given(st.lists(rpcs(), max_size=5))
def test_any_rpcs_give_effects(sequence: list[bytes]) -> None:
    for data in sequence:
        fuzz_gossip.target(data)


@given(rpcs())
def test_our_reader_and_the_protobuf_library_agree(data: bytes) -> None:
    read, other = wire.decode_rpc(data, LIMITS), pb.RPC.FromString(data)
    assert read.subscriptions == [(one.subscribe, one.topicid.decode()) for one in other.subscriptions]
    assert read.messages == list(other.publish)
    if read.control is not None:
        assert read.control.iwant == [one for item in other.control.iwant for one in item.messageIDs]
        assert read.control.graft == [item.topicID.decode() for item in other.control.graft]


@given(st.binary(max_size=50), st.binary(max_size=50), st.text(max_size=10), st.binary(max_size=20))
def test_a_message_comes_back_in_parts(author: bytes, data: bytes, topic: str, signature: bytes) -> None:
    unsigned = wire.encode_message(author, data, b"12345678", topic)
    read = MessageFields(wire.with_signature(unsigned, signature, b"key"))
    assert (read.author, read.data, read.topic, read.signature, read.key) == (author, data, topic, signature, b"key")
    assert read.signed_part() == wire.SIGN_PREFIX + unsigned
    other = pb.Message.FromString(read.raw)
    assert (getattr(other, "from"), other.data, other.topic.decode()) == (author, data, topic)


class LossyMesh:
    """Routers that are all linked, in steps of 50 ms; RPCs are lost but for the first of each stream."""

    def __init__(self, count: int, loss: float, seed: int, config: GossipConfig) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.now = 0.0
        self.delivered: dict[int, set[bytes]] = defaultdict(set)
        self.numbers = {peer(number): number for number in range(count)}
        self.routers = [
            Router(config, peer_id=peer(number), key=key(number), random=self.random, now=0.0, first_seqno=1)
            for number in range(count)
        ]
        self._arriving: list[tuple[int, int, bytes]] = []
        for number, router in enumerate(self.routers):
            for other in self.random.sample(range(count), count):
                if other != number:
                    effects = router.peer_joined(peer(other), V1_2, 0.0, ip=None, outbound=other < number)
                    self.apply(number, effects)
        for number, router in enumerate(self.routers):
            self.apply(number, router.subscribe(TOPIC, 0.0), loss=0.0)

    def apply(self, number: int, effects: list[Effect], loss: float | None = None) -> None:
        for effect in effects:
            if isinstance(effect, Deliver):
                self.delivered[number].add(effect.message.id)
            elif isinstance(effect, Send):
                for one in effect.peers:
                    data = self.routers[number].data_to_send(one)
                    for body in LengthPrefixDecoder(1 << 20).receive_data(data):
                        if self.random.random() >= (self.loss if loss is None else loss):
                            self._arriving.append((self.numbers[one], number, body))

    def step(self) -> None:
        self.now += 0.05
        arriving, self._arriving = self._arriving, []
        for to, sender, body in arriving:
            self.apply(to, self.routers[to].receive(peer(sender), body, self.now))
        for number, router in enumerate(self.routers):
            self.apply(number, router.deadline_passed(self.now))


@pytest.mark.parametrize("flood_publish", [True, False])
@settings(max_examples=6, suppress_health_check=[HealthCheck.differing_executors])
@given(st.integers(0, 2**32), st.sampled_from([0.0, 0.1, 0.3]))
def test_every_message_reaches_everybody_in_a_lossy_mesh(flood_publish: bool, seed: int, loss: float) -> None:
    config = replace(GossipConfig(), flood_publish=flood_publish)
    network = LossyMesh(12, loss, seed, config)
    for _ in range(30):
        network.step()
    published = set()
    for number in range(6):
        message, effects = network.routers[number].publish(TOPIC, b"%d" % number, network.now)
        published.add(message.id)
        network.apply(number, effects)
        network.step()
    for _ in range(90):
        network.step()
    for number in range(12):
        own = {peer(number).to_bytes() + (1).to_bytes(8, "big")} & published
        assert network.delivered[number] == published - own


@given(st.binary(max_size=64))
def test_a_message_is_read_or_bad(data: bytes) -> None:
    try:
        MessageFields(data)
    except RemoteProtocolError:
        return
