"""A chat without a server: everybody who is joined to somebody hears everything.

python examples/chat.py                       three in one process, as a demonstration
python examples/chat.py alice                 prints addresses; a line typed is a line said
python examples/chat.py bob ADDRESS           joins alice, wherever she is
"""

import sys
from contextlib import AsyncExitStack

import trio

from talos import open_host, parse, presets, run
from talos.gossip import Gossip, open_gossip

TOPIC = "chat"


async def show(name: str, gossip: Gossip, *, task_status: trio.TaskStatus[None]) -> None:
    async with gossip.subscribe(TOPIC) as messages:
        task_status.started()
        async for message in messages:
            print(f"{name} heard {str(message.author)[-4:]}: {message.data.decode(errors='replace')!r}", flush=True)


async def say_lines(gossip: Gossip) -> None:
    async with trio.lowlevel.FdStream(sys.stdin.fileno()) as stdin:
        rest = b""
        async for chunk in stdin:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                await gossip.publish(TOPIC, line)


async def chat(name: str, *addresses: str) -> None:
    """One of many: says what is typed, until the end of the input."""
    async with open_host(presets.default()) as node, open_gossip(node) as gossip, trio.open_nursery() as nursery:
        await nursery.start(lambda task_status: show(name, gossip, task_status=task_status))
        for address in node.addrs:
            print(f"{name} is at {address}", flush=True)
        for address in addresses:
            await node.connect(None, [parse(address)])
        await say_lines(gossip)
        nursery.cancel_scope.cancel()


async def demonstration() -> None:
    """Alice knows Bob and Bob knows Carol; Carol hears Alice all the same."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(open_host(presets.testing())) for _ in range(3)]
        alice, bob, carol = [await stack.enter_async_context(open_gossip(node)) for node in nodes]
        messages = await stack.enter_async_context(carol.subscribe(TOPIC))
        await nursery.start(lambda task_status: show("bob", bob, task_status=task_status))
        for left, right in (nodes[:2], nodes[1:]):
            await left.connect(right.peer_id, right.addrs)
        await alice.wait_for_peers(TOPIC)
        await carol.wait_for_mesh(TOPIC)
        await alice.publish(TOPIC, b"good morning")
        message = await messages.receive()
        print(f"carol heard {message.data.decode()!r}, signed by alice: {message.author == nodes[0].peer_id}")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    run(chat, *sys.argv[1:]) if sys.argv[1:] else run(demonstration)
