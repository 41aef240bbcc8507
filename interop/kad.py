"""Talos's adapter with `--dht`: a DHT node, what `dial` does with it, and a network of nodes in this process."""

from __future__ import annotations

import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from interop.operations import OperationFailed
from interop.stack import LISTEN, node_config
from talos import open_host
from talos.addr import parse, split_peer
from talos.dht import DhtConfig, DhtMode, DhtScope, accept_anything, default_namespaces, open_dht, provider_key
from talos.errors import ConfigError
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from talos.abc import Host
    from talos.dht import Dht

__all__ = ["OPERATIONS", "joined_dht", "network", "operate"]

EXAMPLE = "example"
"""The namespace that every adapter accepts unchecked."""
LINGER_SECONDS = 0.5
"""Nobody answers a provider record, and one that is still on its way dies with the connection."""


@asynccontextmanager
async def joined_dht(host: Host, protocol_id: str, mode: DhtMode, bootstrap: Sequence[str]) -> AsyncIterator[Dht]:
    """The DHT of a host, connected to each of `bootstrap` and done with its first look around.

    A bootstrap peer need not serve the DHT: then this node is the one that knows where it is.
    """
    addrs = tuple(map(parse, bootstrap))
    config = DhtConfig(
        protocol_id=protocol_id,
        mode=mode,
        scope=DhtScope.ANY,
        bootstrap=addrs,
        namespaces={**default_namespaces(protocol_id), EXAMPLE: accept_anything()},
    )
    async with open_dht(host, config) as dht:
        for addr in addrs:
            where, peer = split_peer(addr)
            await host.connect(peer, [where])
        if addrs:
            await dht.bootstrapped()
        yield dht


async def find_peer(dht: Dht, host: Host, peer: str) -> dict[str, Any]:  # noqa: ARG001 - one shape for all
    return {"peer_id": peer, "addrs": list(map(str, await dht.find_peer(PeerId.parse(peer))))}


async def put(dht: Dht, host: Host, key: str, value: str) -> dict[str, Any]:  # noqa: ARG001
    await dht.put_value(bytes.fromhex(key), bytes.fromhex(value))
    return {"key": key, "ok": True}


async def get(dht: Dht, host: Host, key: str) -> dict[str, Any]:  # noqa: ARG001
    value = await dht.get_value(bytes.fromhex(key))
    if value is None:
        raise OperationFailed("no value")
    return {"key": key, "value": value.hex()}


async def provide(dht: Dht, host: Host, key: str) -> dict[str, Any]:
    await dht.provide(bytes.fromhex(key))
    await trio.sleep(LINGER_SECONDS)
    return {"key": key, "peer_id": str(host.peer_id), "ok": True}


async def find_providers(dht: Dht, host: Host, key: str) -> dict[str, Any]:  # noqa: ARG001
    found = [str(provider.peer) for provider in await dht.find_providers(bytes.fromhex(key))]
    if not found:
        raise OperationFailed("no providers")
    return {"key": key, "providers": found}


@dataclass(frozen=True, slots=True)
class Query:
    """An operation, and how many words stand behind its name."""

    words: int
    run: Callable[..., Awaitable[dict[str, Any]]]


OPERATIONS: Mapping[str, Query] = {
    "find-peer": Query(1, find_peer),
    "put": Query(2, put),
    "get": Query(1, get),
    "provide": Query(1, provide),
    "find-providers": Query(1, find_providers),
}


async def operate(options: argparse.Namespace) -> dict[str, Any]:
    """One operation of a client, which listens so that it has an address to provide from."""
    query = OPERATIONS[options.operation]
    if len(options.words) != query.words:
        raise ConfigError(f"{options.operation} takes {query.words} words")
    async with (
        open_host(node_config(options.stack, [options.listen or LISTEN["tcp"]])) as host,
        joined_dht(host, options.dht, DhtMode.CLIENT, [options.addr]) as dht,
    ):
        before = time.process_time()
        result = await query.run(dht, host, *options.words)
        return result | {"cpu_seconds": time.process_time() - before}


async def network(options: argparse.Namespace) -> dict[str, Any]:
    """Servers and two clients in this process: one writes, the other one reads."""
    async with AsyncExitStack() as stack:

        async def node(mode: DhtMode, first: Host | None = None) -> tuple[Dht, Host]:
            host = await stack.enter_async_context(open_host(node_config(options.stack, [LISTEN["tcp"]])))
            bootstrap = [] if first is None else [str(first.addrs[0])]
            return await stack.enter_async_context(joined_dht(host, options.dht, mode, bootstrap)), host

        first_dht, first = await node(DhtMode.SERVER)
        for _ in range(options.nodes - 1):
            await node(DhtMode.SERVER, first)
        writer, reader = await node(DhtMode.CLIENT, first), await node(DhtMode.CLIENT, first)
        result: dict[str, Any] = {"count": options.count, "nodes": options.nodes, "table": first_dht.status().peers}
        before = time.process_time()
        for name, run in _timed(writer, reader).items():
            start = time.perf_counter()
            for number in range(options.count):
                await run(number)
            result[f"{name}_per_second"] = options.count / (time.perf_counter() - start)
        return result | {"cpu_seconds": time.process_time() - before}


def _timed(writer: tuple[Dht, Host], reader: tuple[Dht, Host]) -> dict[str, Callable[[int], Awaitable[object]]]:
    def name(number: int) -> str:
        return f"/{EXAMPLE}/{number}".encode().hex()

    def key(kind: str, number: int) -> str:
        return provider_key(f"{kind} {number}").hex()

    async def checked_get(number: int) -> None:
        found = await get(*reader, name(number))
        if found["value"] != key("value", number):
            raise OperationFailed("another value than was put")

    return {
        "provide": lambda number: writer[0].provide(bytes.fromhex(key("provided", number))),
        "put": lambda number: put(*writer, name(number), key("value", number)),
        "get": checked_get,
        "find": lambda number: find_providers(*reader, key("provided", number)),
    }
