"""Peer exchange: whom a PRUNE names, and what becomes of those that one names to us (gossipsub v1.1, "PX")."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from talos.errors import BadSignature, RemoteProtocolError
from talos.gossip.event import Candidate, Connect
from talos.gossip.version import Version
from talos.gossip.wire import Prune
from talos.identity.peer_id import PeerId
from talos.identity.peer_record import SignedPeerRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from random import Random

    from talos.gossip.config import GossipConfig
    from talos.gossip.neighbour import EffectSink, Neighbour, Neighbours
    from talos.gossip.score import PeerScores

__all__ = ["PeerExchange"]

_MAX_RECORD_BYTES = 1024
"""Longer records are left out of a PRUNE: the control part has room for all sixteen or for none."""


class PeerExchange:
    """`record_of` gives the signed record of a peer, where the node keeps one."""

    __slots__ = ("_config", "_effects", "_neighbours", "_own", "_random", "_record_of", "_scores")

    def __init__(
        self, config: GossipConfig, *, own: PeerId, neighbours: Neighbours, scores: PeerScores, effects: EffectSink,
        random: Random, record_of: Callable[[PeerId], bytes | None],
    ) -> None:  # fmt: skip
        self._config = config
        self._own = own
        self._neighbours = neighbours
        self._scores = scores
        self._effects = effects
        self._random = random
        self._record_of = record_of

    def prune(self, neighbour: Neighbour, topic: str, seconds: float, *, exchange: bool) -> Prune:
        """A PRUNE as the peer's version knows it, with peers to try unless it deserves none."""
        if neighbour.version < Version.V1_1:
            return Prune(topic)
        if not (exchange and self._config.do_px and self._scores.score(neighbour.peer) >= 0):
            return Prune(topic, backoff=math.ceil(seconds))
        others = [
            one.peer
            for one in self._neighbours.in_topic(topic).values()
            if one is not neighbour and self._scores.score(one.peer) >= 0
        ]
        chosen = self._random.sample(others, min(self._config.prune_peers, len(others)))
        peers, room = [], self._config.limits.control_bytes // 2
        for peer in chosen:
            record = self._record_of(peer) or b""
            if len(record) > min(_MAX_RECORD_BYTES, room):
                record = b""
            room -= len(record)
            peers.append((peer.to_bytes(), record))
        return Prune(topic, peers, math.ceil(seconds))

    def received(self, peers: Sequence[tuple[bytes, bytes]]) -> None:
        """Named by a neighbour of good score: records are checked, what is malformed or known is left out."""
        candidates = []
        for raw, record in peers[: self._config.prune_peers]:
            try:
                candidate = _candidate(raw, record)
            except (RemoteProtocolError, BadSignature):
                continue
            if candidate.peer != self._own and candidate.peer not in self._neighbours:
                candidates.append(candidate)
        if candidates:
            self._effects.add(Connect(tuple(candidates)))


def _candidate(raw: bytes, record: bytes) -> Candidate:
    peer = PeerId(raw)
    if not record:
        return Candidate(peer)
    signed = SignedPeerRecord.consume(record)
    if signed.record.peer_id != peer:
        raise RemoteProtocolError(f"record of another peer than {peer}")
    return Candidate(peer, signed.record.addrs, record)
