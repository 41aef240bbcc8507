"""The router as a whole: neighbours, topics, publishing, forwarding, limits, time."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from talos.errors import LimitExceeded, LocalProtocolError, NegotiationError, RemoteProtocolError
from talos.gossip import wire
from talos.gossip.config import GossipConfig, GossipLimits, SignaturePolicy
from talos.gossip.event import Candidate, Connect, Deliver, Disconnect, PeerSubscribed, PeerUnsubscribed
from talos.gossip.message import from_seqno
from talos.gossip.router import Router
from talos.gossip.score_config import ScoreConfig
from talos.gossip.version import Version
from tests.unit.gossip.peers import (
    FLOODSUB,
    TOPIC,
    V1_1,
    V1_2,
    V1_3,
    control,
    give,
    join,
    kinds,
    make_router,
    message,
    message_id,
    peer,
    rpc,
    sent,
    sent_control,
    woken,
)

QUIET = ScoreConfig(default_topic=None, app_specific_weight=1.0)


def router_with(*numbers: int, **changes: Any) -> Router:
    changes.setdefault("score", QUIET)
    router = make_router(GossipConfig(**changes))
    router.subscribe(TOPIC, 0)
    join(router, *numbers)
    return router


# ------------------------------------------------------------------------------------- neighbours


def test_the_first_rpc_says_what_we_want() -> None:
    router = make_router()
    assert router.peer_joined(peer(1), V1_2, 0, ip=None, outbound=True) == []
    router.subscribe("a", 0)
    router.subscribe("b", 0)
    assert woken(router.peer_joined(peer(2), V1_2, 0, ip=None, outbound=True)) == {peer(2)}
    first = sent(router, 2)
    assert first.subscriptions == [(True, "a"), (True, "b")]
    assert first.control is not None
    assert not first.control.extensions


def test_extensions_go_first_to_those_who_know_them_and_once() -> None:
    router = make_router()
    assert woken(router.peer_joined(peer(1), V1_3, 0, ip=None, outbound=True)) == {peer(1)}
    assert sent_control(router, 1).extensions
    router.subscribe(TOPIC, 0)
    assert not sent_control(router, 1).extensions


def test_extensions_twice_are_misbehaviour() -> None:
    router = router_with()
    join(router, 1, protocol=V1_3)
    join(router, 2, protocol=V1_2)
    for _ in range(2):
        control(router, 1, wire.EXTENSIONS)
        control(router, 2, wire.EXTENSIONS)
    assert (router.score(peer(1)), router.score(peer(2))) == (-10, 0)


def test_joining_twice_too_many_or_with_another_protocol() -> None:
    router = make_router(GossipConfig(limits=GossipLimits(peers=2)))
    with pytest.raises(NegotiationError):
        router.peer_joined(peer(1), "/echo/1", 0, ip=None, outbound=False)
    join(router, 1, 2)
    with pytest.raises(LocalProtocolError, match="already"):
        router.peer_joined(peer(1), V1_2, 0, ip=None, outbound=False)
    with pytest.raises(LimitExceeded):
        router.peer_joined(peer(3), V1_2, 0, ip=None, outbound=False)
    router.peer_left(peer(1), 0)
    join(router, 3)
    assert router.peers() == {peer(2), peer(3)}


def test_questions() -> None:
    router = router_with(1)
    join(router, 2, protocol=FLOODSUB, topics=("other",))
    assert peer(1) in router
    assert peer(3) not in router
    assert router.topics() == {TOPIC}
    assert router.peers(TOPIC) == {peer(1)}
    assert router.topics_of(peer(2)) == {"other"}
    assert router.version(peer(2)) is Version.FLOODSUB
    assert router.scores() == {peer(1): 0, peer(2): 0}
    assert router.queued(peer(1)) == (0, 0)
    router.publish(TOPIC, b"x", 0)
    assert router.queued(peer(1))[0] == 1
    assert router.data_to_send(peer(9)) == b""
    for ask in (router.version, router.topics_of, router.queued):
        with pytest.raises(LocalProtocolError, match="has not joined"):
            ask(peer(9))


def test_nothing_is_left_of_who_left() -> None:
    router = router_with(1, flood_publish=False)
    join(router, 2, topics=("fan", "other"))
    router.publish("fan", b"", 0)
    assert router.fanout("fan") == {peer(2)}
    control(router, 2, wire.ihave(TOPIC, [b"promised"]), wire.idontwant([b"x"]), wire.iwant([b"y"]))
    control(router, 1, wire.graft(TOPIC))
    for number in (1, 2):
        router.peer_left(peer(number), 1)
    assert router.peer_left(peer(1), 1) == []
    assert router.peers() == router.peers("fan") == router.mesh(TOPIC) == router.fanout("fan") == frozenset()
    assert not router._neighbours._by_topic
    assert len(router._promises) == 0
    assert not router._scores._peers
    assert router.receive(peer(1), rpc(wire.subscription(TOPIC, wanted=True)), 2) == []


def test_addresses_are_counted() -> None:
    router = make_router(GossipConfig(score=ScoreConfig(ip_colocation_factor_threshold=1)))
    join(router, 1, 2, 3, ip=ip_address("9.9.9.9"))
    assert router.score(peer(1)) == -5 * 2**2


# ------------------------------------------------------------------------------------- subscriptions of others


def test_subscriptions_are_told() -> None:
    router = make_router()
    router.peer_joined(peer(1), V1_2, 0, ip=None, outbound=True)
    wanted, unwanted = (wire.subscription("a", wanted=one) for one in (True, False))
    assert router.receive(peer(1), rpc(wanted, wanted), 0) == [PeerSubscribed("a", peer(1))]
    assert router.receive(peer(1), rpc(unwanted), 0) == [PeerUnsubscribed("a", peer(1))]


def test_topics_of_a_peer_are_bounded_and_the_surplus_is_misbehaviour() -> None:
    router = make_router(GossipConfig(limits=GossipLimits(topics=3, subscriptions=4)))
    join(router, 1, topics=("a", "b"))
    router.receive(peer(1), rpc(*[wire.subscription(topic, wanted=True) for topic in "cdefgh"]), 0)
    assert router.topics_of(peer(1)) == {"a", "b", "c"}
    assert router.score(peer(1)) == -10
    assert router.stats.ignored_control == 5
    router.subscribe("z", 0)
    control(router, 1, wire.graft("z"))
    assert not router.mesh("z")


# ------------------------------------------------------------------------------------- our side


def test_subscribing_is_bounded_and_once() -> None:
    router = make_router(GossipConfig(limits=GossipLimits(topics=2, topic_bytes=3)))
    router.subscribe("a", 0)
    router.subscribe("b", 0)
    with pytest.raises(LocalProtocolError, match="already"):
        router.subscribe("a", 0)
    with pytest.raises(LimitExceeded):
        router.subscribe("c", 0)
    with pytest.raises(LocalProtocolError, match="over 3 bytes"):
        router.subscribe("long", 0)
    with pytest.raises(LocalProtocolError, match="not subscribed"):
        router.unsubscribe("c", 0)


def test_publishing_floods_those_who_may_have_it() -> None:
    router = router_with(*range(1, 9))
    join(router, 9, protocol=FLOODSUB)
    join(router, 10, topics=("other",))
    router.set_application_score(peer(1), -50.5)
    published, effects = router.publish(TOPIC, b"hello", 0)
    assert woken(effects) == {peer(number) for number in range(2, 10)}
    assert not kinds(effects, Deliver)
    assert sent(router, 9).messages == [published.raw]
    assert (published.id, published.author, published.source) == (message_id(0), peer(0), peer(0))


def test_publishing_what_is_too_large() -> None:
    router = make_router(GossipConfig(limits=GossipLimits(data_bytes=5, topic_bytes=5)))
    for topic, data in (("t", b"123456"), ("123456", b"")):
        with pytest.raises(LocalProtocolError, match="over the limit"):
            router.publish(topic, data, 0)


def test_without_flooding_the_mesh_is_sent_to_and_a_thin_one_helped() -> None:
    router = router_with(*range(1, 20), flood_publish=False)
    _, effects = router.publish(TOPIC, b"", 0)
    assert len(woken(effects)) == 6
    router.heartbeat(1)
    _, effects = router.publish(TOPIC, b"", 1)
    assert woken(effects) == router.mesh(TOPIC)
    few = router_with(1, 2, 3, flood_publish=False)
    few.set_application_score(peer(3), -51)
    _, effects = few.publish(TOPIC, b"", 0)
    assert woken(effects) == {peer(1), peer(2)}


def test_forwarding_goes_to_the_mesh_floodsub_and_direct_peers_but_not_back() -> None:
    router = router_with(1, 2, 3, d=3, d_lo=3, d_hi=3, d_out=1, d_score=1)
    router.heartbeat(1)
    join(router, 4)
    join(router, 5, 6, protocol=FLOODSUB)
    join(router, 7)
    router.add_direct(peer(7))
    router.set_application_score(peer(6), -51)
    for number in range(1, 8):
        router.data_to_send(peer(number))
    raw = message(2)  # its author is among them
    effects = give(router, 1, raw)
    assert woken(effects) == {peer(3), peer(5), peer(7)}
    assert len(kinds(effects, Deliver)) == 1


# ------------------------------------------------------------------------------------- fanout


def test_fanout_lives_while_it_is_used() -> None:
    router = make_router(GossipConfig(score=QUIET, flood_publish=False))
    join(router, *range(1, 9))
    router.publish("fan", b"", 0)
    assert not router.fanout("fan")
    for number in range(1, 9):
        router.receive(peer(number), rpc(wire.subscription("fan", wanted=True)), 0)
    _, effects = router.publish("fan", b"", 0)
    chosen = router.fanout("fan")
    assert woken(effects) == chosen
    assert len(chosen) == 6
    bad = min(chosen)
    router.set_application_score(bad, -51)
    router.heartbeat(1)
    assert bad not in router.fanout("fan")
    assert len(router.fanout("fan")) == 6
    gone = min(router.fanout("fan"))
    router.receive(gone, rpc(wire.subscription("fan", wanted=False)), 2)
    assert gone not in router.fanout("fan")
    router.heartbeat(60)
    assert router.fanout("fan")
    router.heartbeat(60.1)
    assert not router.fanout("fan")


def test_fanout_topics_are_bounded_the_oldest_use_leaves() -> None:
    router = make_router(GossipConfig(score=QUIET, flood_publish=False, limits=GossipLimits(fanout_topics=2)))
    join(router, 1, topics=("a", "b", "c"))
    for topic in ("a", "b", "a", "c"):
        router.publish(topic, b"", 0)
    assert [bool(router.fanout(topic)) for topic in "abc"] == [True, False, True]
    assert len(router._fanout) == 2


# ------------------------------------------------------------------------------------- direct peers


def test_direct_peers_are_dialled_now_and_then() -> None:
    router = make_router(GossipConfig(direct_peers=frozenset((peer(1), peer(2))), direct_connect_ticks=3))
    join(router, 2)
    wanted = [kinds(router.heartbeat(now), Connect) for now in range(1, 5)]
    assert wanted == [[Connect((Candidate(peer(1)),))], [], [], [Connect((Candidate(peer(1)),))]]
    join(router, 1)
    for now in range(5, 9):
        assert not kinds(router.heartbeat(now), Connect)


def test_direct_peers_come_and_go() -> None:
    router = router_with(1)
    router.heartbeat(1)
    assert kinds(router.add_direct(peer(2)), Connect)
    router.add_direct(peer(1))
    assert not router.mesh(TOPIC)
    router.heartbeat(2)
    assert not router.mesh(TOPIC)
    router.remove_direct(peer(1))
    router.heartbeat(3)
    assert router.mesh(TOPIC) == {peer(1)}


# ------------------------------------------------------------------------------------- hostile


def test_what_cannot_be_read_is_blamed_and_nothing_of_it_taken() -> None:
    router = router_with(1)
    with pytest.raises(RemoteProtocolError):
        router.receive(peer(1), rpc(wire.publish(message(5))) + b"\xff", 0)
    assert (router.stats.malformed, router.stats.delivered) == (1, 0)
    assert router.score(peer(1)) == -10


def test_graylisted_peers_are_not_read_unless_direct() -> None:
    router = router_with(1, 2)
    for number in (1, 2):
        router.set_application_score(peer(number), -81)
    router.add_direct(peer(2))
    assert give(router, 1, message(5)) == []
    assert router.stats.graylisted == 1
    assert router.receive(peer(1), b"\xff", 0) == []
    assert kinds(give(router, 2, message(5)), Deliver)


def test_who_stays_graylisted_is_left() -> None:
    router = router_with(1)
    router.set_application_score(peer(1), -81)
    for now in range(1, 10):
        assert not kinds(router.heartbeat(now), Disconnect)
    assert [effect.peer for effect in kinds(router.heartbeat(10), Disconnect)] == [peer(1)]
    assert not kinds(router.heartbeat(11), Disconnect)
    router.set_application_score(peer(1), 0)
    router.heartbeat(12)
    router.set_application_score(peer(1), -81)
    assert not kinds(router.heartbeat(13), Disconnect)


def test_of_one_rpc_so_many_messages_are_taken_and_the_others_may_come_again() -> None:
    router = router_with(1, limits=GossipLimits(messages=2))
    assert len(kinds(give(router, 1, *[message(author) for author in (5, 6, 7)]), Deliver)) == 2
    assert router.stats.throttled == 1
    assert router.score(peer(1)) == 0
    assert kinds(give(router, 1, message(7)), Deliver)


def test_a_slow_peer_loses_alone() -> None:
    router = router_with(1, 2, limits=GossipLimits(outbox_messages=3))
    for _ in range(5):
        router.publish(TOPIC, b"", 0)
        router.data_to_send(peer(2))
    assert router.stats.dropped_messages == 2
    assert len(sent(router, 1).messages) == 3


# ------------------------------------------------------------------------------------- time


def test_heartbeats() -> None:
    router = make_router(GossipConfig(heartbeat_initial_delay=0.2, heartbeat_interval=2.0))
    router.subscribe(TOPIC, 0)
    join(router, 1)
    assert router.next_deadline() == 0.2
    assert router.deadline_passed(0.1) == []
    assert router.deadline_passed(0.3)
    assert router.mesh(TOPIC) == {peer(1)}
    assert router.next_deadline() == 2.3


def test_a_router_without_key_or_scores() -> None:
    config = GossipConfig(policy=SignaturePolicy.STRICT_NO_SIGN, message_id=from_seqno, score=None)
    router = Router(config, peer_id=peer(0), key=None, random=None, now=0, first_seqno=1)  # type: ignore[arg-type]
    join(router, 1, protocol=V1_1)
    router.set_application_score(peer(1), -1000)
    assert router.score(peer(1)) == 0
    router.heartbeat(1)
    router.peer_left(peer(1), 1)
