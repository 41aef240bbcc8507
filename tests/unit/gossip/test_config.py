"""Configurations: the specification's defaults, and what contradicts itself."""

from __future__ import annotations

from typing import Any

import pytest

from talos.errors import ConfigError, NegotiationError
from talos.gossip.config import GaterConfig, GossipConfig, GossipLimits, SignaturePolicy
from talos.gossip.message import from_seqno, sha256_of_data
from talos.gossip.version import PROTOCOLS, Version


def test_the_defaults_are_those_of_the_text() -> None:
    config = GossipConfig()
    assert (config.d, config.d_lo, config.d_hi, config.d_lazy, config.d_score, config.d_out) == (6, 4, 12, 6, 4, 2)
    assert (config.heartbeat_interval, config.heartbeat_initial_delay, config.fanout_ttl) == (1, 0.1, 60)
    assert (config.mcache_len, config.mcache_gossip, config.seen_ttl) == (5, 3, 120)
    assert (config.gossip_factor, config.gossip_retransmission) == (0.25, 3)
    assert (config.prune_peers, config.prune_backoff, config.unsubscribe_backoff) == (16, 60, 10)
    assert (config.graft_flood_threshold, config.iwant_followup_time) == (10, 3)
    assert (config.max_ihave_length, config.max_ihave_messages) == (5000, 10)
    assert (config.opportunistic_graft_ticks, config.opportunistic_graft_peers) == (60, 2)
    assert config.policy is SignaturePolicy.STRICT_SIGN
    assert config.id_of is from_seqno


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: GossipConfig(policy=SignaturePolicy.LAX_SIGN, message_id=from_seqno),
        lambda: GossipConfig(policy=SignaturePolicy.LAX_NO_SIGN, message_id=from_seqno),
        lambda: GossipConfig(policy=SignaturePolicy.STRICT_NO_SIGN),
        lambda: GossipConfig(d=3),
        lambda: GossipConfig(d_hi=5),
        lambda: GossipConfig(d_out=4, d=12),
        lambda: GossipConfig(d_out=3, d=5, d_lo=5),
        lambda: GossipConfig(d_score=7),
        lambda: GossipConfig(mcache_gossip=6),
        lambda: GossipConfig(gossip_factor=1.5),
        lambda: GossipConfig(prune_backoff=4000.0),
        lambda: GossipConfig(unsubscribe_backoff=0.5),
        lambda: GossipConfig(graft_flood_threshold=61.0),
        lambda: GossipConfig(heartbeat_interval=0.0),
        lambda: GossipConfig(d_lazy=-1),
        lambda: GossipConfig(seen_ttl=float("inf")),
        lambda: GossipLimits(peers=0),
        lambda: GossipLimits(control_bytes=1 << 21),
        lambda: GossipLimits(data_bytes=1 << 20),
        lambda: GossipLimits(topic_data_bytes={"big": 1 << 20}),
        lambda: GaterConfig(global_decay=1.0),
    ],
)
def test_what_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="gossip"):
        wrong()


def test_gossip_and_peer_exchange_can_be_switched_off() -> None:
    config = GossipConfig(d_lazy=0, gossip_factor=0.0, prune_peers=0, opportunistic_graft_peers=0)
    assert config.gossip_factor == 0


def test_lax_policies_need_a_word() -> None:
    config = GossipConfig(policy=SignaturePolicy.LAX_SIGN, message_id=from_seqno, insecure=True)
    assert config.policy.lax
    assert config.policy.signs
    assert not SignaturePolicy.LAX_NO_SIGN.signs


def test_data_may_be_larger_by_topic() -> None:
    limits = GossipLimits(topic_data_bytes={"blobs": 900_000})
    assert (limits.data_of("blobs"), limits.data_of("news")) == (900_000, 65_536)


def test_versions() -> None:
    assert [Version.of(protocol).protocol for protocol in PROTOCOLS] == list(PROTOCOLS)
    assert sorted(PROTOCOLS, key=Version.of, reverse=True) == list(PROTOCOLS)
    with pytest.raises(NegotiationError, match="meshsub/9"):
        Version.of("/meshsub/9.0.0")


def test_ids_by_data() -> None:
    assert sha256_of_data(b"a", b"1", b"data", "t") == sha256_of_data(b"b", b"2", b"data", "u")
    assert len(sha256_of_data(b"", b"", b"", "")) == 32
