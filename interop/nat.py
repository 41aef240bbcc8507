"""Relays, hole punching and reachability, for Talos's adapter."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from interop.operations import OperationFailed
from interop.stack import LISTEN, node_config
from talos import open_host
from talos.abc import PeerConnected, PeerIdentified
from talos.addr import is_relayed, parse, split_peer
from talos.autonat import DIAL_BACK, AutonatServerConfig
from talos.autonat.client import Answer, DialBacks, probe
from talos.dcutr import DcutrConfig
from talos.nat import NatConfig, open_nat
from talos.relay import RelayLimits, RelayReserved, open_circuit

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from multiaddr import Multiaddr

    from talos.abc import Event
    from talos.host.node import Node
    from talos.identity.peer_id import PeerId

__all__ = ["OPERATIONS", "behind_nat", "operate"]

WAIT_SECONDS = 40.0
PROBE_SECONDS = 60.0


@asynccontextmanager
async def behind_nat(node: Node, options: argparse.Namespace) -> AsyncIterator[list[Multiaddr]]:
    """What the options say: relays, looks for direct ways, answers AutoNAT, listens through a relay.

    Gives the addresses that are told.
    """
    config = NatConfig(
        reserve=None,
        ask=None,
        punch=DcutrConfig() if options.punch else None,
        relay=RelayLimits() if options.relay else None,
        answer=AutonatServerConfig(allow_private=True) if options.autonat else None,
    )
    async with AsyncExitStack() as stack:
        nat = await stack.enter_async_context(open_nat(node, config))
        if options.via:
            reserved = _Seen(RelayReserved)
            stack.enter_context(node.observe(reserved))
            stack.enter_context(node.using(nat.circuit, (parse(f"{options.via}/p2p-circuit"),)))
            with trio.fail_after(WAIT_SECONDS):
                await reserved.event.wait()
        yield [addr for addr in node.addrs if is_relayed(addr) or not options.via]


class _Seen:
    """Set once an event of that kind was seen, which `fits`."""

    def __init__(self, kind: type[Event], fits: Callable[[Any], bool] = lambda _: True) -> None:
        self.event = trio.Event()
        self.seen: Any = None
        self._kind = kind
        self._fits = fits

    def __call__(self, event: Event) -> None:
        if isinstance(event, self._kind) and self._fits(event):
            self.seen = self.seen or event
            self.event.set()


async def _direct(node: Node, peer: PeerId | None, addr: Multiaddr) -> dict[str, Any]:
    """Connects through a relay and waits until there is a direct connection too."""
    direct = _Seen(PeerConnected, lambda event: event.peer == peer and not event.connection.limited)
    async with open_nat(node, NatConfig(reserve=None, ask=None)):
        with node.observe(direct), trio.move_on_after(WAIT_SECONDS):
            await node.connect(peer, [addr])
            await direct.event.wait()
    if direct.seen is None:
        raise OperationFailed("no direct connection came to be")
    return {"direct": True, "addr": str(direct.seen.connection.remote_addr)}


async def _reachable(node: Node, peer: PeerId | None, addr: Multiaddr) -> dict[str, Any]:
    """Asks one AutoNAT v2 server about our own address."""
    backs = DialBacks()
    identified = _Seen(PeerIdentified)
    async with open_circuit(node):
        with node.mounted(DIAL_BACK, backs.take), node.observe(identified), trio.fail_after(PROBE_SECONDS):
            connection = await node.connect(peer, [addr])
            await identified.event.wait()
            own = split_peer(node.addrs[0])[0]
            answer = await probe(node, connection, own, backs)
    words = {Answer.REACHED: "Public", Answer.NOT_REACHED: "Private", Answer.NOTHING: "Unknown"}
    return {"addr": str(own), "reachability": words[answer]}


OPERATIONS: Mapping[str, Callable[[Node, PeerId | None, Multiaddr], Awaitable[dict[str, Any]]]] = {
    "direct": _direct,
    "reachable": _reachable,
}


async def operate(options: argparse.Namespace, peer: PeerId | None, addr: Multiaddr) -> dict[str, Any]:
    """The JSON object of one of the operations; the node listens where the options say."""
    listen = options.listen or LISTEN[options.stack.partition("/")[0]]
    async with open_host(node_config(options.stack, [listen])) as node:
        return await OPERATIONS[options.operation](node, peer, addr)
