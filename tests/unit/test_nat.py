"""Behind a NAT: relays are found and reserved at, and who looks for us by name comes through them."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from talos.abc import AddressConfirmed, PeerIdentified, Reachability, ReachabilityChanged
from talos.addr import is_relayed, parse, split_peer
from talos.agent import open_host
from talos.autonat import AutonatConfig, AutonatServerConfig
from talos.dcutr import DcutrConfig
from talos.dht import TALOS_KAD, DhtConfig, DhtMode, DhtScope, open_dht
from talos.host import presets
from talos.host.config import Stack
from talos.identify import open_identify
from talos.nat import NatConfig, open_nat
from talos.ping import ping
from talos.relay import AutoRelayConfig, RelayLimits, RelayLost, RelayReserved
from talos.transport import Tcp
from talos.transport.quic import Quic
from tests.mcp.harness import tunnel
from tests.waiting import next_of, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

    from talos.dht import Dht
    from talos.host.node import Node
    from talos.nat import Nat

ALWAYS = NatConfig(reserve=AutoRelayConfig(always=True, wanted=1), ask=None, punch=None)
WHEN_PRIVATE = replace(ALWAYS, reserve=AutoRelayConfig(wanted=1))
RELAYS = NatConfig(reserve=None, ask=None, punch=None, relay=RelayLimits())


@asynccontextmanager
async def member(config: Any, nat: NatConfig, *bootstrap: Multiaddr) -> AsyncIterator[tuple[Node, Nat, Dht]]:
    """A node of a network with a DHT; one that listens nowhere is nobody's server."""
    mode = DhtMode.SERVER if config.listen else DhtMode.CLIENT
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_host(config))
        settings = DhtConfig(protocol_id=TALOS_KAD, scope=DhtScope.ANY, mode=mode, bootstrap=bootstrap)
        dht = await stack.enter_async_context(open_dht(node, settings))
        yield node, await stack.enter_async_context(open_nat(node, nat, dht)), dht


async def test_who_cannot_be_dialled_is_found_by_name_and_reached(memory_config: Any) -> None:
    hidden = memory_config(listen=())
    async with member(memory_config(), RELAYS) as (relay, serving, _):
        start = relay.addrs[0]
        async with member(hidden, ALWAYS, start) as (callee, nat, _), member(hidden, ALWAYS, start) as (caller, _, _):
            await until(callee, lambda: bool(nat.circuit.relays))
            assert all(is_relayed(addr) for addr in callee.addrs)
            assert nat.status()["relays"] == [str(relay.peer_id)]
            await until(relay, lambda: bool(relay.peerstore.addrs(callee.peer_id)))  # identify tells it
            connection = await caller.connect(callee.peer_id)
            assert connection.limited
            assert await ping(caller, callee.peer_id) > 0
            counts = serving.status()["serving"]
            assert isinstance(counts, dict)
            assert counts["circuits"] == 1


async def test_relays_are_reserved_at_when_we_learn_that_we_are_private(memory_config: Any) -> None:
    async with (
        member(memory_config(), RELAYS) as (relay, _, _),
        member(memory_config(), WHEN_PRIVATE) as (node, nat, _),
    ):
        async with node.events() as events:
            await node.connect(relay.peer_id, relay.addrs)
            await next_of(events, PeerIdentified)
            assert not nat.circuit.relays
            node.emit(ReachabilityChanged(Reachability.PRIVATE))
            reserved = await next_of(events, RelayReserved)
            assert reserved.relay == relay.peer_id
            assert any(is_relayed(addr) for addr in node.addrs)
            node.emit(ReachabilityChanged(Reachability.PUBLIC))
            await next_of(events, RelayLost)
        await until(node, lambda: not any(is_relayed(addr) for addr in node.addrs))
        assert nat.reachability is Reachability.PUBLIC


async def test_a_relay_that_goes_is_replaced_by_another(memory_config: Any) -> None:
    async with AsyncExitStack() as stack:
        first, _, _ = await stack.enter_async_context(member(memory_config(), RELAYS))
        async with member(memory_config(), RELAYS, first.addrs[0]) as (second, _, _):
            wanted = AutoRelayConfig(relays=(second.addrs[0], first.addrs[0]), wanted=1, always=True)
            settings = replace(ALWAYS, reserve=wanted)
            async with member(memory_config(), settings, first.addrs[0]) as (node, nat, _):
                await until(node, lambda: second.peer_id in nat.circuit.relays)
                for connection in [one for one in second.connections if one.remote_peer == node.peer_id]:
                    await connection.aclose()
                await until(node, lambda: first.peer_id in nat.circuit.relays)


@pytest.mark.parametrize(
    ("transport", "listen"), [(Tcp(), "/ip4/127.0.0.1/tcp/0"), (Quic, "/ip4/127.0.0.1/udp/0/quic-v1")]
)
async def test_addresses_are_dialled_back_from_ports_of_nobody(transport: Any, listen: str) -> None:
    config = presets.testing(stack=Stack(transports=(transport,)), listen=listen)
    serving = NatConfig(reserve=None, ask=None, answer=AutonatServerConfig(allow_private=True))
    asking = NatConfig(reserve=None, ask=AutonatConfig(allow_private=True, settle_seconds=0.0), answer=None)
    async with (
        open_host(config) as server,
        open_nat(server, serving),
        open_host(config) as asker,
        asker.events() as events,
        open_nat(asker, asking) as nat,
    ):
        await asker.connect(server.peer_id, server.addrs)
        confirmed = await next_of(events, AddressConfirmed)
        assert confirmed.addr == split_peer(asker.addrs[0])[0]
        await until(asker, lambda: nat.reachability is Reachability.PUBLIC)


async def test_a_session_of_tools_moves_to_the_direct_connection() -> None:
    nat = NatConfig(reserve=None, ask=None, punch=DcutrConfig(allow_private=True))
    async with open_host(presets.testing()) as relay, open_nat(relay, RELAYS), tunnel() as t, AsyncExitStack() as stack:
        (caller,) = t.connecting
        for node in (t.serving, caller):
            await stack.enter_async_context(open_identify(node))
        circuit = (await stack.enter_async_context(open_nat(t.serving, nat))).circuit
        await stack.enter_async_context(open_nat(caller, nat))
        stack.enter_context(t.serving.using(circuit, (parse(f"{relay.addrs[0]}/p2p-circuit"),)))
        await until(t.serving, lambda: bool(circuit.relays))
        way = tuple(addr for addr in t.serving.addrs if is_relayed(addr))
        client = t.client(addrs=way)
        assert await client.call("echo", text="hello") == "hello"
        (session,) = [one for one in caller.connections if one.remote_peer == t.serving.peer_id and one.in_use]
        assert not session.limited
        await client.close_stdin()
        assert (await client.end()).code == 0
