"""One exchange of DCUtR, from both ends, without IO or a clock.

Side B, whose peer dialled it through the relay, begins:

    B: CONNECT(own addresses) ──►  A: CONNECT(own addresses) ──►  B: SYNC, and punches half a round trip later
                                                                  A punches when SYNC arrives

The round trip is that from B's CONNECT to A's. Above the bytes of a TCP connection A is the client, B the server
(libp2p dcutr). What is dialled of the other side's addresses: direct ones with an IP address, public unless that is
said otherwise, at most 16.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.addr import ip_of, is_public, is_relayed, split_peer
from talos.dcutr.wire import MAX_ADDRS, HolePunch, HolePunchType
from talos.errors import LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiaddr import Multiaddr

__all__ = ["HolePunchMachine", "Punch", "Send", "Side", "usable"]


class Side(enum.Enum):
    """Who we are in an exchange."""

    A = "dialled through the relay"
    B = "was dialled through the relay"


@dataclass(frozen=True, slots=True)
class Send:
    """This message, now."""

    message: HolePunch


@dataclass(frozen=True, slots=True)
class Punch:
    """All of these at once, after so many seconds."""

    addrs: tuple[Multiaddr, ...]
    seconds: float


class _State(enum.Enum):
    START = enum.auto()
    CONNECT_SENT = enum.auto()
    CONNECTED = enum.auto()
    DONE = enum.auto()


class HolePunchMachine:
    """One attempt; another one is a new machine."""

    __slots__ = ("_allow_private", "_own", "_sent_at", "_state", "_theirs", "side")

    def __init__(self, side: Side, own: Iterable[Multiaddr], *, allow_private: bool = False) -> None:
        self.side = side
        self._own = usable(own, allow_private=allow_private)
        self._allow_private = allow_private
        self._state = _State.START
        self._theirs: tuple[Multiaddr, ...] = ()
        self._sent_at = 0.0

    @property
    def done(self) -> bool:
        """Whether nothing more is expected."""
        return self._state is _State.DONE

    def begin(self, now: float) -> Send:
        """Side B's first message."""
        if self.side is not Side.B or self._state is not _State.START:
            raise LocalProtocolError("only side B begins, and once")
        self._state = _State.CONNECT_SENT
        self._sent_at = now
        return Send(HolePunch(HolePunchType.CONNECT, self._own))

    def receive(self, message: HolePunch, now: float) -> list[Send | Punch]:
        """What to do about a message; RemoteProtocolError for one out of turn."""
        match self.side, self._state, message.type:
            case Side.B, _State.CONNECT_SENT, HolePunchType.CONNECT:
                self._take(message)
                self._state = _State.DONE
                half = max(0.0, now - self._sent_at) / 2
                return [Send(HolePunch(HolePunchType.SYNC)), Punch(self._theirs, half)]
            case Side.A, _State.START, HolePunchType.CONNECT:
                self._take(message)
                self._state = _State.CONNECTED
                return [Send(HolePunch(HolePunchType.CONNECT, self._own))]
            case Side.A, _State.CONNECTED, HolePunchType.SYNC:
                self._state = _State.DONE
                return [Punch(self._theirs, 0.0)]
        raise RemoteProtocolError(f"{message.type.name} out of turn in hole punching")

    def _take(self, message: HolePunch) -> None:
        self._theirs = usable(message.addrs, allow_private=self._allow_private)
        if not self._theirs:
            raise RemoteProtocolError("hole punching without an address that can be dialled")


def usable(addrs: Iterable[Multiaddr], *, allow_private: bool) -> tuple[Multiaddr, ...]:
    """Those that a hole can be punched to, each once and without `/p2p/…`."""
    kept: dict[Multiaddr, None] = {}
    for addr in addrs:
        bare = split_peer(addr)[0]
        if ip_of(bare) is None or is_relayed(bare) or not (allow_private or is_public(bare)):
            continue
        kept[bare] = None
    return tuple(kept)[:MAX_ADDRS]
