"""`python -m interop.hole_punch`: a peer behind a NAT; with `relay`, the relay between two of them.

The dialer reaches the listener through the relay, waits until a hole is punched, and tells how long a ping takes over
the direct connection.
"""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from interop.harness.image import LISTEN, open_redis, run_image
from interop.harness.results import transport_yaml
from interop.harness.settings import settings as read_settings
from interop.stack import node_config
from talos import open_host
from talos.abc import PeerConnected
from talos.addr import is_relayed, parse
from talos.dcutr import DcutrConfig
from talos.errors import ConfigError, DialError
from talos.identity.peer_id import PeerId
from talos.nat import NatConfig, open_nat
from talos.ping import ping
from talos.relay import RelayLimits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from interop.harness.resp import RespClient
    from interop.harness.settings import Settings
    from talos.abc import Event
    from talos.host.node import Node
    from talos.nat import Nat

POLL_SECONDS = 0.1
PUNCH = DcutrConfig(allow_private=True)
"""The harness's networks are private ones."""


@asynccontextmanager
async def _node(settings: Settings, config: NatConfig) -> AsyncIterator[tuple[Node, Nat]]:
    ip = ipaddress.ip_address(settings.listen_ip)
    listen = f"/ip{ip.version}/{ip}/{LISTEN[settings.transport]}"
    async with open_host(node_config(settings.stack, [listen])) as node, open_nat(node, config) as nat:
        yield node, nat


async def relay(settings: Settings, key: str) -> None:
    """Runs until it is killed."""
    config = NatConfig(reserve=None, ask=None, punch=None, relay=RelayLimits())
    async with _node(settings, config) as (node, _), open_redis(settings) as redis:
        await redis.set(f"{key}_relay_multiaddr", str(node.addrs[0]))
        await trio.sleep_forever()


async def listen(settings: Settings, key: str) -> None:
    """Runs until it is killed; its id is told once it can be reached."""
    async with AsyncExitStack() as stack:
        node, nat = await stack.enter_async_context(_node(settings, NatConfig(reserve=None, ask=None, punch=PUNCH)))
        redis = await stack.enter_async_context(open_redis(settings))
        way = parse(f"{await _polled(redis, f'{key}_relay_multiaddr')}/p2p-circuit")
        events = await stack.enter_async_context(node.events())
        stack.enter_context(node.using(nat.circuit, (way,)))
        while not nat.circuit.relays:
            await events.receive()
        await redis.set(f"{key}_listener_peer_id", str(node.peer_id))
        await trio.sleep_forever()


async def dial(settings: Settings, key: str) -> None:
    async with open_redis(settings) as redis:
        way = parse(f"{await _polled(redis, f'{key}_relay_multiaddr')}/p2p-circuit")
        peer = PeerId.parse(await _polled(redis, f"{key}_listener_peer_id"))
    direct = trio.Event()

    def observe(event: Event) -> None:
        if isinstance(event, PeerConnected) and event.peer == peer and not is_relayed(event.connection.remote_addr):
            direct.set()

    async with _node(settings, NatConfig(reserve=None, ask=None, punch=PUNCH)) as (node, _):
        start = time.perf_counter()
        with node.observe(observe):
            await node.connect(peer, [way])
            await direct.wait()
        connection = next(one for one in node.connections if one.remote_peer == peer and not one.limited)
        await ping(node, connection)
        handshake_plus_one_rtt = time.perf_counter() - start
        second = await ping(node, connection)
    sys.stdout.write(transport_yaml(handshake_plus_one_rtt * 1000, second * 1000))
    sys.stdout.flush()


async def _polled(redis: RespClient, key: str) -> str:
    while (value := await redis.get(key)) is None:  # noqa: ASYNC110 - the contract polls
        await trio.sleep(POLL_SECONDS)
    return value


def routes(environ: Mapping[str, str], *, relaying: bool) -> list[tuple[str, str, str]]:
    """Network, router and device of what has to be routed first; the harness gives them, or the network has them."""
    names = (
        [
            ("DIALER_LAN_SUBNET", "DIALER_ROUTER_IP", "wan0"),
            ("LISTENER_LAN_SUBNET", "LISTENER_ROUTER_IP", "wan0"),
        ]
        if relaying
        else [("WAN_SUBNET", "WAN_ROUTER_IP", "lan0")]
    )
    return [
        (environ[subnet], environ[router], device)
        for subnet, router, device in names
        if environ.get(subnet) and environ.get(router)
    ]


def _add(subnet: str, router: str, device: str) -> None:
    command = ["ip", "route", "replace", subnet, "via", router, "dev", device]
    if subprocess.run(command, check=False).returncode != 0:
        raise DialError(f"no route to {subnet} via {router}")


def _settings(environ: Mapping[str, str], *, relaying: bool) -> Settings:
    """The variables of this harness in the words of the others: it has an address for each place."""
    key = environ.get("TEST_KEY", "")
    if not key:
        raise ConfigError("environment variable TEST_KEY is not set")
    dialer = not relaying and environ.get("IS_DIALER", "").lower() == "true"
    own = environ.get("RELAY_IP" if relaying else "DIALER_IP" if dialer else "LISTENER_IP", "0.0.0.0")
    renamed = {**environ, "LISTENER_IP": own, "IS_DIALER": str(dialer).lower()}
    return replace(read_settings(renamed, modern_redis="hole-punch-redis:6379"), is_dialer=dialer)


def main() -> int:
    relaying = sys.argv[1:] == ["relay"]
    try:
        settings = _settings(os.environ, relaying=relaying)
        for route in routes(os.environ, relaying=relaying):
            _add(*route)
    except (ConfigError, DialError) as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    role = relay if relaying else dial if settings.is_dialer else listen
    return run_image(settings, partial(role, settings, os.environ["TEST_KEY"]))


if __name__ == "__main__":
    sys.exit(main())
