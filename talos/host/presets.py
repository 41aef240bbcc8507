"""Ready configurations; change one with `dataclasses.replace`."""
# ruff: noqa: PT028 - `testing` is no test, but for tests

from __future__ import annotations

import os
import resource
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from talos.addr import names_of, parse
from talos.host.config import NodeConfig, Stack
from talos.host.limits import IpLimits, LimitsConfig, ManagerLimits

if TYPE_CHECKING:
    from collections.abc import Iterable

    from multiaddr import Multiaddr

    from talos.identity.keys import PrivateKey

__all__ = ["default", "listening", "minimal", "server", "testing"]

MIB = 1 << 20
EVERYWHERE = ("/ip4/0.0.0.0/tcp/{port}", "/ip6/::/tcp/{port}")
SERVER_PORT = 4001
"""What other implementations listen on by default."""
MINIMAL_BYTES = 64 * MIB
MINIMAL_DESCRIPTORS = 256
CGROUP_FILES = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def default(key: PrivateKey | None = None) -> NodeConfig:
    """Listens on a free TCP port of every interface, with the default limits."""
    return NodeConfig(key=key, listen=_everywhere(0))


def minimal(key: PrivateKey | None = None) -> NodeConfig:
    """Only dials; an eighth of the default memory and few connections."""
    limits = LimitsConfig.scaled(MINIMAL_BYTES, MINIMAL_DESCRIPTORS)
    return NodeConfig(key=key, limits=replace(limits, manager=ManagerLimits(low=24, high=32)))


def server(key: PrivateKey | None = None, *, port: int = SERVER_PORT) -> NodeConfig:
    """Listens on one port of every interface; limits grow with an eighth of the memory and half the descriptors.

    Memory is what the machine or the control group has, whichever is less.
    """
    descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    limits = LimitsConfig.scaled(max(MINIMAL_BYTES, _memory_bytes() // 8), max(MINIMAL_DESCRIPTORS, descriptors))
    inbound = limits.system.connections_in
    manager = ManagerLimits(low=max(160, inbound * 5 // 8), high=max(192, inbound * 3 // 4))
    return NodeConfig(key=key, listen=_everywhere(port), limits=replace(limits, manager=manager))


def testing(key: PrivateKey | None = None, *, stack: Stack | None = None, listen: str | None = None) -> NodeConfig:
    """Listens on a free port of 127.0.0.1, or on `listen`; loopback is not rated."""
    return NodeConfig(
        key=key,
        stack=stack or Stack(),
        listen=(parse(listen or "/ip4/127.0.0.1/tcp/0"),),
        limits=LimitsConfig(ip=IpLimits(exempt_loopback=True)),
    )


def listening(config: NodeConfig, addrs: Iterable[Multiaddr]) -> NodeConfig:
    """`config` with these addresses to listen on, and the transports that they need beside its own.

    NotSupported when one of them needs an extra that is not installed.
    """
    listen = tuple(addrs)
    transports = config.stack.transports
    if any("quic-v1" in names_of(addr) for addr in listen):
        from talos.transport.quic import Quic

        transports = (*transports, Quic)
    return replace(config, listen=listen, stack=replace(config.stack, transports=transports))


def _everywhere(port: int) -> tuple[Multiaddr, ...]:
    return tuple(parse(text.format(port=port)) for text in EVERYWHERE)


def _memory_bytes() -> int:
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in CGROUP_FILES:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            have = min(have, int(text))
    return have
