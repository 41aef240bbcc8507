"""What we say of ourselves, encoded once for all connections until it changes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from talos import addr as addresses
from talos.identify.machine import MAX_SENT_BYTES, split
from talos.identify.wire import Identify, encode
from talos.identity.peer_record import SignedPeerRecord, next_seq
from talos.wire.length_prefix import frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from multiaddr import Multiaddr

    from talos.abc import Host

__all__ = ["OwnState"]

MAX_RECORD_BYTES = 2560
"""The addresses of a record, which has to fit one message; those at the end are left out of it."""
OBSERVED_BYTES = 1032
"""Kept free in the first message for the address that the peer is seen at, the longest there can be."""


class OwnState:
    """Our own messages. A record is signed when somebody first asks for it, not for each connection.

    Peers on this machine are told loopback addresses too, others are not; so there are two of everything.
    """

    def __init__(self, host: Host, *, agent_version: str, protocol_version: str) -> None:
        self._host = host
        self._agent_version = agent_version
        self._protocol_version = protocol_version
        self._last_seq: int | None = None
        self._records: dict[tuple[bytes, ...], bytes] = {}
        self._cached: dict[bool, tuple[bytes, bytes]] = {}
        """First message, and the framed others."""
        self.generation = 0

    def changed(self) -> None:
        """Addresses or protocols are others now."""
        self.generation += 1
        self._cached.clear()

    def messages_for(self, remote_addr: Multiaddr) -> bytes:
        """What is sent to the peer at `remote_addr`, framed."""
        local = addresses.is_loopback(remote_addr) or addresses.ip_of(remote_addr) is None
        own = self._cached.get(local)
        if own is None:
            own = self._cached[local] = self._make(local=local)
        observed = encode(Identify(observed_addr=remote_addr.to_bytes()))
        # Encoded fields may stand one behind the other, so that only this one is made for each connection.
        return frame(own[0] + observed) + own[1]

    def _make(self, *, local: bool) -> tuple[bytes, bytes]:
        host = self._host
        addrs = [addresses.split_peer(addr)[0] for addr in host.addrs]
        told = tuple(addr.to_bytes() for addr in addrs if local or not addresses.is_loopback(addr))
        own = Identify(
            public_key=host.key.public_key.to_bytes(),
            listen_addrs=told,
            protocols=tuple(host.protocols),
            protocol_version=self._protocol_version,
            agent_version=self._agent_version,
            signed_peer_record=self._record(told) if told else None,
        )
        first, *others = split(own, max_bytes=MAX_SENT_BYTES - OBSERVED_BYTES)
        return first, b"".join(map(frame, others))

    def _record(self, addrs: tuple[bytes, ...]) -> bytes:
        """Signed anew only when the addresses are others than the last two times."""
        raw = self._records.get(addrs)
        if raw is None:
            self._last_seq = next_seq(time.time_ns(), self._last_seq)
            raw = SignedPeerRecord.make(self._host.key, _fitting(addrs), self._last_seq).envelope.raw
            self._records[addrs] = raw
            if len(self._records) > 2:
                del self._records[next(iter(self._records))]
        return raw


def _fitting(addrs: Sequence[bytes]) -> list[bytes]:
    """The first of `addrs` that a record has room for."""
    fitting: list[bytes] = []
    room = MAX_RECORD_BYTES
    for addr in addrs:
        room -= len(addr) + 6
        if room < 0:
            break
        fitting.append(addr)
    return fitting
