"""`talos gossip`: broadcasting by topic, and what the router looks like."""

from __future__ import annotations

import base64
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from talos.control.failure import Failure
from talos.control.ops.view import rfc3339

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.abc import TopicMessage
    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit
    from talos.gossip.service import Gossip

__all__ = ["mesh", "pub", "sub"]

MAX_TOPICS = 16
MAX_COUNT = 1 << 53
NEIGHBOUR_SECONDS = 5.0
"""How long a publication waits for somebody who wants its topic; without an agent the node has only just begun."""


async def pub(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`topic`, `data_b64`: publishes it when a neighbour wants the topic; Failure `unreachable` when none does."""
    gossip, topic, data = _gossip(agent), _topic(args.text("topic")), args.data("data_b64")
    if len(data) > (most := gossip.max_data(topic)):
        raise Failure("usage", f"the message has {len(data)} bytes; topic {topic} takes {most}")
    emit.stage("wait", f"looking for peers in {topic}")
    with trio.move_on_after(args.seconds(NEIGHBOUR_SECONDS)):
        await gossip.wait_for_peers(topic)
    peers = len(gossip.peers(topic))
    if not peers:
        raise Failure("unreachable", f"no neighbour is in topic {topic}", hint="talos gossip topics; talos peers")
    ident = await gossip.publish(topic, data)
    return {"topic": topic, "id": ident.hex(), "peers": peers}


async def sub(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`topics`, `count` (0: until cancelled): one `gossip_message` event for each message of others."""
    gossip, count = _gossip(agent), args.count("count", 0, most=MAX_COUNT)
    topics = tuple(dict.fromkeys(_topic(name) for name in args.texts("topics")))
    if not 1 <= len(topics) <= MAX_TOPICS:
        raise Failure("usage", f"subscribe to 1 to {MAX_TOPICS} topics at once")
    received = 0
    done = trio.Event()

    def tell(message: TopicMessage) -> None:
        nonlocal received
        if not done.is_set():
            received += 1
            emit("gossip_message", **_fields(message))
            if received == count:
                done.set()

    async with AsyncExitStack() as stack:
        channels = [await stack.enter_async_context(gossip.subscribe(topic)) for topic in topics]
        emit.stage("subscribed", f"subscribed to {', '.join(topics)}")
        async with trio.open_nursery() as nursery:
            for channel in channels:
                nursery.start_soon(_read, channel, tell)
            await done.wait()
            nursery.cancel_scope.cancel()
    return {"received": received}


async def _read(channel: trio.MemoryReceiveChannel[TopicMessage], tell: object) -> None:
    assert callable(tell)
    async for message in channel:
        tell(message)


def mesh(agent: Agent, query: Mapping[str, str]) -> Mapping[str, object]:
    """Topics with their neighbours, neighbours with their scores; one topic when the query names it."""
    snapshot = _gossip(agent).snapshot()
    wanted = query.get("topic")
    scores = {view.peer_id: round(view.score, 3) for view in snapshot.peers}
    rows = [
        {
            "topic": view.topic,
            "subscribed": view.subscribed,
            "peers": [
                {"peer_id": str(peer), "score": scores[peer], "in_mesh": peer in view.mesh} for peer in view.peers
            ],
            "lost": view.lost,
        }
        for view in snapshot.topics
        if wanted is None or view.topic == wanted
    ]
    neighbours = [
        {
            "peer_id": str(view.peer_id),
            "protocol": view.protocol,
            "direction": "out" if view.role.value == "dialer" else "in",
            "score": round(view.score, 3),
            "topics": list(view.topics),
            "queued": view.queued,
        }
        for view in snapshot.peers
    ]
    return {"rows": rows, "peers": neighbours, "counters": snapshot.counters, "next": None}


def _fields(message: TopicMessage) -> dict[str, object]:
    return {
        "topic": message.topic,
        "from": None if message.author is None else str(message.author),
        "via": str(message.source),
        "id": message.id.hex(),
        "data_b64": base64.b64encode(message.data).decode(),
        "received": rfc3339(time.time()),
    }


def _topic(name: str) -> str:
    if not 0 < len(name.encode()) <= 256:
        raise Failure("usage", "a topic has 1 to 256 bytes")
    return name


def _gossip(agent: Agent) -> Gossip:
    if agent.gossip is None:
        raise Failure("config_invalid", "gossip is switched off", hint="talos config set gossip.enabled true")
    return agent.gossip
