"""`python -m interop.kad_dht`: one of three: a bootstrap node, a provider, or who looks for what that left."""

from __future__ import annotations

import os
import sys
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from interop.harness.image import open_image_node, open_redis, published_addr, run_image
from interop.harness.settings import KAD_ROLES, kad_settings
from interop.kad import joined_dht
from talos.dht import IPFS_KAD, DhtMode
from talos.errors import ConfigError, RoutingError, TalosError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from interop.harness.resp import RespClient
    from interop.harness.settings import KadSettings
    from talos.dht import Dht

POLL_SECONDS = 0.1
AGAIN_SECONDS = 1.0
GREETING = b"hello from talos client"
EXPECTED = b"hello from"
DONE = "done"


async def bootstrap(settings: KadSettings) -> None:
    """A server that the others begin with; runs until it is killed."""
    async with (
        open_image_node(settings.common) as host,
        open_redis(settings.common) as redis,
        joined_dht(host, IPFS_KAD, DhtMode.SERVER, []),
    ):
        await redis.set(settings.bootstrap_key, await published_addr(settings.common, host))
        await trio.sleep_forever()


async def provider(settings: KadSettings) -> None:
    """A server that provides a key, which is plain text here, puts a value, and stays."""
    async with joined(settings, DhtMode.SERVER) as (dht, redis):
        await dht.provide(settings.provided_key)
        await dht.put_value(settings.value_key, GREETING)
        await redis.set(settings.done_key, DONE)
        await trio.sleep_forever()


async def querier(settings: KadSettings) -> None:
    """A client that finds both, trying until the harness's time is up: records may still be on their way."""
    async with joined(settings, DhtMode.CLIENT) as (dht, redis):
        if await _polled(redis, settings.done_key) != DONE:
            raise ConfigError("the provider says something else than done")
        await _found(dht, settings)
        print("status: pass", flush=True)


async def _found(dht: Dht, settings: KadSettings) -> None:
    missing = ""
    with trio.move_on_after(settings.query_seconds):
        while True:
            try:
                providers = await dht.find_providers(settings.provided_key)
                value = await dht.get_value(settings.value_key, quorum=1) or b""
            except RoutingError as error:
                missing = str(error)
            else:
                if providers and EXPECTED in value:
                    return
                missing = f"{len(providers)} providers, value {value[:80]!r}"
            await trio.sleep(AGAIN_SECONDS)
    raise RoutingError(f"not found: {missing}")


@asynccontextmanager
async def joined(settings: KadSettings, mode: DhtMode) -> AsyncIterator[tuple[Dht, RespClient]]:
    async with open_redis(settings.common) as redis, open_image_node(settings.common) as host:
        addr = await _polled(redis, settings.bootstrap_key)
        async with joined_dht(host, IPFS_KAD, mode, [addr]) as dht:
            yield dht, redis


async def _polled(redis: RespClient, key: str) -> str:
    while (value := await redis.get(key)) is None:  # noqa: ASYNC110 - the contract polls
        await trio.sleep(POLL_SECONDS)
    return value


ROLES = {"bootstrap": bootstrap, "provider": provider, "querier": querier}
assert tuple(ROLES) == KAD_ROLES


def main() -> int:
    try:
        settings = kad_settings(os.environ)
    except ConfigError as error:
        return failed(error)
    code = run_image(settings.common, partial(ROLES[settings.role], settings))
    if code and settings.role == "querier":
        print("status: fail\nerror: see stderr", flush=True)
    return code


def failed(error: TalosError) -> int:
    print(f"failed: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
