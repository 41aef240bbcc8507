"""The bounded tables of the router: seen, cached, promised, backed off, gated."""

from __future__ import annotations

import random

import pytest

from talos.gossip.backoff import Backoffs
from talos.gossip.config import GaterConfig
from talos.gossip.gater import Gater
from talos.gossip.message import Message
from talos.gossip.message_cache import MessageCache
from talos.gossip.promise import Promises
from talos.gossip.seen import SeenCache
from tests.unit.gossip.peers import peer

A, B = peer(1), peer(2)


def make(name: bytes, topic: str = "t", size: int = 10) -> Message:
    return Message(topic, b"", name, A, A, b"", bytes(size))


# ------------------------------------------------------------------------------------- seen


def test_seen_for_its_time() -> None:
    seen = SeenCache(ttl=10, max_ids=5, max_authors=5)
    seen.add(b"a", 0)
    seen.add(b"b", 5)
    seen.expire(9.9)
    assert b"a" in seen
    seen.expire(10)
    assert b"a" not in seen
    assert b"b" in seen
    seen.expire(20)
    assert len(seen) == 0
    seen.expire(30)


def test_seen_is_bounded_and_the_oldest_leaves() -> None:
    seen = SeenCache(ttl=10, max_ids=2, max_authors=2)
    for number, name in enumerate((b"a", b"b", b"c")):
        seen.add(name, number)
    assert [name in seen for name in (b"a", b"b", b"c")] == [False, True, True]


def test_a_forgotten_number_is_a_replay_and_an_overtaken_one_is_not() -> None:
    seen = SeenCache(ttl=10, max_ids=10, max_authors=2)
    seen.add(b"5", 0, b"author", 5)
    assert not seen.is_replay(b"author", 3)
    seen.add(b"3", 1, b"author", 3)
    seen.expire(11)
    assert seen.is_replay(b"author", 5)
    assert seen.is_replay(b"author", 4)
    assert not seen.is_replay(b"author", 6)
    assert not seen.is_replay(b"another", 1)
    for name in (b"x", b"y"):
        seen.add(name, 11, name, 1)
    seen.expire(30)
    assert not seen.is_replay(b"author", 5)  # two authors are remembered
    assert seen.is_replay(b"y", 1)


def test_seen_remembers_what_was_rejected() -> None:
    seen = SeenCache(ttl=10, max_ids=10, max_authors=2)
    seen.add(b"a", 0)
    assert not seen.was_rejected(b"a")
    seen.reject(b"a")
    seen.reject(b"unknown")
    assert seen.was_rejected(b"a")
    assert not seen.was_rejected(b"unknown")


# ------------------------------------------------------------------------------------- cache


def test_cache_keeps_for_its_windows_and_announces_the_newer() -> None:
    cache = MessageCache(length=3, gossip=2, max_bytes=1000)
    for beat in range(3):
        cache.put(make(b"%d" % beat))
        cache.shift()
    # The newest window is empty, then come 2, 1; 0 has left.
    assert cache.gossip_ids() == {"t": [b"2"]}
    assert cache.answer(b"0", B, 3) is None
    assert cache.answer(b"1", B, 3) is not None
    assert (len(cache), cache.size) == (2, 20)


def test_cache_is_bounded_in_bytes() -> None:
    cache = MessageCache(length=3, gossip=2, max_bytes=25)
    for name in (b"a", b"b", b"b", b"c"):
        cache.put(make(name))
    assert cache.gossip_ids() == {"t": [b"b", b"c"]}
    assert cache.size == 20
    for _ in range(3):
        cache.shift()
    assert (len(cache), cache.size, cache.gossip_ids()) == (0, 0, {})


def test_cache_answers_each_peer_so_many_times() -> None:
    cache = MessageCache(length=3, gossip=2, max_bytes=1000)
    cache.put(make(b"a"))
    cache.put(make(b"b"))
    assert [cache.answer(b"a", A, 2) is not None for _ in range(3)] == [True, True, False]
    assert cache.answer(b"a", B, 2) is not None
    cache.forget_peer(A)
    assert cache.answer(b"a", A, 2) is not None


# ------------------------------------------------------------------------------------- promises and back-offs


def test_promises_are_kept_by_anybody_or_broken() -> None:
    promises = Promises(10)
    for name in (b"a", b"b", b"c"):
        promises.add(name, A, 3)
    promises.add(b"b", B, 3)
    promises.add(b"b", B, 99)
    promises.kept(b"b")
    promises.kept(b"unknown")
    assert len(promises) == 2
    assert promises.broken(3) == {}
    assert promises.broken(3.1) == {A: 2}
    assert len(promises) == 0
    promises.kept(b"a")


def test_promises_of_who_left_and_their_bound() -> None:
    promises = Promises(3)
    for name in (b"a", b"b"):
        promises.add(name, A, 3)
    promises.add(b"a", B, 3)
    promises.add(b"c", B, 3)
    assert len(promises) == 3
    promises.forget_peer(A)
    assert promises.broken(9) == {B: 1}


def test_backoffs() -> None:
    backoffs = Backoffs(2)
    backoffs.add("t", A, 10)
    backoffs.add("t", A, 5)
    assert backoffs.until("t", A) == 10
    assert backoffs.until("t", B) is None
    backoffs.add("t", B, 20)
    backoffs.expire(10)
    assert backoffs.until("t", A) is None
    backoffs.add("u", A, 20)
    backoffs.add("v", A, 20)
    assert len(backoffs) == 2
    assert backoffs.until("t", B) is None


# ------------------------------------------------------------------------------------- gater


def gater(config: GaterConfig | None = None, limit: int = 10) -> Gater:
    return Gater(config or GaterConfig(), random=random.Random(1), limit=limit)


def accepted(gate: Gater, one: object, now: float = 1) -> float:
    return sum(gate.accepts(one, now) for _ in range(1000)) / 1000  # type: ignore[arg-type]


def test_nobody_is_gated_before_something_was_throttled() -> None:
    gate = gater()
    for _ in range(50):
        gate.rejected(A)
    assert accepted(gate, A) == 1


def test_who_brings_nothing_of_use_is_gated_while_validation_is_throttled() -> None:
    gate = gater()
    gate.throttled(0)
    for _ in range(15):
        gate.delivered(B)
        gate.duplicate(A)
        gate.ignored(A)
    gate.rejected(A)
    # A: 1 / (1 + 0.125 × 15 + 15 + 16); B: always.
    assert accepted(gate, B) == 1
    assert accepted(gate, A) == pytest.approx(1 / 33.9, abs=0.015)
    assert accepted(gate, A, now=61) == 1


def test_little_throttling_gates_nobody() -> None:
    gate = gater()
    for _ in range(4):
        gate.validated()
    gate.throttled(0)
    for _ in range(50):
        gate.rejected(A)
    assert accepted(gate, A) == 1
    gate.throttled(0)
    assert accepted(gate, A) < 0.1


def test_gater_forgets() -> None:
    gate = gater(GaterConfig(global_decay=0.5, source_decay=0.5))
    gate.throttled(0)
    gate.rejected(A)
    for _ in range(8):
        gate.beat()
    assert len(gate) == 0
    assert gate._throttled == 0


def test_gater_is_bounded() -> None:
    gate = gater(limit=2)
    for number in range(5):
        gate.duplicate(peer(number))
    assert len(gate) == 2


def test_gater_switched_off() -> None:
    gate = Gater(None, random=random.Random(1), limit=2)
    gate.throttled(0)
    gate.rejected(A)
    assert accepted(gate, A) == 1
    gate.beat()
    assert len(gate) == 0
