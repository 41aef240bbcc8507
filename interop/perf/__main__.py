"""`python -m interop.perf`: moves bytes each way over /perf/1.0.0 and tells how fast."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

import trio

from interop.harness.image import open_image_node, open_redis, published_addr, run_image
from interop.harness.results import perf_yaml
from interop.harness.settings import perf_settings
from interop.harness.statistics import summary
from interop.peer import target_of
from talos.errors import ConfigError
from talos.perf import perf

if TYPE_CHECKING:
    from interop.harness.resp import RespClient
    from interop.harness.settings import PerfSettings
    from talos.abc import Connection, Host

POLL_SECONDS = 0.1


async def listen(settings: PerfSettings) -> None:
    common = settings.common
    async with open_image_node(common) as host, open_redis(common) as redis:
        await redis.delete(common.key)
        await redis.set(common.key, await published_addr(common, host))
        await trio.sleep_forever()


async def dial(settings: PerfSettings) -> None:
    common = settings.common
    async with open_redis(common) as redis:
        peer, addr = target_of(await _polled(redis, common.key))
    async with open_image_node(common) as host:
        connection = await host.connect(peer, [addr])
        await _measure(settings, host, connection)


async def _polled(redis: RespClient, key: str) -> str:
    """Unlike the transport image's list, this is a string that appears at some time."""
    while (value := await redis.get(key)) is None:  # noqa: ASYNC110 - the contract polls
        await trio.sleep(POLL_SECONDS)
    return value


async def _measure(settings: PerfSettings, host: Host, connection: Connection) -> None:
    async def gbps(iterations: int, *, up: int = 0, down: int = 0) -> list[float]:
        took = [await perf(host, connection, upload=up, download=down) for _ in range(iterations)]
        return [(up + down) * 8 / each.seconds / 1e9 for each in took]

    upload = await gbps(settings.upload_iterations, up=settings.upload_bytes)
    _print("upload", upload, "Gbps", 2)
    download = await gbps(settings.download_iterations, down=settings.download_bytes)
    _print("download", download, "Gbps", 2)
    pairs = [await perf(host, connection, upload=1, download=1) for _ in range(settings.latency_iterations)]
    _print("latency", [each.seconds * 1000 for each in pairs], "ms", 3)


def _print(name: str, samples: list[float], unit: str, decimals: int) -> None:
    if samples:  # no iterations asked for: no section
        sys.stdout.write(perf_yaml(name, summary(samples), unit=unit, decimals=decimals))
        sys.stdout.flush()


def main() -> int:
    try:
        settings = perf_settings(os.environ)
    except ConfigError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return run_image(settings.common, partial(dial if settings.common.is_dialer else listen, settings))


if __name__ == "__main__":
    sys.exit(main())
