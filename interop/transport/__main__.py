"""`python -m interop.transport`: dials or is dialled once, and tells how long that took."""

from __future__ import annotations

import os
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from interop.harness.image import open_image_node, open_redis, published_addr, run_image
from interop.harness.results import transport_json, transport_yaml
from interop.harness.settings import settings as read_settings
from interop.peer import target_of
from talos.errors import ConfigError
from talos.ping import ping

if TYPE_CHECKING:
    from interop.harness.settings import Settings


async def listen(settings: Settings) -> None:
    """Runs until it is killed: if it ended by itself, the harness would stop the dialer."""
    async with open_image_node(settings) as host, open_redis(settings) as redis:
        if settings.modern:
            await redis.delete(settings.key)
        await redis.rpush(settings.key, await published_addr(settings, host))
        await trio.sleep_forever()


async def dial(settings: Settings) -> None:
    async with open_redis(settings) as redis:
        peer, addr = target_of(await redis.blpop(settings.key))
    async with open_image_node(settings) as host:
        start = time.perf_counter()
        connection = await host.connect(peer, [addr])
        await ping(host, connection)
        handshake_plus_one_rtt = time.perf_counter() - start
        second = await ping(host, connection)
    form = transport_yaml if settings.modern else transport_json
    sys.stdout.write(form(handshake_plus_one_rtt * 1000, second * 1000))
    sys.stdout.flush()


def main() -> int:
    try:
        settings = read_settings(os.environ)
    except ConfigError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return run_image(settings, partial(dial if settings.is_dialer else listen, settings))


if __name__ == "__main__":
    sys.exit(main())
