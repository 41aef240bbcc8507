"""A gossip node of py-libp2p, what `dial --gossip` does with it, and a network of nodes in this process."""

import argparse
import hashlib
import json
import secrets
import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, NoReturn

import libp2p.pubsub.pubsub as pubsub_module
import multiaddr
import trio
from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.rpc_queue import RpcQueue
from libp2p.pubsub.score import ScoreParams, TopicScoreParams
from libp2p.tools.anyio_service import background_trio_service
from pybase import OpenHost, Refused, tell  # type: ignore[import-not-found] # beside this file when it runs
from pydht import LOOPBACK, POLL_SECONDS  # type: ignore[import-not-found] # beside this file when it runs

# Newest first; beyond 1.3 the library has versions of its own.
PROTOCOLS = [TProtocol(f"/meshsub/{version}") for version in ("1.3.0", "1.2.0", "1.1.0", "1.0.0")]
MET_SECONDS = 10.0
MESH_SECONDS = 1.5
BURST_SECONDS = 30.0
PUBLISH_GAP_SECONDS = 0.01
STEADY_GAP_SECONDS = 0.05
STEADY_COUNT = 100
MANY = 1_000_000
QUEUED = 4096


# As shipped both are 32: a burst is lost on the first inch and on the last.
pubsub_module.SUBSCRIPTION_CHANNEL_SIZE = QUEUED
pubsub_module.RpcQueue = partial(RpcQueue, QUEUED)


@asynccontextmanager
async def open_gossip(host: Any) -> AsyncIterator[Pubsub]:
    """Scores its peers and exchanges them, with the heartbeat of the others: as shipped it is 120 s."""
    router = GossipSub(
        protocols=PROTOCOLS,
        degree=6,
        degree_low=4,
        degree_high=12,
        heartbeat_interval=1,
        do_px=True,
        score_params=ScoreParams(p2_first_message_deliveries=TopicScoreParams(weight=1.0, cap=100.0, decay=0.9)),
        max_idontwant_messages=1000,
        # Both refuse what a test on one machine does: many messages, and one address.
        max_messages_per_topic_per_second=MANY,
        eclipse_protection_enabled=False,
    )
    pubsub = Pubsub(host, router, strict_signing=True)
    async with background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        yield pubsub


async def connect(host: Any, addresses: Sequence[str]) -> None:
    for address in addresses:
        await host.connect(info_from_p2p_addr(multiaddr.Multiaddr(address)))


async def tell_messages(pubsub: Pubsub, topic: str) -> None:
    """Prints a line for every message of the topic."""
    subscription = await pubsub.subscribe(topic)
    while True:
        message = await subscription.get()
        line = {
            "topic": topic,
            "from": str(ID(message.from_id)),
            "seqno": message.seqno.hex(),
            "size": len(message.data),
            "sha256": hashlib.sha256(message.data).hexdigest(),
        }
        print(json.dumps(line), flush=True)


async def met(nodes: Sequence[Pubsub], topic: str, peers: int) -> None:
    """Waits until so many peers are subscribed everywhere, and then for a heartbeat that grafts them."""
    with trio.move_on_after(MET_SECONDS) as waiting:
        while any(len(node.peer_topics.get(topic, ())) < peers for node in nodes):  # noqa: ASYNC110
            await trio.sleep(POLL_SECONDS)
    if waiting.cancelled_caught:
        raise Refused("too few peers are subscribed to the topic")
    await trio.sleep(MESH_SECONDS)


async def publish(options: argparse.Namespace, open_host: OpenHost) -> NoReturn:
    host = open_host(options.stack)
    async with host.run(listen_addrs=[multiaddr.Multiaddr(options.listen)]), open_gossip(host) as pubsub:
        await pubsub.subscribe(options.gossip)
        before = time.process_time()
        await connect(host, [options.address])
        await met([pubsub], options.gossip, 1)
        digests = []
        for _ in range(options.publish):
            data = secrets.token_bytes(options.size)
            await pubsub.publish(options.gossip, data)
            digests.append(hashlib.sha256(data).hexdigest())
            await trio.sleep(PUBLISH_GAP_SECONDS)
        await trio.sleep(MESH_SECONDS)  # the last may still stand in a queue
        result = {
            "peer_id": str(host.get_id()),
            "published": options.publish,
            "size": options.size,
            "sha256": digests,
            "cpu_seconds": time.process_time() - before,
        }
        tell(result)
    raise AssertionError("telling ends the program")


class Arrivals:
    """What all nodes received and how long each took; the time of publishing stands in the message."""

    def __init__(self) -> None:
        self.milliseconds: list[float] = []

    async def read(self, own: bytes, subscription: Any) -> None:
        while True:
            message = await subscription.get()
            if message.from_id != own:
                (sent,) = struct.unpack_from(">d", message.data)
                self.milliseconds.append((time.perf_counter() - sent) * 1000)

    async def drained(self, expected: int) -> list[float]:
        """Waits for so many arrivals, or for the deadline, and takes them."""
        with trio.move_on_after(BURST_SECONDS):
            while len(self.milliseconds) < expected:  # noqa: ASYNC110
                await trio.sleep(0.001)
        taken, self.milliseconds = sorted(self.milliseconds), []
        return taken


async def network(options: argparse.Namespace, open_host: OpenHost) -> NoReturn:
    """Nodes that all know each other: a burst from one, then a steady rate from all in turn."""
    arrivals = Arrivals()
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        hosts: list[Any] = []
        nodes: list[Pubsub] = []
        for _ in range(options.nodes):
            host = open_host(options.stack)
            await stack.enter_async_context(host.run(listen_addrs=[multiaddr.Multiaddr(LOOPBACK)]))
            pubsub = await stack.enter_async_context(open_gossip(host))
            nursery.start_soon(arrivals.read, host.get_id().to_bytes(), await pubsub.subscribe(options.gossip))
            await connect(host, [str(other.get_addrs()[0]) for other in hosts])
            hosts.append(host)
            nodes.append(pubsub)
        await met(nodes, options.gossip, options.nodes - 1)

        async def send(node: Pubsub) -> None:
            data = struct.pack(">d", time.perf_counter()) + secrets.token_bytes(options.size - 8)
            await node.publish(options.gossip, data)

        before = time.process_time()
        start = time.perf_counter()
        expected = options.count * (options.nodes - 1)
        for _ in range(options.count):
            await send(nodes[0])
        burst = len(await arrivals.drained(expected))
        seconds = time.perf_counter() - start
        for number in range(STEADY_COUNT):
            await send(nodes[number % len(nodes)])
            await trio.sleep(STEADY_GAP_SECONDS)
        steady = await arrivals.drained(STEADY_COUNT * (options.nodes - 1))
        result = {
            "nodes": options.nodes,
            "count": options.count,
            "size": options.size,
            "expected": expected,
            "delivered": burst,
            "burst_per_second": burst / seconds,
            "steady_delivered": len(steady),
            "p50_ms": steady[len(steady) // 2],
            "p99_ms": steady[len(steady) * 99 // 100],
            "cpu_seconds": time.process_time() - before,
        }
        tell(result)
    raise AssertionError("telling ends the program")
