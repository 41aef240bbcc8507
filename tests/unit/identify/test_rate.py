"""How often peers may push."""

from __future__ import annotations

from talos.identify.rate import Buckets, PushLimiter, PushLimits, PushRate

FREE = PushRate(per_second=1e9, burst=1e9)


def limiter(**limits: object) -> PushLimiter[str]:
    free = {"at_once": 1000, "per_peer": FREE, "per_network": FREE, "total": FREE}
    return PushLimiter(PushLimits(**{**free, **limits}))  # type: ignore[arg-type]


def test_so_many_at_once() -> None:
    pushes = limiter(at_once=2)
    assert [pushes.enter(name, None, 0.0) for name in "abc"] == [True, True, False]
    pushes.leave()
    assert pushes.enter("c", None, 0.0)
    assert pushes.running == 2


def test_one_a_second_of_a_peer() -> None:
    pushes = limiter(per_peer=PushLimits().per_peer)
    assert [pushes.enter("a", None, now) for now in (0.0, 0.9, 1.9, 2.0, 3.0)] == [True, False, True, False, True]
    assert pushes.enter("b", None, 3.0)


def test_a_network_has_a_rate_and_a_burst() -> None:
    pushes = limiter(per_network=PushLimits().per_network)
    assert [pushes.enter(str(n), "net", 0.0) for n in range(11)] == [True] * 10 + [False]
    assert pushes.enter("x", "other", 0.0)
    assert pushes.enter("x", None, 0.0)
    assert not pushes.enter("x", "net", 4.9)
    assert pushes.enter("x", "net", 10.0)


def test_all_together_have_a_rate() -> None:
    pushes = limiter(total=PushRate(per_second=1, burst=3))
    assert [pushes.enter(str(n), n, 0.0) for n in range(4)] == [True] * 3 + [False]


def test_the_buckets_are_bounded() -> None:
    buckets: Buckets[int] = Buckets(PushRate(per_second=1, burst=1), 2)
    assert all(buckets.take(key, 0.0) for key in (1, 2, 3))
    assert len(buckets) == 2
    assert not buckets.take(3, 0.0)
    assert buckets.take(1, 0.0)
