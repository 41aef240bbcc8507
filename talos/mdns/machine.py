"""Discovery on one link (libp2p mdns): who is asked, what is answered, and which answers are believed.

- A query names the service; everybody answers with a pointer to a random name and, beside it, a text with addresses
  that end in `/p2p/<peer>`. Our own queries come back to us and are answered as well.
- Only addresses within the link's own networks are told and believed, so that nobody on it can send us elsewhere.
- Nobody from outside of the link is listened to (RFC 6762, section 11), and answers count only from the mDNS port.
- `Neighbourhood` holds what all links of a node have brought: so many peers, so many new ones a minute.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

from talos import addr as addresses
from talos.errors import ConfigError, RemoteProtocolError
from talos.mdns import wire
from talos.mdns.config import META_SERVICE, MdnsConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiaddr import Multiaddr

    from talos.identity.peer_id import PeerId

__all__ = ["Effect", "Found", "Link", "MdnsMachine", "Neighbourhood", "Reply"]

_PREFIX = b"dnsaddr="
_MAX_STRING_BYTES = 255
_DIRECT_TTL_SECONDS = 10
"""Plain DNS programs do not know that it changes (RFC 6762, section 6.7)."""

Source = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface and the networks that are directly on it."""

    name: str
    index: int
    networks: tuple[IPv4Network | IPv6Network, ...]
    source: str = ""
    """Our IPv4 address on it, from which is sent; empty where there is none."""

    def holds(self, addr: Multiaddr) -> bool:
        """Whether `addr` can be dialled over this link without a router, relay or name server."""
        ip = addresses.ip_of(addr)
        if ip is None or addresses.is_relayed(addr) or (ip.version == 6 and ip.is_link_local):
            return False
        return any(ip in network for network in self.networks)

    def holds_host(self, host: str) -> bool:
        """Whether a packet from `host` comes from this link."""
        ip = ip_address(host.partition("%")[0])
        return ip.is_link_local or any(ip in network for network in self.networks)


@dataclass(slots=True)
class Reply:
    """To be sent: to everybody, or to the one who asked."""

    data: bytes
    to: Source | None


@dataclass(slots=True)
class Found:
    """A peer says where it is; `ttl` 0 says that it leaves."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]
    ttl: int


Effect = Reply | Found


class MdnsMachine:
    """One link's conversation. `name` is random, lower-case and of one start of the program."""

    def __init__(self, own: PeerId, name: str, link: Link, config: MdnsConfig | None = None) -> None:
        self.link = link
        self._config = config or MdnsConfig()
        self._own = own
        self._told = self._answer(name, ())
        self._name = name
        self._answered: dict[tuple[str, str], float] = {}
        self._direct: tuple[float, int] = (-math.inf, 0)

    def announce(self, addrs: Iterable[Multiaddr]) -> None:
        """Takes what we listen on; what cannot be dialled over this link, or does not fit, is left out."""
        usable = [addr for addr in addrs if self.link.holds(addr)]
        self._told = self._answer(self._name, usable)

    def query(self) -> bytes:
        """Asks who is there."""
        return wire.encode_query(self._config.service)

    def goodbye(self) -> bytes | None:
        """Tells that we leave; None when there was nothing to tell."""
        return self._encoded([wire.Question(self._config.service, "PTR")], 0) if self._told.strings else None

    def receive(self, data: bytes, source: Source, now: float) -> list[Effect]:
        """What a packet leads to. RemoteProtocolError when it is malformed, too long, or not from this link."""
        if len(data) > self._config.max_message_bytes:
            raise RemoteProtocolError("mDNS message over the limit")
        if not self.link.holds_host(source[0]):
            raise RemoteProtocolError("mDNS message from outside of the link")
        message = wire.decode(data)
        if not message.is_answer:
            return self._asked(message, source, now)
        if source[1] != self._config.port:
            raise RemoteProtocolError("mDNS answer from another port")
        return self._answers(message)

    # ------------------------------------------------------------------------------------ being asked

    def _asked(self, message: wire.Message, source: Source, now: float) -> list[Effect]:
        if not self._told.strings:
            return []
        if source[1] != self._config.port:
            return self._answer_directly(message, source, now)
        known = {
            (pointer.name, pointer.target)
            for pointer in message.pointers
            if pointer.ttl * 2 >= self._config.ttl_seconds
        }
        if (self._config.service, self._told.instance) in known:
            return []  # known-answer suppression (RFC 6762, section 7.1)
        questions = [q for q in message.questions if self._is_due(q, now)]
        data = self._encoded(questions, self._config.ttl_seconds)
        if data is None:
            return []
        for question in questions:
            if self._is_ours(question):
                self._answered[question.name, question.kind] = now
        return [Reply(data, None)]

    def _answer_directly(self, message: wire.Message, source: Source, now: float) -> list[Effect]:
        since, count = self._direct
        if now - since >= 1.0:
            since, count = now, 0
        if count == self._config.direct_answers_per_second:
            return []
        data = wire.encode_answer(
            self._told,
            message.questions,
            min(_DIRECT_TTL_SECONDS, self._config.ttl_seconds),
            max_size=self._config.max_message_bytes,
            number=message.number,
            echo=True,
        )
        if data is None:
            return []
        self._direct = (since, count + 1)
        return [Reply(data, source)]

    def _is_due(self, question: wire.Question, now: float) -> bool:
        last = self._answered.get((question.name, question.kind))
        return last is None or now - last >= self._config.answer_seconds

    def _is_ours(self, question: wire.Question) -> bool:
        """Only these are remembered: so many names, and the types that we answer."""
        told = self._told
        names = (told.service, told.meta_service, told.instance, told.host)
        return question.name in names and question.kind in ("PTR", "TXT", "SRV", "A", "AAAA", "ANY")

    def _encoded(self, questions: list[wire.Question], ttl: int) -> bytes | None:
        return wire.encode_answer(self._told, questions, ttl, max_size=self._config.max_message_bytes)

    def _answer(self, name: str, addrs: Iterable[Multiaddr]) -> wire.Answer:
        strings: list[bytes] = []
        usable: list[Multiaddr] = []
        for addr in addrs:
            string = _PREFIX + str(addresses.with_peer(addr, self._own)).encode()
            if len(string) <= _MAX_STRING_BYTES and len(strings) < self._config.max_addrs:
                strings.append(string)
                usable.append(addr)
        ips = [ip for addr in usable if (ip := addresses.ip_of(addr)) is not None]
        return wire.Answer(
            service=self._config.service.lower(),
            meta_service=META_SERVICE,
            instance=f"{name}.{self._config.service}".lower(),
            host=f"{name}.local",
            port=addresses.host_port(usable[0])[1] if usable else self._config.port,
            strings=tuple(strings),
            ips=tuple(dict.fromkeys(ips)),
        )

    # ------------------------------------------------------------------------------------ being told

    def _answers(self, message: wire.Message) -> list[Effect]:
        service = self._told.service
        names = {pointer.target: pointer.ttl for pointer in message.pointers if pointer.name == service}
        names.pop(self._told.instance, None)
        found: dict[PeerId, list[Multiaddr]] = {}
        ttls: dict[PeerId, int] = {}
        for text in message.texts:
            if text.name not in names:
                continue
            for addr, peer in self._read(text.strings):
                addrs = found.setdefault(peer, [])
                ttls[peer] = min(text.ttl, names[text.name])
                if len(addrs) < self._config.max_addrs and addr not in addrs and self.link.holds(addr):
                    addrs.append(addr)
        return [Found(peer, tuple(addrs), ttls[peer]) for peer, addrs in found.items() if addrs]

    def _read(self, strings: Iterable[bytes]) -> Iterable[tuple[Multiaddr, PeerId]]:
        """Addresses of others; strings that say something else are not for us."""
        for string in strings:
            if not string.startswith(_PREFIX):
                continue
            try:
                addr, peer = addresses.split_peer(addresses.parse(string[len(_PREFIX) :].decode()))
            except (ConfigError, UnicodeDecodeError):
                continue
            if peer is not None and peer != self._own:
                yield addr, peer


class Neighbourhood:
    """Who was found on any link, for as long as it said."""

    def __init__(self, config: MdnsConfig | None = None) -> None:
        self._config = config or MdnsConfig()
        self._peers: OrderedDict[PeerId, tuple[tuple[Multiaddr, ...], float]] = OrderedDict()
        """Addresses, and until when they count; who was heard most recently stands last."""
        self._new: tuple[float, int] = (-math.inf, 0)

    def peers(self, now: float) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Those that are there now."""
        return {peer: addrs for peer, (addrs, until) in self._peers.items() if until > now}

    def take(self, found: Found, now: float) -> bool:
        """Whether it tells something new: a peer, or other addresses of one."""
        if found.ttl == 0:
            self._peers.pop(found.peer, None)
            return False
        known = self._peers.get(found.peer)
        if known is None and not self._may_take_new(now):
            return False
        while len(self._peers) >= self._config.max_peers and known is None:
            self._peers.popitem(last=False)
        is_new = known is None or known[1] <= now or known[0] != found.addrs
        self._peers[found.peer] = (found.addrs, now + found.ttl)
        self._peers.move_to_end(found.peer)
        return is_new

    def _may_take_new(self, now: float) -> bool:
        since, count = self._new
        if now - since >= 60.0:
            since, count = now, 0
        if count == self._config.new_peers_per_minute:
            return False
        self._new = (since, count + 1)
        return True
