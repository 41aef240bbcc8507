"""What every image of the official harnesses does around its measurement: a node of the stack that was asked for,
and an address that goes from the listener to the dialer through redis.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
import sys
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interop.harness.resp import RespClient
from interop.stack import node_config
from talos import open_host
from talos.errors import ConfigError, DialError, TalosError
from talos.testing.web_certificate import make_web_certificate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from interop.harness.settings import Settings
    from talos.abc import Host

__all__ = ["open_image_node", "open_redis", "published_addr", "run_image"]

RETRY_SECONDS = 0.2
LISTEN = {"tcp": "tcp/0", "ws": "tcp/0/ws", "wss": "tcp/0/wss", "quic-v1": "udp/0/quic-v1"}
"""The end of the address that each transport listens on."""


def run_image(settings: Settings, role: Callable[[], Awaitable[None]]) -> int:
    """Runs one role under the harness's deadline; the exit code. stdout belongs to results, all else goes to stderr."""
    logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if settings.debug else logging.WARNING)

    async def bounded() -> bool:
        if settings.transport not in LISTEN:  # said at once, not when the other side has come
            raise ConfigError(f"transport {settings.transport[:40]!r} is not supported")
        with trio.move_on_after(settings.timeout_seconds) as deadline:
            await role()
        return deadline.cancelled_caught

    code = 0
    try:
        if trio.run(bounded):
            print(f"timed out after {settings.timeout_seconds:.0f} s", file=sys.stderr)
            code = 1
    except* KeyboardInterrupt:
        code = 130
    except* (TalosError, trio.BrokenResourceError, EOFError) as errors:
        print(f"failed: {errors.exceptions[0]}", file=sys.stderr)
        code = 1
    return code


@asynccontextmanager
async def open_redis(settings: Settings) -> AsyncIterator[RespClient]:
    """A connection to redis, which may start after us: the harness's deadline ends the trying."""
    while True:
        try:
            stream = await trio.open_tcp_stream(settings.redis_host, settings.redis_port)
            break
        except OSError:
            await trio.sleep(RETRY_SECONDS)
    async with stream:
        yield RespClient(stream)


@asynccontextmanager
async def open_image_node(settings: Settings) -> AsyncIterator[Host]:
    """The node of this run: listening where told, or only dialing."""
    ip = ipaddress.ip_address(settings.listen_ip)
    listen = () if settings.is_dialer else (f"/ip{ip.version}/{ip}/{LISTEN[settings.transport]}",)
    with tempfile.TemporaryDirectory() as directory:
        if listen and settings.transport == "wss":  # the dialer checks nothing
            made = make_web_certificate(Path(directory))
            os.environ.update(WEB_CHAIN=str(made.chain), WEB_KEY=str(made.key))
        async with open_host(node_config(settings.stack, listen), perf=True) as host:
            yield host


async def published_addr(settings: Settings, host: Host) -> str:
    """The address for the dialer: never a wildcard, and ours on the network that we share with redis."""
    wildcard = ipaddress.ip_address(settings.listen_ip).is_unspecified
    ip = await _own_ip(settings) if wildcard else settings.listen_ip
    prefix = f"/ip{ipaddress.ip_address(ip).version}/{ip}/"
    for addr in map(str, host.addrs):
        if addr.startswith(prefix):
            return addr
    raise ConfigError(f"the node has no address on {ip}: {', '.join(map(str, host.addrs))}")


async def _own_ip(settings: Settings) -> str:
    """The source address of packets to redis; connecting a datagram socket sends none."""
    found = await trio.socket.getaddrinfo(settings.redis_host, settings.redis_port, type=socket.SOCK_DGRAM)
    for family, kind, _, _, target in found:
        with trio.socket.socket(family, kind) as probe:
            try:
                await probe.connect(target)
            except OSError:
                continue
            return str(probe.getsockname()[0])
    raise DialError(f"no route to {settings.redis_host}")
