"""Where protocols meet: a node with all that others expect of it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from talos.host.node import open_node
from talos.identify import open_identify
from talos.perf import open_perf
from talos.ping import open_ping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.host.config import NodeConfig
    from talos.host.node import Node

__all__ = ["open_host"]


@asynccontextmanager
async def open_host(config: NodeConfig | None = None, *, perf: bool = False) -> AsyncIterator[Node]:
    """A node that tells peers who it is, learns who they are, and answers pings; with `perf` it can be measured.

    Errors and end as those of `open_node`. Handlers that must be there for the first connection go into
    `NodeConfig.routes`.
    """
    async with open_node(config) as node, open_identify(node), open_ping(node):
        if not perf:
            yield node
            return
        async with open_perf(node):
            yield node
