"""What a node does about NATs: relays, hole punching, and knowing whether it is reached at all.

Here the protocols for it meet: AutoNAT finds that nobody can dial us, so relays are reserved at, which are found by the
DHT; whoever comes through one is met by DCUtR, and what both then have is a direct connection.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from talos.abc import AddressConfirmed, ByteTransport, Reachability, ReachabilityChanged, Transport
from talos.addr import is_relayed, parse
from talos.autonat import AutonatConfig, AutonatServerConfig, open_autonat, open_autonat_server
from talos.dcutr import DcutrConfig, HolePunched, open_dcutr
from talos.errors import RoutingError
from talos.host.block import background
from talos.host.contain import Owner, contain
from talos.host.node import open_node
from talos.relay import AutoRelayConfig, RelayLimits, open_auto_relay, open_circuit, open_relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

    from talos.abc import Event
    from talos.dht import Dht
    from talos.host.node import Node
    from talos.relay import Circuit, RelayServer

__all__ = ["RELAY_NAME", "Nat", "NatConfig", "open_nat"]

RELAY_NAME = b"/libp2p/relay"
"""Those who relay for anybody are its providers in the DHT."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class NatConfig:
    """What is opened; None: not that. Circuits can be dialled in any case."""

    reserve: AutoRelayConfig | None = field(default_factory=AutoRelayConfig)
    """Relays for us, when others cannot dial us."""
    punch: DcutrConfig | None = field(default_factory=DcutrConfig)
    ask: AutonatConfig | None = field(default_factory=AutonatConfig)
    """Whether others can dial us."""
    relay: RelayLimits | None = None
    """We relay for others."""
    answer: AutonatServerConfig | None = None
    """We dial others who want to know."""


class Nat:
    """What is open; made by `open_nat`."""

    def __init__(self, circuit: Circuit) -> None:
        self.circuit = circuit
        self.server: RelayServer | None = None
        self.reachability = Reachability.UNKNOWN
        self.punched = 0
        """Direct connections that were found behind relays."""

    def status(self) -> dict[str, object]:
        """For `talos status`: the relays that we are reached through, and what we relay."""
        server = self.server
        return {
            "relays": [str(relay) for relay in self.circuit.relays],
            "addrs": [str(addr) for addrs in self.circuit.relays.values() for addr in addrs],
            "punched": self.punched,
            "serving": None
            if server is None
            else {
                "reservations": server.reservations,
                "circuits": server.circuits,
                "bytes": server.bytes_relayed,
            },
        }

    def observe(self, event: Event) -> None:
        """Keeps what events tell."""
        match event:
            case ReachabilityChanged(reachability=reachability):
                self.reachability = reachability
            case AddressConfirmed():
                self.reachability = Reachability.PUBLIC
            case HolePunched(succeeded=True):
                self.punched += 1


@asynccontextmanager
async def open_nat(node: Node, config: NatConfig | None = None, dht: Dht | None = None) -> AsyncIterator[Nat]:
    """All of it for the length of the block; `dht` finds relays, and is told of us where we are one."""
    config = config or NatConfig()
    async with AsyncExitStack() as stack:
        nat = Nat(await stack.enter_async_context(open_circuit(node)))
        stack.enter_context(node.observe(nat.observe))
        if config.relay is not None:
            nat.server = await stack.enter_async_context(open_relay(node, config.relay))
            if dht is not None:
                nursery = await stack.enter_async_context(background())
                nursery.start_soon(contain, Owner("relay", node.emit), _tell, dht)
        if config.answer is not None:
            await _open_answering(stack, node, config.answer)
        if config.punch is not None:
            await stack.enter_async_context(open_dcutr(node, config.punch))
        if config.reserve is not None:
            find = None if dht is None else _Finder(node, dht)
            await stack.enter_async_context(open_auto_relay(node, nat.circuit, config.reserve, find))
        if config.ask is not None:
            await stack.enter_async_context(open_autonat(node, config.ask))
        yield nat


async def _open_answering(stack: AsyncExitStack, node: Node, config: AutonatServerConfig) -> None:
    """Others are dialled by a node of its own: of another identity, from other ports, without our connections.

    A ready transport that is more than bytes is left out: it is ours, and may dial from the port that it listens on,
    which proves nothing.
    """
    kept = tuple(
        part
        for part in node.config.stack.transports
        if isinstance(part, ByteTransport) or not isinstance(part, Transport)
    )
    if not kept:
        return
    settings = replace(
        node.config, key=None, listen=(), announce=None, routes=(), stack=replace(node.config.stack, transports=kept)
    )
    dialer = await stack.enter_async_context(open_node(settings))
    await stack.enter_async_context(open_autonat_server(node, dialer, config, dialer.can_dial))


async def _tell(dht: Dht) -> None:
    from talos.dht import provider_key

    try:
        await dht.provide(provider_key(RELAY_NAME))
    except RoutingError as error:
        _log.info("nobody could be told yet that we relay, and is told again later: %s", error)


class _Finder:
    """Looks in the DHT for those who relay."""

    def __init__(self, node: Node, dht: Dht) -> None:
        self._node = node
        self._dht = dht

    async def __call__(self) -> list[Multiaddr]:
        from talos.dht import provider_key

        found: list[Multiaddr] = []
        for provider in await self._dht.find_providers(provider_key(RELAY_NAME)):
            direct = [addr for addr in provider.addrs if not is_relayed(addr)]
            if direct:
                self._node.peerstore.add_addrs(provider.peer, direct)
                found.append(parse(f"/p2p/{provider.peer}"))
        return found
