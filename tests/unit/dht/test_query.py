"""The lookup: whom it asks, what it believes, and when it ends."""

from __future__ import annotations

import hashlib

import pytest

from talos.addr import parse
from talos.dht.key import common_prefix, kad_id
from talos.dht.peer import PeerInfo
from talos.dht.query import Lookup, LookupConfig, Purpose, Step
from talos.errors import ConfigError, LocalProtocolError
from talos.identity.peer_id import PeerId

KEY = b"/example/key"
TARGET = kad_id(KEY)
HERE = (parse("/ip4/127.0.0.1/tcp/1"),)


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + hashlib.sha256(number.to_bytes(8, "big")).digest())


OWN = peer(0)
NEAREST = sorted((peer(number) for number in range(1, 400)), key=lambda other: kad_id(other.raw) ^ TARGET)
"""By distance to the target."""


def told(*peers: PeerId) -> list[PeerInfo]:
    return [PeerInfo(other, HERE) for other in peers]


def single(seeds: list[PeerId], **changes: int) -> Lookup:
    return Lookup(KEY, seeds, own=OWN, config=LookupConfig(**changes))


def over(lookup: Lookup) -> bool:
    """A call, since the type checker takes an attribute for what it was."""
    return lookup.done


def test_without_a_seed_it_is_over_at_once() -> None:
    lookup = Lookup(KEY, [OWN], own=OWN, purpose=Purpose.STORE)
    assert over(lookup)
    assert lookup.to_ask() == []
    assert lookup.closest() == []
    assert lookup.hops == 0


def test_alpha_are_asked_at_once_nearest_first_and_nobody_twice() -> None:
    lookup = single(NEAREST[100:130])
    assert lookup.to_ask() == NEAREST[100:110]
    assert lookup.to_ask() == []
    assert lookup.waiting == 10
    lookup.answered(NEAREST[105], told(NEAREST[3], NEAREST[100], NEAREST[2]))
    assert lookup.to_ask() == [NEAREST[2]]
    lookup.failed(NEAREST[100])
    assert lookup.to_ask() == [NEAREST[3]]
    assert lookup.asked == 12


def test_the_beta_nearest_end_it_and_no_one_nearer_may_be_under_way() -> None:
    lookup = single(NEAREST[1:6])
    assert lookup.to_ask() == NEAREST[1:6]
    for other in NEAREST[2:4]:
        lookup.answered(other, [])
    assert not over(lookup)
    lookup.answered(NEAREST[4], [])
    assert not over(lookup), "a nearer one is still asked"
    lookup.answered(NEAREST[1], told(NEAREST[0]))
    assert not over(lookup), "a nearer one was heard of"
    assert lookup.to_ask() == [NEAREST[0]]
    lookup.failed(NEAREST[0])
    assert over(lookup)
    assert lookup.closest() == NEAREST[1:5]
    assert lookup.closest(2) == NEAREST[1:3]
    assert lookup.to_ask() == []
    assert lookup.hops == 1
    lookup.answered(NEAREST[5], [])
    assert lookup.closest() == NEAREST[1:6], "what was under way still counts"


def test_fewer_than_beta_are_enough_when_there_are_no_more() -> None:
    lookup = single(NEAREST[:2])
    lookup.to_ask()
    lookup.answered(NEAREST[0], [])
    assert not over(lookup)
    lookup.failed(NEAREST[1])
    assert over(lookup)


def test_only_the_k_nearest_are_worth_asking() -> None:
    lookup = single(NEAREST[:9], k=4, beta=3, alpha=8)
    assert lookup.to_ask() == NEAREST[:4]


def test_what_an_answer_may_bring() -> None:
    lookup = single([NEAREST[50]])
    lookup.to_ask()
    many = tuple(parse(f"/ip4/127.0.0.1/tcp/{port}") for port in range(1, 40))
    offered = [
        PeerInfo(OWN, HERE),
        PeerInfo(NEAREST[50], HERE),
        PeerInfo(NEAREST[7], ()),
        PeerInfo(NEAREST[8], many),
        *told(*NEAREST[10:10_000]),
    ]
    step = lookup.answered(NEAREST[50], offered)
    assert step == Step(0, 1, NEAREST[50], common_prefix(kad_id(NEAREST[50].raw), TARGET), True, len(offered), 17)
    assert lookup.addrs(NEAREST[8]) == many[:16]
    assert lookup.addrs(NEAREST[7]) == ()
    assert {info.peer for info in lookup.reachable()} == {NEAREST[8], *NEAREST[10:26], NEAREST[50]}
    assert OWN not in lookup.to_ask()


def test_far_peers_do_not_lead_away() -> None:
    lookup = single(NEAREST[:3])
    lookup.to_ask()
    for other in NEAREST[:3]:
        lookup.answered(other, told(*NEAREST[300:320]))
    assert over(lookup)
    assert lookup.closest() == NEAREST[:3]


def test_addresses_of_several_tellers_are_joined_up_to_the_limit() -> None:
    lookup = single(NEAREST[50:54], max_addrs=3, alpha=4)
    lookup.to_ask()
    one, two, three, four = (parse(f"/ip4/127.0.0.1/tcp/{port}") for port in range(1, 5))
    lookup.answered(NEAREST[50], [PeerInfo(NEAREST[60], (one,))])
    lookup.answered(NEAREST[51], [PeerInfo(NEAREST[60], (one, two))])
    lookup.answered(NEAREST[52], [PeerInfo(NEAREST[60], (one, two))])
    assert lookup.addrs(NEAREST[60]) == (one, two)
    lookup.answered(NEAREST[53], [PeerInfo(NEAREST[60], (four, three))])
    assert lookup.addrs(NEAREST[60]) == (one, two, four)


def test_telling_of_who_was_not_asked_is_a_mistake() -> None:
    lookup = single(NEAREST[:1])
    with pytest.raises(LocalProtocolError, match="was not asked"):
        lookup.answered(NEAREST[0], [])
    with pytest.raises(LocalProtocolError, match="was not asked"):
        lookup.failed(NEAREST[1])
    lookup.to_ask()
    lookup.failed(NEAREST[0])
    with pytest.raises(LocalProtocolError, match="already"):
        lookup.answered(NEAREST[0], [])


def test_hops_count_who_told_of_whom() -> None:
    lookup = single([NEAREST[9]])
    steps = []
    for nearer in (6, 3, 0):
        (asked,) = lookup.to_ask()
        steps.append(lookup.answered(asked, told(NEAREST[nearer])))
    (last,) = lookup.to_ask()
    steps.append(lookup.answered(last, []))
    assert over(lookup)
    assert [step.hop for step in steps] == [1, 2, 3, 4]
    assert lookup.hops == 4


# --------------------------------------------------------------------------------------------- FIND_PEER


def finding(target: PeerId, seeds: list[PeerId]) -> Lookup:
    return Lookup(target.raw, seeds, own=OWN, purpose=Purpose.FIND_PEER)


def test_a_peer_is_found_by_its_addresses() -> None:
    wanted = peer(5000)
    lookup = finding(wanted, NEAREST[:3])
    asked = lookup.to_ask()
    lookup.answered(asked[0], [PeerInfo(wanted, ())])
    assert not over(lookup)
    lookup.answered(asked[1], [PeerInfo(wanted, HERE)])
    assert over(lookup)
    assert lookup.found == PeerInfo(wanted, HERE)
    assert lookup.hops == 1
    lookup.answered(asked[2], [PeerInfo(wanted, (parse("/ip4/127.0.0.1/tcp/2"),))])
    assert lookup.found == PeerInfo(wanted, HERE)


def test_a_peer_is_found_when_it_answers_itself() -> None:
    wanted = NEAREST[5]
    lookup = finding(wanted, [wanted])
    assert lookup.to_ask() == [wanted]
    lookup.answered(wanted, [])
    assert lookup.found == PeerInfo(wanted, ())


def test_a_few_liars_nearest_to_a_peer_do_not_hide_it() -> None:
    wanted = NEAREST[0]
    lookup = Lookup(wanted.raw, NEAREST[1:30], own=OWN, purpose=Purpose.FIND_PEER)
    while not over(lookup):
        for asked in lookup.to_ask():
            knows = lookup.asked == 20
            lookup.answered(asked, told(wanted) if knows else [])
    assert lookup.found == PeerInfo(wanted, HERE)
    nobody = Lookup(peer(5000).raw, NEAREST[1:30], own=OWN, purpose=Purpose.FIND_PEER)
    while not over(nobody):
        for asked in nobody.to_ask():
            nobody.answered(asked, [])
    assert (nobody.asked, nobody.found) == (20, None), "the k nearest, and no more"


def test_false_addresses_can_be_refuted() -> None:
    wanted, elsewhere = peer(5000), (parse("/ip4/127.0.0.1/tcp/666"),)
    lookup = finding(wanted, NEAREST[:3])
    lookup.refute()
    assert not over(lookup), "nothing was found yet"
    one, two, three = lookup.to_ask()
    lookup.answered(one, [PeerInfo(wanted, elsewhere)])
    assert over(lookup)
    lookup.refute()
    assert not over(lookup)
    lookup.answered(two, [PeerInfo(wanted, elsewhere)])
    assert not over(lookup)
    lookup.answered(three, [PeerInfo(wanted, (*elsewhere, *HERE))])
    assert lookup.found == PeerInfo(wanted, HERE)
    lookup.refute()
    assert over(lookup), "everybody has answered"


# --------------------------------------------------------------------------------------------- GET and STORE


def test_the_quorum_ends_it() -> None:
    lookup = Lookup(KEY, NEAREST[:20], own=OWN, purpose=Purpose.GET, quorum=3)
    first, second, third, *_ = lookup.to_ask()
    lookup.answered(first, [], hits=1)
    lookup.answered(second, told(*NEAREST[30:33]))
    assert not over(lookup)
    lookup.answered(third, [], hits=2)
    assert over(lookup)


def test_the_caller_may_have_enough() -> None:
    lookup = single(NEAREST[:5])
    lookup.finish()
    assert over(lookup)
    assert lookup.to_ask() == []


def test_disjoint_paths_ask_one_at_a_time_and_nobody_twice() -> None:
    lookup = Lookup(KEY, NEAREST[100:120], own=OWN, purpose=Purpose.GET)
    assert lookup.to_ask() == NEAREST[100:110]
    assert lookup.to_ask() == []
    lookup.answered(NEAREST[100], told(*NEAREST[:3]))
    lookup.answered(NEAREST[101], told(*NEAREST[:3]))
    assert lookup.to_ask() == NEAREST[:2]
    lookup.answered(NEAREST[0], [])
    assert lookup.to_ask() == [NEAREST[2]], "the one that the other path asked is left out"
    step = lookup.failed(NEAREST[1])
    assert (step.path, step.hop, step.answered) == (1, 2, False)
    assert lookup.to_ask() == [NEAREST[111]]


def test_a_path_ends_by_itself_and_the_lookup_with_the_last() -> None:
    lookup = Lookup(KEY, NEAREST[:2], own=OWN, purpose=Purpose.GET, config=LookupConfig(disjoint_paths=2))
    lookup.to_ask()
    lookup.answered(NEAREST[0], [])
    assert not over(lookup)
    lookup.answered(NEAREST[1], told(NEAREST[5]))
    assert lookup.to_ask() == [NEAREST[5]]
    lookup.answered(NEAREST[5], [])
    assert over(lookup)


def test_a_store_asks_what_is_left_of_the_k_nearest() -> None:
    config = LookupConfig(disjoint_paths=2, k=4, beta=1)
    lookup = Lookup(KEY, [NEAREST[4], NEAREST[5]], own=OWN, purpose=Purpose.STORE, config=config)
    assert lookup.to_ask() == [NEAREST[4], NEAREST[5]]
    lookup.answered(NEAREST[4], told(NEAREST[0], NEAREST[1], NEAREST[2]))
    lookup.answered(NEAREST[5], [])
    assert lookup.to_ask() == [NEAREST[0]]
    lookup.answered(NEAREST[0], [])
    assert not over(lookup)
    assert lookup.to_ask() == [NEAREST[1], NEAREST[2]]
    step = lookup.failed(NEAREST[1])
    assert step.path == 2
    lookup.answered(NEAREST[2], told(NEAREST[3]))
    assert lookup.to_ask() == [NEAREST[3]]
    lookup.answered(NEAREST[3], [])
    assert over(lookup)
    assert lookup.closest() == [NEAREST[0], *NEAREST[2:5]]


def test_a_store_from_one_seed_needs_the_k_nearest_at_once() -> None:
    lookup = Lookup(KEY, NEAREST[:1], own=OWN, purpose=Purpose.STORE, config=LookupConfig(k=4))
    lookup.to_ask()
    lookup.answered(NEAREST[0], told(*NEAREST[1:4]))
    assert lookup.to_ask() == NEAREST[1:4]
    for other in NEAREST[1:3]:
        lookup.answered(other, [])
    assert not over(lookup)
    lookup.answered(NEAREST[3], [])
    assert over(lookup)


# --------------------------------------------------------------------------------------------- limits and liars


def test_requests_have_an_end() -> None:
    lookup = single(NEAREST[300:310], max_requests=12)
    for other in lookup.to_ask():
        lookup.answered(other, told(*NEAREST[:20]))
    asked = lookup.to_ask()
    assert asked == NEAREST[:2]
    assert lookup.to_ask() == []
    lookup.failed(asked[0])
    assert not over(lookup)
    lookup.failed(asked[1])
    assert over(lookup)
    assert lookup.asked == 12


def test_a_peer_whose_suggestions_all_fail_is_not_believed() -> None:
    lookup = single([NEAREST[50], NEAREST[51]], alpha=2)
    lookup.to_ask()
    lookup.answered(NEAREST[50], told(*NEAREST[:12]))
    lookup.answered(NEAREST[51], told(NEAREST[11]))
    failing = lookup.to_ask()
    while NEAREST[50] in lookup.closest():
        lookup.failed(failing.pop(0))
        failing += lookup.to_ask()
    assert lookup.asked == 2 + 6 + 1, "the last is the one that another told of"
    assert lookup.closest() == [NEAREST[51]]
    left = {info.peer for info in lookup.reachable()}
    assert NEAREST[11] in left, "another told of it too"
    assert NEAREST[10] not in left


def test_one_that_answers_makes_up_for_failures() -> None:
    lookup = single([NEAREST[50]], alpha=1)
    lookup.to_ask()
    lookup.answered(NEAREST[50], told(*NEAREST[:20]))
    (first,) = lookup.to_ask()
    lookup.answered(first, [])
    for _ in range(9):
        (other,) = lookup.to_ask()
        lookup.failed(other)
    assert NEAREST[50] in lookup.closest()
    (other,) = lookup.to_ask()
    lookup.failed(other)
    assert lookup.closest() == [first]
    assert over(lookup)


@pytest.mark.parametrize(
    "wrong",
    [
        {"k": 0},
        {"alpha": 0},
        {"beta": 21},
        {"max_requests": 0},
        {"max_false": 0},
        {"disjoint_paths": 0},
        {"max_peers": 0},
    ],
)
def test_configurations_that_cannot_be(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        LookupConfig(**wrong)
