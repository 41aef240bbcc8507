"""A DHT node of py-libp2p, what `dial --dht` can do with it, and a network of nodes in this process."""

import argparse
import hashlib
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NoReturn

import multiaddr
import trio
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.records.pubkey import PublicKeyValidator
from libp2p.records.validator import NamespacedValidator, Validator
from libp2p.tools.anyio_service import background_trio_service
from pybase import OpenHost, Refused, Result, tell  # type: ignore[import-not-found] # beside this file when it runs

TABLE_SECONDS = 10.0
POLL_SECONDS = 0.02
# Nobody answers a provider record, and one that is still on its way dies with the connection.
LINGER_SECONDS = 0.5
MANY = 1_000_000
LOOPBACK = "/ip4/127.0.0.1/tcp/0"


class Anything(Validator):  # type: ignore[misc]
    """The validator of /example/."""

    def validate(self, key: str, value: bytes) -> None:
        pass

    def select(self, key: str, values: list[bytes]) -> int:  # noqa: ARG002 - one shape for all
        return 0


def speak(protocol: str) -> None:
    """The library has its protocol in a constant, of which each of its modules keeps a copy."""
    for name, module in list(sys.modules.items()):
        if name.startswith("libp2p.kad_dht") and hasattr(module, "PROTOCOL_ID"):
            module.PROTOCOL_ID = protocol  # type: ignore[attr-defined]


@asynccontextmanager
async def open_dht(host: Any, protocol: str, mode: DHTMode, bootstrap: Sequence[str]) -> AsyncIterator[KadDHT]:
    """The DHT of a running host, joined through `bootstrap`."""
    speak(protocol)
    validator = NamespacedValidator({"pk": PublicKeyValidator(), "example": Anything()})
    dht = KadDHT(host, mode, validator=validator, validator_changed=True)
    dht._provider_rate_max = MANY  # noqa: SLF001 - no other way: 10 records in 10 s from one peer, as shipped
    async with background_trio_service(dht):
        for address in bootstrap:
            info = info_from_p2p_addr(multiaddr.Multiaddr(address))
            await host.connect(info)
            await dht.add_peer(info.peer_id)
        with trio.move_on_after(TABLE_SECONDS):
            while bootstrap and not dht.get_routing_table_size():  # noqa: ASYNC110 - nobody tells of a change
                await trio.sleep(POLL_SECONDS)
        if bootstrap and not dht.get_routing_table_size():
            raise Refused("no bootstrap peer serves this DHT")
        if bootstrap and mode is DHTMode.SERVER:
            await dht.peer_routing.find_closest_peers_network(host.get_id().to_bytes())
        yield dht


def text(key: str) -> str:
    """The library takes keys of values as text only."""
    return bytes.fromhex(key).decode()


async def find_peer(host: Any, dht: KadDHT, peer: str) -> Result:  # noqa: ARG001 - one shape for all
    found = await dht.find_peer(ID.from_base58(peer))
    if found is None:
        raise Refused("peer not found")
    return {"peer_id": str(found.peer_id), "addrs": [str(addr) for addr in found.addrs]}


async def put(host: Any, dht: KadDHT, key: str, value: str) -> Result:  # noqa: ARG001
    await dht.put_value(text(key), bytes.fromhex(value))
    return {"key": key, "ok": True}


async def get(host: Any, dht: KadDHT, key: str) -> Result:  # noqa: ARG001
    value = await dht.get_value(text(key))
    if value is None:
        raise Refused("no value")
    return {"key": key, "value": value.hex()}


async def provide(host: Any, dht: KadDHT, key: str) -> Result:
    if not await dht.provide(key):
        raise Refused("nobody took the provider record")
    await trio.sleep(LINGER_SECONDS)
    return {"key": key, "peer_id": str(host.get_id()), "ok": True}


async def find_providers(host: Any, dht: KadDHT, key: str) -> Result:  # noqa: ARG001
    found = [str(provider.peer_id) for provider in await dht.find_providers(key)]
    if not found:
        raise Refused("no providers")
    return {"key": key, "providers": found}


Operation = Callable[..., Awaitable[Result]]
# Each with the number of words behind its name.
OPERATIONS: dict[str, tuple[int, Operation]] = {
    "find-peer": (1, find_peer),
    "put": (2, put),
    "get": (1, get),
    "provide": (1, provide),
    "find-providers": (1, find_providers),
}


async def operate(options: argparse.Namespace, open_host: OpenHost) -> NoReturn:
    count, operation = OPERATIONS[options.operation]
    if len(options.words) != count:
        raise Refused(f"{options.operation} takes {count} words")
    host = open_host(options.stack)
    async with (
        host.run(listen_addrs=[multiaddr.Multiaddr(options.listen)]),
        open_dht(host, options.dht, DHTMode.CLIENT, [options.address]) as dht,
    ):
        before = time.process_time()
        result = await operation(host, dht, *options.words)
        result["cpu_seconds"] = time.process_time() - before
        tell(result)
    raise AssertionError("telling ends the program")


def key_of(kind: str, number: int) -> str:
    return "1220" + hashlib.sha256(f"{kind} {number}".encode()).hexdigest()


async def network(options: argparse.Namespace, open_host: OpenHost) -> NoReturn:
    """Servers and two clients: one writes, the other one reads."""
    async with AsyncExitStack() as stack:

        async def node(mode: DHTMode, first: Any = None) -> tuple[Any, KadDHT]:
            host = open_host(options.stack)
            await stack.enter_async_context(host.run(listen_addrs=[multiaddr.Multiaddr(LOOPBACK)]))
            bootstrap = [] if first is None else [str(first.get_addrs()[0])]
            return host, await stack.enter_async_context(open_dht(host, options.dht, mode, bootstrap))

        first, first_dht = await node(DHTMode.SERVER)
        for _ in range(options.nodes - 1):
            await node(DHTMode.SERVER, first)
        writing, writer = await node(DHTMode.CLIENT, first)
        reading, reader = await node(DHTMode.CLIENT, first)

        async def checked_get(number: int) -> None:
            found = await get(reading, reader, f"/example/{number}".encode().hex())
            if found["value"] != key_of("value", number):
                raise Refused("another value than was put")

        timed: dict[str, Callable[[int], Awaitable[object]]] = {
            "provide": lambda i: writer.provide(key_of("provided", i)),
            "put": lambda i: put(writing, writer, f"/example/{i}".encode().hex(), key_of("value", i)),
            "get": checked_get,
            "find": lambda i: find_providers(reading, reader, key_of("provided", i)),
        }
        result: Result = {
            "count": options.count,
            "nodes": options.nodes,
            "table": first_dht.get_routing_table_size(),
        }
        before = time.process_time()
        for name, run in timed.items():
            start = time.perf_counter()
            for number in range(options.count):
                await run(number)
            result[f"{name}_per_second"] = options.count / (time.perf_counter() - start)
        result["cpu_seconds"] = time.process_time() - before
        tell(result)
    raise AssertionError("telling ends the program")
