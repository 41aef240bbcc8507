"""`talos-gossipsub --params params.json`: one node of a simulation, which follows the script that all are given.

Its number is in the host's name. `--hostname`, `--loopback` and `--start` let many run on one machine without a
simulator: `--loopback 127.0.77` puts node N at 127.0.77.(N+1), and all count from one time.
"""

from __future__ import annotations

import argparse
import json
import re
import socket
import sys
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interop.gossipsub import script
from talos import open_host
from talos.abc import Verdict
from talos.addr import parse as parse_addr
from talos.errors import ConfigError, TalosError
from talos.gossip import open_gossip
from talos.host.config import NodeConfig
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.program import run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from talos.abc import Host, TopicMessage, Validator
    from talos.gossip import Gossip

PORT = 9000
SEED_BYTES = 32
NODE_BYTES = 8
CONNECT_SECONDS = 20.0
AGAIN_SECONDS = 0.2


def node_key(node: int) -> PrivateKey:
    """Every node can name every other one."""
    return PrivateKey.from_seed(node.to_bytes(NODE_BYTES, "little").ljust(SEED_BYTES, b"\0"))


def node_number(hostname: str) -> int:
    found = re.match(r"node(\d{1,9})", hostname)
    if found is None:
        raise ConfigError(f"the host is called {hostname[:80]!r}, not node and a number")
    return int(found[1])


def tell(message: str, **more: object) -> None:
    """One line for the analysis."""
    print(json.dumps({"time": datetime.now(UTC).isoformat(), "msg": message, **more}), flush=True)


def received(source: PeerId, topic: str, message_id: bytes) -> None:
    tell("Received Message", id=str(int.from_bytes(message_id, "big")), **{"from": str(source)}, topic=topic)


class Node:
    """One node that follows the script."""

    def __init__(self, host: Host, number: int, loopback: str | None, began: float, blocks: AsyncExitStack) -> None:
        self._host = host
        self._number = number
        self._loopback = loopback
        self._began = began
        self._blocks = blocks
        self._gossip: Gossip | None = None
        self._delays: dict[str, float] = {}

    async def follow(self, instruction: script.Instruction) -> None:
        match instruction:
            case script.IfNode(node, then):
                if node == self._number:
                    await self.follow(then)
            case script.Init(config):
                self._gossip = await self._blocks.enter_async_context(
                    open_gossip(self._host, config, on_receive=received)
                )
            case script.Connect(nodes):
                for node in nodes:
                    await self._connect(node)
            case script.WaitUntil(seconds):
                await trio.sleep_until(self._began + seconds)
            case script.ValidationDelay(topic, seconds):
                self._delays[topic] = seconds
            case script.Subscribe(topic):
                self._blocks.enter_context(self.gossip.validating(topic, self._validator(topic)))
            case script.Publish(message, size, topic):
                data = message.to_bytes(script.ID_BYTES, "big").ljust(size, b"\0")
                await self.gossip.publish(topic, data)

    @property
    def gossip(self) -> Gossip:
        if self._gossip is None:
            raise ConfigError("the script uses gossipsub before it begins it")
        return self._gossip

    def _validator(self, topic: str) -> Validator:
        async def validate(message: TopicMessage) -> Verdict:  # noqa: ARG001 - a Validator
            await trio.sleep(self._delays.get(topic, 0))
            return Verdict.ACCEPT

        return validate

    async def _connect(self, node: int) -> None:
        """The other node may be about to start: knock first, since a dial that failed is not soon tried again."""
        with trio.fail_after(CONNECT_SECONDS):
            ip = await self._ip(node)
            while not await _listens(ip):  # noqa: ASYNC110 - nobody tells of it
                await trio.sleep(AGAIN_SECONDS)
        peer = PeerId.from_key(node_key(node).public_key)
        await self._host.connect(peer, [parse_addr(f"/ip4/{ip}/tcp/{PORT}")])

    async def _ip(self, node: int) -> str:
        if self._loopback is not None:
            return loopback_ip(self._loopback, node)
        found = await trio.socket.getaddrinfo(f"node{node}", PORT, socket.AF_INET, socket.SOCK_STREAM)
        return str(found[0][4][0])


async def _listens(ip: str) -> bool:
    try:
        stream = await trio.open_tcp_stream(ip, PORT)
    except OSError:
        return False
    await stream.aclose()
    return True


def loopback_ip(prefix: str, node: int) -> str:
    return f"{prefix}.{node + 1}"


async def main(options: argparse.Namespace) -> None:
    began = trio.current_time() - (time.time() - options.start)
    number = node_number(options.hostname)
    instructions = script.parse(json.loads(await trio.Path(options.params).read_text()))
    ip = "0.0.0.0" if options.loopback is None else loopback_ip(options.loopback, number)
    config = NodeConfig(key=node_key(number), listen=(parse_addr(f"/ip4/{ip}/tcp/{PORT}"),))
    async with open_host(config) as host, AsyncExitStack() as blocks:
        tell("PeerID", id=str(host.peer_id), node_id=number)
        node = Node(host, number, options.loopback, began, blocks)
        for instruction in instructions:
            await node.follow(instruction)


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="talos-gossipsub", description="One node of a gossipsub simulation.")
    parser.add_argument("--params", type=Path, required=True, metavar="FILE")
    parser.add_argument("--hostname", default=socket.gethostname(), help="default: this host's")
    parser.add_argument("--loopback", metavar="PREFIX", help="three numbers: nodes are on this machine")
    parser.add_argument("--start", type=float, default=time.time(), metavar="UNIX", help="default: now")
    return parser.parse_args(words)


if __name__ == "__main__":
    try:
        run(main, arguments(sys.argv[1:]))
    except* (TalosError, OSError, ValueError, trio.TooSlowError) as errors:
        sys.exit(f"talos-gossipsub: {errors.exceptions[0]}")
