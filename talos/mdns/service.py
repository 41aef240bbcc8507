"""mDNS on every interface of a host."""

from __future__ import annotations

import logging
import secrets
import string
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from talos.abc import AddressesChanged, Event
from talos.errors import RemoteProtocolError, TalosError
from talos.host.block import background
from talos.host.contain import Owner, contain
from talos.mdns import interface
from talos.mdns.config import MdnsConfig
from talos.mdns.machine import Found, MdnsMachine, Neighbourhood, Reply

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

    from talos.abc import Host
    from talos.identity.peer_id import PeerId
    from talos.mdns.machine import Effect, Link

__all__ = ["MdnsService", "PeerFound", "open_mdns"]

NAME_CHARACTERS = 32
GOODBYE_SECONDS = 0.5

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class PeerFound(Event):
    """A peer is on the local network, or has other addresses there than before."""

    peer: PeerId
    addrs: tuple[Multiaddr, ...]


@asynccontextmanager
async def open_mdns(host: Host, config: MdnsConfig | None = None) -> AsyncIterator[MdnsService]:
    """Announces the host's addresses and looks for others, on each link, for the length of the block.

    What is found goes to the peerstore and is told as PeerFound. Everybody on the link learns our peer id.
    """
    async with background() as nursery:
        service = MdnsService(host, config or MdnsConfig(), nursery)
        with host.observe(service.observe):
            await service.rescan()
            nursery.start_soon(service.run)
            try:
                yield service
            finally:
                await service.leave()


class _Talk:
    """One socket with the machine that decides for it."""

    def __init__(self, sock: socket.socket, group: tuple[str, int], machine: MdnsMachine) -> None:
        self.sock = trio.socket.from_stdlib_socket(sock)
        self.group = group
        self.machine = machine

    async def send(self, data: bytes, to: tuple[str, int] | None) -> None:
        try:
            await self.sock.sendto(data, to or self.group)
        except OSError as error:  # no route for now, or the asker is gone: the next query comes anyway
            _log.debug("mDNS on %s: %s", self.machine.link.name, error)


class MdnsService:
    """The running service; made by `open_mdns`. `ignored` counts packets that were malformed or from elsewhere."""

    def __init__(self, host: Host, config: MdnsConfig, nursery: trio.Nursery) -> None:
        self.ignored = 0
        self.failed: Counter[str] = Counter()
        """Dials that came to nothing, by error."""
        self._host = host
        self._config = config
        self._nursery = nursery
        self._name = "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(NAME_CHARACTERS))
        self._near = Neighbourhood(config)
        self._dials = trio.CapacityLimiter(config.dials_at_once)
        self._scopes: dict[Link, trio.CancelScope] = {}
        self._talks: list[_Talk] = []

    @property
    def peers(self) -> dict[PeerId, tuple[Multiaddr, ...]]:
        """Who is on the local network, and where."""
        return self._near.peers(trio.current_time())

    @property
    def links(self) -> tuple[str, ...]:
        """Names of the interfaces that it speaks on."""
        return tuple(dict.fromkeys(talk.machine.link.name for talk in self._talks))

    def observe(self, event: Event) -> None:
        """Follows the host's addresses."""
        if isinstance(event, AddressesChanged):
            for talk in self._talks:
                talk.machine.announce(event.addrs)

    async def run(self) -> None:
        """Looks for interfaces that come and go."""
        while True:
            await trio.sleep(self._config.rescan_seconds)
            await contain(Owner("mdns", self._host.emit), self.rescan)

    async def rescan(self) -> None:
        """Begins on new links, and ends where there is none any more."""
        present = interface.links(self._config)
        for link in self._scopes.keys() - set(present):
            self._scopes.pop(link).cancel()
        for link in present:
            if link not in self._scopes:
                self._begin(link)

    async def leave(self) -> None:
        """Tells everybody that we go."""
        with trio.move_on_after(GOODBYE_SECONDS, shield=True):
            for talk in self._talks:
                goodbye = talk.machine.goodbye()
                if goodbye is not None:
                    await talk.send(goodbye, None)

    # ------------------------------------------------------------------------------------ one link

    def _begin(self, link: Link) -> None:
        talks = []
        for sock, group in interface.open_sockets(link, self._config):
            machine = MdnsMachine(self._host.peer_id, self._name, link, self._config)
            machine.announce(self._host.addrs)
            talks.append(_Talk(sock, group, machine))
        if talks:
            scope = self._scopes[link] = trio.CancelScope()
            self._talks += talks
            self._nursery.start_soon(self._on_link, link, scope, talks)

    async def _on_link(self, link: Link, scope: trio.CancelScope, talks: list[_Talk]) -> None:
        try:
            with scope:
                await contain(Owner("mdns", self._host.emit), self._talk_all, talks)
        finally:
            for talk in talks:
                talk.sock.close()
                self._talks.remove(talk)
            if self._scopes.get(link) is scope:
                del self._scopes[link]  # its sockets have failed: the next look begins anew

    async def _talk_all(self, talks: list[_Talk]) -> None:
        async with trio.open_nursery() as nursery:
            for talk in talks:
                nursery.start_soon(self._receive, talk)
                nursery.start_soon(self._ask, talk)

    async def _ask(self, talk: _Talk) -> None:
        for seconds in self._config.first_queries_seconds:
            await trio.sleep(seconds)
            await talk.send(talk.machine.query(), None)
        while True:
            await trio.sleep(self._config.query_seconds)
            await talk.send(talk.machine.query(), None)

    async def _receive(self, talk: _Talk) -> None:
        while True:
            data, source = await talk.sock.recvfrom(self._config.max_message_bytes + 1)
            try:
                effects = talk.machine.receive(data, source[:2], trio.current_time())
            except RemoteProtocolError as error:
                self.ignored += 1
                _log.debug("mDNS on %s, packet from %s ignored: %s", talk.machine.link.name, source[0], error)
                continue
            for effect in effects:
                await self._follow(talk, effect)

    async def _follow(self, talk: _Talk, effect: Effect) -> None:
        match effect:
            case Reply(data=data, to=to):
                await talk.send(data, to)
            case Found() if self._near.take(effect, trio.current_time()):
                self._host.peerstore.add_addrs(effect.peer, effect.addrs)
                self._host.emit(PeerFound(effect.peer, effect.addrs))
                if self._config.connect:
                    self._nursery.start_soon(contain, Owner("mdns", self._host.emit), self._connect, effect)

    async def _connect(self, found: Found) -> None:
        async with self._dials:
            try:
                await self._host.connect(found.peer, found.addrs)
            except TalosError as error:
                self.failed[type(error).__name__] += 1
