"""One end of a tunnel as a process of its own, without the command line: `serve SEED COMMAND…` or `connect SEED ADDR`.

The identity of the connecting end is that of SEED (one byte in decimal) on both sides, so that a grant can name it.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING, NoReturn

import trio

from talos.addr import parse, split_peer
from talos.host import presets
from talos.host.node import open_node
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mcp.connect import McpConnectConfig, run_mcp_client
from talos.mcp.limits import McpLimits
from talos.mcp.pipes import PipeReader, PipeWriter
from talos.mcp.policy import quick_policy
from talos.mcp.serve import McpServeConfig, open_mcp_server
from tests.mcp.harness import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def key_of(seed: str) -> PrivateKey:
    return PrivateKey.from_seed(bytes([int(seed)]) * 32)


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


async def serve(seed: str, *command: str) -> NoReturn:
    policy = quick_policy(command, [PeerId.from_key(key_of(seed).public_key)])
    config = McpServeConfig(policy=policy, report=say, grace_seconds=0.5, limits=McpLimits(openings_per_minute=10_000))
    async with open_node(presets.testing()) as node, open_mcp_server(node, config, MemoryLog()):
        print(node.addrs[0], flush=True)
        await trio.sleep_forever()
    raise AssertionError


async def connect(seed: str, addr: str) -> int:
    where, peer = split_peer(parse(addr))
    assert peer is not None
    config = McpConnectConfig(peer=peer, addrs=(where,), report=say)
    stdin, stdout = PipeReader(trio.lowlevel.FdStream(os.dup(0))), PipeWriter(trio.lowlevel.FdStream(os.dup(1)))
    async with open_node(presets.minimal(key_of(seed))) as node:
        return (await run_mcp_client(node, config, MemoryLog(), stdin, stdout)).code


if __name__ == "__main__":
    MAIN: dict[str, Callable[..., Coroutine[object, object, int]]] = {"serve": serve, "connect": connect}
    sys.exit(trio.run(partial(MAIN[sys.argv[1]], *sys.argv[2:])))
