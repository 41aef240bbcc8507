"""Talos's adapter with `--gossip`: a line for every message, what `dial` publishes, and a network in this process."""

from __future__ import annotations

import hashlib
import json
import math
import secrets
import struct
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio

from interop.harness.statistics import percentile
from interop.operations import OperationFailed
from interop.stack import LISTEN, node_config
from talos import open_host
from talos.addr import parse, split_peer
from talos.gossip import GossipConfig, ScoreConfig, TopicScore, open_gossip
from talos.gossip.score_config import ScoreThresholds

if TYPE_CHECKING:
    import argparse
    from collections.abc import AsyncIterator, Sequence

    from talos.abc import Host, TopicMessage
    from talos.gossip import Gossip

__all__ = ["connected", "joined_gossip", "network", "publish", "tell"]

MET_SECONDS = 10.0
MESH_SECONDS = 1.5
"""The first heartbeat, and what a slow neighbour takes to answer a GRAFT."""
DRAIN_SECONDS = 30.0
POLL_SECONDS = 0.001
PUBLISH_GAP_SECONDS = 0.01
STEADY_GAP_SECONDS = 0.05
STEADY_COUNT = 100
SENT = struct.Struct(">d")


@asynccontextmanager
async def joined_gossip(host: Host, topic: str) -> AsyncIterator[Gossip]:
    """Peers are scored, and exchanged with whoever is not in disgrace."""
    score = ScoreConfig(topics={topic: TopicScore()}, thresholds=ScoreThresholds(accept_px_threshold=0.0))
    async with open_gossip(host, GossipConfig(score=score)) as gossip:
        yield gossip


async def connected(host: Host, addrs: Sequence[str]) -> None:
    for addr in addrs:
        where, peer = split_peer(parse(addr))
        await host.connect(peer, [where])


async def tell(messages: trio.MemoryReceiveChannel[TopicMessage]) -> None:
    """One JSON line a message, until the subscription ends."""
    async for message in messages:
        line = {
            "topic": message.topic,
            "from": str(message.author),
            "seqno": message.seqno.hex(),
            "size": len(message.data),
            "sha256": hashlib.sha256(message.data).hexdigest(),
        }
        print(json.dumps(line), flush=True)


async def met(nodes: Sequence[Gossip], topic: str, peers: int) -> None:
    """Until so many neighbours are subscribed everywhere, and then for a heartbeat that grafts them."""
    with trio.move_on_after(MET_SECONDS) as waiting:
        for node in nodes:
            await node.wait_for_peers(topic, peers)
    if waiting.cancelled_caught:
        raise OperationFailed("too few peers are subscribed to the topic")
    await trio.sleep(MESH_SECONDS)


async def publish(options: argparse.Namespace) -> dict[str, Any]:
    """Joins at one peer and publishes."""
    async with (
        open_host(node_config(options.stack, [options.listen or LISTEN["tcp"]])) as host,
        joined_gossip(host, options.gossip) as gossip,
        gossip.subscribe(options.gossip),
    ):
        before = time.process_time()
        await connected(host, [options.addr])
        await met([gossip], options.gossip, 1)
        digests = []
        for _ in range(options.publish):
            data = secrets.token_bytes(options.size)
            await gossip.publish(options.gossip, data)
            digests.append(hashlib.sha256(data).hexdigest())
            await trio.sleep(PUBLISH_GAP_SECONDS)
        await trio.sleep(MESH_SECONDS)  # the last may still stand in a queue
        return {
            "peer_id": str(host.peer_id),
            "published": options.publish,
            "size": options.size,
            "sha256": digests,
            "cpu_seconds": time.process_time() - before,
        }


class Arrivals:
    """How long each message took to each node; the time of publishing stands in the message."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []

    async def read(self, messages: trio.MemoryReceiveChannel[TopicMessage]) -> None:
        async for message in messages:
            (sent,) = SENT.unpack_from(message.data)
            self.milliseconds.append((time.perf_counter() - sent) * 1000)

    async def drained(self, expected: int) -> list[float]:
        """Waits for so many, or for the deadline, and takes them, sorted."""
        with trio.move_on_after(DRAIN_SECONDS):
            while len(self.milliseconds) < expected:  # noqa: ASYNC110 - polled, as the other adapters do
                await trio.sleep(POLL_SECONDS)
        taken, self.milliseconds = sorted(self.milliseconds), []
        return taken


async def network(options: argparse.Namespace) -> dict[str, Any]:
    """Nodes that all know each other: a burst from one, then a steady rate from all in turn."""
    arrivals, topic = Arrivals(), options.gossip
    hosts: list[Host] = []
    nodes: list[Gossip] = []
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        for _ in range(options.nodes):
            host = await stack.enter_async_context(open_host(node_config(options.stack, [LISTEN["tcp"]])))
            gossip = await stack.enter_async_context(joined_gossip(host, topic))
            nursery.start_soon(arrivals.read, await stack.enter_async_context(gossip.subscribe(topic)))
            await connected(host, [str(other.addrs[0]) for other in hosts])
            hosts.append(host)
            nodes.append(gossip)
        await met(nodes, topic, options.nodes - 1)
        result = await _measured(options, nodes, arrivals)
        nursery.cancel_scope.cancel()
    return result


async def _measured(options: argparse.Namespace, nodes: Sequence[Gossip], arrivals: Arrivals) -> dict[str, Any]:
    filler = secrets.token_bytes(options.size - SENT.size)

    async def send(node: Gossip) -> None:
        await node.publish(options.gossip, SENT.pack(time.perf_counter()) + filler)

    before = time.process_time()
    start = time.perf_counter()
    expected = options.count * (len(nodes) - 1)
    for _ in range(options.count):
        await send(nodes[0])
    burst = len(await arrivals.drained(expected))
    seconds = time.perf_counter() - start
    for number in range(STEADY_COUNT):
        await send(nodes[number % len(nodes)])
        await trio.sleep(STEADY_GAP_SECONDS)
    steady = await arrivals.drained(STEADY_COUNT * (len(nodes) - 1))
    return {
        "nodes": len(nodes),
        "count": options.count,
        "size": options.size,
        "expected": expected,
        "delivered": burst,
        "burst_per_second": burst / seconds,
        "steady_delivered": len(steady),
        "p50_ms": percentile(steady, 0.5) if steady else math.nan,
        "p99_ms": percentile(steady, 0.99) if steady else math.nan,
        "cpu_seconds": time.process_time() - before,
    }
