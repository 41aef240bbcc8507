"""Messages on their way in: which are taken, which are ignored, whom a bad one is blamed on."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from talos.errors import ConfigError, LocalProtocolError
from talos.gossip import intake, signature, wire
from talos.gossip.config import GaterConfig, GossipConfig, GossipLimits, SignaturePolicy
from talos.gossip.event import Deliver, Validate, ValidationResult
from talos.gossip.message import from_seqno, sha256_of_data
from talos.gossip.score_config import ScoreConfig, TopicScore
from talos.gossip.signature import Signatures
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.wire import fields
from tests.unit.gossip.peers import TOPIC, control, give, join, key, kinds, make_router, message, message_id, peer, sent

if TYPE_CHECKING:
    from talos.gossip.router import Router

ACCEPT, IGNORE, REJECT = ValidationResult.ACCEPT, ValidationResult.IGNORE, ValidationResult.REJECT
P4_ONLY = TopicScore(
    topic_weight=1.0,
    time_in_mesh_weight=0.0,
    first_message_deliveries_weight=0.0,
    invalid_message_deliveries_weight=-1.0,
)
SCORES = ScoreConfig(default_topic=P4_ONLY)


def router_with(*numbers: int, validate: bool = False, **changes: Any) -> Router:
    changes.setdefault("score", SCORES)
    router = make_router(GossipConfig(**changes))
    router.subscribe(TOPIC, 0, validate=validate)
    join(router, *numbers)
    return router


def unsigned(author: int = 5, data: bytes = b"hello", seqno: int = 1) -> bytes:
    return wire.encode_message(peer(author).to_bytes(), data, seqno.to_bytes(8, "big"), TOPIC)


# ------------------------------------------------------------------------------------- signatures


def test_a_signed_message_is_delivered() -> None:
    router = router_with(1)
    [effect] = kinds(give(router, 1, message(5)), Deliver)
    delivered = effect.message
    assert (delivered.topic, delivered.data, delivered.id) == (TOPIC, b"hello", message_id(5))
    assert (delivered.source, delivered.author, delivered.seqno) == (peer(1), peer(5), bytes(7) + b"\x01")
    assert router.stats.delivered == 1


def test_unknown_fields_are_covered_and_kept_through_forwarding() -> None:
    router = router_with(1, 2)
    extra = unsigned() + fields.bytes_field(77, b"new")
    raw = wire.with_signature(extra, key(5).sign(wire.SIGN_PREFIX + extra), key(5).public_key.to_bytes())
    router.heartbeat(1)
    router.data_to_send(peer(2))
    assert kinds(give(router, 1, raw), Deliver)
    assert sent(router, 2).messages == [raw]


BAD = {
    "unsigned": unsigned(),
    "wrong signature": wire.with_signature(unsigned(), bytes(64), None),
    "short signature": wire.with_signature(unsigned(), b"x", None),
    "other data signed": wire.with_signature(unsigned(data=b"other"), key(5).sign(wire.SIGN_PREFIX + unsigned()), None),
    "another's key": wire.with_signature(
        unsigned(), key(6).sign(wire.SIGN_PREFIX + unsigned()), key(6).public_key.to_bytes()
    ),
    "junk key": wire.with_signature(unsigned(), key(5).sign(wire.SIGN_PREFIX + unsigned()), b"junk"),
    "no author": wire.with_signature(wire.encode_message(None, b"", bytes(8), TOPIC), bytes(64), None),
    "no number": wire.with_signature(wire.encode_message(peer(5).to_bytes(), b"", None, TOPIC), bytes(64), None),
    "short number": wire.with_signature(wire.encode_message(peer(5).to_bytes(), b"", b"1", TOPIC), bytes(64), None),
    "junk author": wire.with_signature(wire.encode_message(b"me", b"", bytes(8), TOPIC), bytes(64), None),
    "hashed author without key": wire.with_signature(
        wire.encode_message(b"\x12\x20" + bytes(32), b"", bytes(8), TOPIC), bytes(64), None
    ),
    "too much data": message(5, bytes(101)),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_hold_is_rejected_and_does_not_suppress(name: str) -> None:
    router = router_with(1, 2, limits=GossipLimits(data_bytes=100))
    assert not kinds(give(router, 1, BAD[name]), Deliver)
    assert router.stats.rejected == 1
    assert router.score(peer(1)) == -1
    assert kinds(give(router, 2, message(5)), Deliver)


def test_messages_without_a_topic_of_ours() -> None:
    router = router_with(1)
    give(router, 1, message(5, topic="other"))
    assert (router.stats.ignored, router.stats.rejected) == (1, 0)
    give(router, 1, b"\x0a\xff")
    assert router.stats.rejected == 1
    assert router.score(peer(1)) == -10


def test_a_key_that_the_id_does_not_hold_comes_with_the_message() -> None:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import rsa

    from talos.identity.keys import KeyType

    made = rsa.generate_private_key(65537, 2048).private_bytes(
        forms.Encoding.DER, forms.PrivateFormat.TraditionalOpenSSL, forms.NoEncryption()
    )
    rsa_key = PrivateKey(KeyType.RSA, made)
    author = PeerId.from_key(rsa_key.public_key)
    signer = Signatures(SignaturePolicy.STRICT_SIGN, peer_id=author, key=rsa_key, first_seqno=7)
    _, _, raw = signer.make(TOPIC, b"hello")
    assert wire.MessageFields(raw).key == rsa_key.public_key.to_bytes()
    router = router_with(1)
    [effect] = kinds(give(router, 1, raw), Deliver)
    assert effect.message.author == author
    # Known by now, and not taken from the next message again.
    _, _, second = signer.make(TOPIC, b"hello")
    assert kinds(give(router, 1, second), Deliver)


def test_the_keys_at_hand_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signature, "_MAX_KEYS", 2)
    router = router_with(1)
    for author in (5, 6, 7, 5):
        give(router, 1, message(author, seqno=author + 10 * router.stats.delivered))
    assert router.stats.delivered == 4
    assert len(router._signatures._authors) == 2


def test_numbers_rise_and_end() -> None:
    signer = Signatures(SignaturePolicy.STRICT_SIGN, peer_id=peer(0), key=key(0), first_seqno=2**64 - 2)
    assert [signer.make("t", b"")[1] for _ in range(2)] == [b"\xff" * 7 + b"\xfe", b"\xff" * 8]
    with pytest.raises(LocalProtocolError, match="used up"):
        signer.make("t", b"")
    with pytest.raises(ConfigError, match="needs a key"):
        Signatures(SignaturePolicy.STRICT_SIGN, peer_id=peer(0), key=None, first_seqno=1)


def test_without_signatures() -> None:
    router = router_with(1, 2, policy=SignaturePolicy.STRICT_NO_SIGN, message_id=sha256_of_data)
    plain = wire.encode_message(None, b"hello", None, TOPIC)
    [effect] = kinds(give(router, 1, plain), Deliver)
    assert (effect.message.author, effect.message.seqno, effect.message.id) == (
        None,
        b"",
        sha256_of_data(b"", b"", b"hello", TOPIC),
    )
    for bad in (message(5), unsigned(), plain + fields.bytes_field(6, b"key")):
        give(router, 2, bad)
    assert router.stats.rejected == 3
    published, _ = router.publish(TOPIC, b"ours", 0)
    assert published.author is None
    with pytest.raises(LocalProtocolError, match="already"):
        router.publish(TOPIC, b"ours", 0)


def test_lax_policies_take_both() -> None:
    router = router_with(1, policy=SignaturePolicy.LAX_NO_SIGN, message_id=sha256_of_data, insecure=True)
    give(router, 1, message(5, b"1"), unsigned(5, b"2"), wire.encode_message(None, b"3", None, TOPIC))
    assert router.stats.delivered == 3
    give(router, 1, wire.with_signature(unsigned(5, b"4"), bytes(64), None))
    assert router.stats.rejected == 1


# ------------------------------------------------------------------------------------- known or not


def test_our_own_messages_come_back() -> None:
    router = router_with(1)
    published, _ = router.publish(TOPIC, b"hello", 0)
    assert not give(router, 1, published.raw)
    assert (router.stats.ignored, router.stats.duplicates) == (1, 0)


def test_duplicates_are_counted_and_told() -> None:
    told: list[object] = []
    router = make_router(on_receive=lambda *what: told.append(what))
    router.subscribe(TOPIC, 0)
    join(router, 1, 2)
    for sender in (1, 2, 2):
        give(router, sender, message(5))
    assert (router.stats.delivered, router.stats.duplicates) == (1, 2)
    assert told == [(peer(sender), TOPIC, message_id(5)) for sender in (1, 2, 2)]


def test_a_message_played_again_after_its_time_is_ignored() -> None:
    router = router_with(1, seen_ttl=10.0)
    give(router, 1, message(5, seqno=3))
    router.heartbeat(11)
    give(router, 1, message(5, seqno=3), now=11)
    give(router, 1, message(5, seqno=2), now=11)
    assert (router.stats.delivered, router.stats.ignored) == (1, 2)
    assert router.score(peer(1)) == 0
    assert kinds(give(router, 1, message(5, seqno=4), now=11), Deliver)


P3 = replace(
    P4_ONLY,
    mesh_message_deliveries_weight=-1.0,
    mesh_message_deliveries_threshold=2.0,
    mesh_message_deliveries_window=1.0,
    mesh_message_deliveries_activation=1.0,
    mesh_message_deliveries_decay=0.999,
)


def test_duplicates_within_the_window_count_for_the_mesh_once() -> None:
    router = router_with(1, 2, score=ScoreConfig(default_topic=P3))
    router.heartbeat(0.5)
    router._scores.refresh(2)
    assert router.mesh(TOPIC) == {peer(1), peer(2)}
    assert router.score(peer(2)) == -4
    give(router, 1, message(5), now=2)
    give(router, 2, message(5), now=2.9)
    give(router, 2, message(5), now=2.9)
    assert router.score(peer(2)) == -1
    give(router, 1, message(6), now=3)
    give(router, 2, message(6), now=4.5)
    assert router.score(peer(2)) == -1
    assert router.score(peer(1)) == 0


def test_recent_deliveries_are_bounded_and_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "_MAX_RECENT", 2)
    router = router_with(1, validate=True, score=ScoreConfig(default_topic=P3))
    questions = [kinds(give(router, 1, message(author)), Validate)[0].message for author in (5, 6, 7)]
    assert len(router._intake._deliveries) == 2
    for question in questions:
        assert kinds(router.validated(question, ACCEPT, 1), Deliver)
    give(router, 1, message(8), now=1)
    router.heartbeat(1.5)
    assert len(router._intake._deliveries) == 2
    router.heartbeat(2.5)
    assert list(router._intake._deliveries) == [message_id(8)]


# ------------------------------------------------------------------------------------- validation


def test_accepted_later_and_forwarded_to_those_without_it() -> None:
    router = router_with(1, 2, 3, validate=True)
    router.heartbeat(1)
    for number in (1, 2, 3):
        router.data_to_send(peer(number))
    [effect] = kinds(give(router, 1, message(5), now=1), Validate)
    give(router, 2, message(5), now=1)
    assert router._intake.pending == 1
    effects = router.validated(effect.message, ACCEPT, 2)
    assert [one.message for one in kinds(effects, Deliver)] == [effect.message]
    assert [len(sent(router, number).messages) for number in (1, 2, 3)] == [0, 0, 1]
    assert router._intake.pending == 0
    assert router.validated(effect.message, ACCEPT, 2) == []


def test_ignored_blames_nobody() -> None:
    router = router_with(1, validate=True)
    [effect] = kinds(give(router, 1, message(5)), Validate)
    assert not kinds(router.validated(effect.message, IGNORE, 1), Deliver)
    assert router.stats.ignored == 1
    assert router.score(peer(1)) == 0


def test_rejected_blames_all_who_brought_it_before_and_after() -> None:
    router = router_with(1, 2, 3, validate=True)
    [effect] = kinds(give(router, 1, message(5)), Validate)
    give(router, 2, message(5))
    router.validated(effect.message, REJECT, 1)
    give(router, 3, message(5), now=1)
    assert [router.score(peer(number)) for number in (1, 2, 3)] == [-1, -1, -1]
    assert router.stats.delivered == 0


def test_unsubscribed_while_it_was_judged() -> None:
    router = router_with(1, validate=True)
    [effect] = kinds(give(router, 1, message(5)), Validate)
    router.unsubscribe(TOPIC, 1)
    assert not kinds(router.validated(effect.message, ACCEPT, 1), Deliver)


@pytest.mark.parametrize("limit", ["validation_per_peer", "validation_per_topic", "validation"])
def test_validation_is_bounded_and_what_is_throttled_may_come_again(limit: str) -> None:
    router = router_with(1, validate=True, limits=GossipLimits(**{limit: 2}), gater=None)  # type: ignore[arg-type]
    questions = kinds(give(router, 1, *[message(author) for author in (5, 6, 7)]), Validate)
    assert len(questions) == 2
    assert router.stats.throttled == 1
    router.validated(questions[0].message, ACCEPT, 1)
    assert len(kinds(give(router, 1, message(7), now=1), Validate)) == 1


def test_a_useless_peer_is_gated_while_validation_is_throttled() -> None:
    gater = GaterConfig(reject_weight=1e9)
    router = router_with(1, validate=True, limits=GossipLimits(validation=1), gater=gater, score=None)
    give(router, 1, message(5), message(6), BAD["unsigned"])
    assert router.stats.throttled == 1
    assert not give(router, 1, message(7))
    assert router.stats.gated == 1
    control(router, 1, wire.graft(TOPIC))
    assert peer(1) in router.mesh(TOPIC)
    router.add_direct(peer(1))
    give(router, 1, message(7))
    assert router.stats.throttled == 2


def test_the_default_message_id() -> None:
    assert from_seqno(b"author", b"seqno", b"data", "topic") == b"authorseqno"
