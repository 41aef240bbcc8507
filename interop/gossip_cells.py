"""Gossip cells: Talos with each peer, and all of them in one mesh."""

from __future__ import annotations

import json
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

import trio

from interop.dht_cells import expect
from interop.matrix import OURS
from interop.network_cells import MIXED, STACK, Fleet, NetworkCell
from interop.process import PeerFailed, dial

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from interop.network_cells import Run
    from interop.process import Adapter, ListenerProcess

__all__ = ["cells"]

TOPIC = "interop"
PEERS = ("js", "go", "rust", "py")
EARLY = ("js", "js", "go", "go", "go", "go", "rust", "rust", "rust", "rust", "py", "py")
FULL_MESH = 12
"""What the first node keeps in its mesh: later ones are pruned, and told of other peers (v1.1)."""
LATE = (OURS, OURS, OURS)
MESSAGES = 10
LARGE = 2048
"""Over the 1 KiB from which on a copy on its way is declined (v1.2)."""
IDONTWANT = "/meshsub/1.2.0"
SETTLE_SECONDS = 3.0
ARRIVE_SECONDS = 20.0


def cells() -> list[NetworkCell]:
    """Two for each peer, and the mixed mesh."""
    made = []
    for peer in PEERS:
        made.append(NetworkCell(kind="gossip", dialer=OURS, listener=peer, run=partial(_pair, OURS, peer)))
        made.append(NetworkCell(kind="gossip", dialer=peer, listener=OURS, run=partial(_pair, peer, OURS)))
    return [*made, NetworkCell(kind="gossip", dialer=MIXED, listener=MIXED, run=_mixed)]


Expected = set[tuple[str, str]]
"""Author and SHA-256 of each message."""


async def publish(adapter: Adapter, addr: str, size: int = LARGE) -> Expected:
    options = {"gossip": TOPIC, "publish": MESSAGES, "size": size}
    done = await dial(adapter, addr, STACK, "gossip", options)
    expect(done.get("published") == MESSAGES, f"{adapter.name}: gossip answered {done!r}"[:300])
    return {(done["peer_id"], digest) for digest in done["sha256"]}


async def heard(peer: ListenerProcess, name: str, expected: Expected) -> None:
    """PeerFailed unless the listener tells of every message, of each once, and of no other."""
    seen: Counter[tuple[str, str]] = Counter()
    with trio.move_on_after(ARRIVE_SECONDS):
        while not expected <= set(seen):
            line = await peer.line()
            if line is None:
                raise PeerFailed(f"{name}: ended before it had every message")
            message = json.loads(line)
            seen[message["from"], message["sha256"]] += 1
    missing = expected - set(seen)
    expect(not missing, f"{name}: {len(missing)} of {len(expected)} messages are missing")
    expect(set(seen) == expected, f"{name}: told of messages that nobody published")
    expect(max(seen.values()) == 1, f"{name}: told of a message more than once")


async def _pair(dialer: str, listening: str, run: Run) -> None:
    async with Fleet.open() as fleet:
        (peer,) = await fleet.start([run.ready[listening]], gossip=TOPIC)
        await heard(peer, listening, await publish(run.ready[dialer], peer.addr))
        run.results["gossip"] = {"messages": MESSAGES, "size": LARGE}


async def _mixed(run: Run) -> None:
    """All know one Talos node to begin with; one publisher of each implementation joins at another one's node."""
    early = [name for name in EARLY if name in run.ready]
    early += [OURS] * (FULL_MESH - len(early))
    names = [OURS, *early, *LATE]
    async with Fleet.open() as fleet:
        nodes = await fleet.start([run.ready[OURS]], gossip=TOPIC)
        for wave in (early, LATE):
            adapters = [run.ready[name] for name in wave]
            nodes += await fleet.start(adapters, gossip=TOPIC, bootstrap=[nodes[0].addr])
            await trio.sleep(SETTLE_SECONDS)
        expected: Expected = set()

        async def join(name: str, at: ListenerProcess) -> None:
            expected.update(await publish(run.ready[name], at.addr))

        publishers = [name for name in (OURS, *PEERS) if name in run.ready]
        doors = [nodes[names.index(name)] for name in publishers]
        async with trio.open_nursery() as nursery:
            for at, name in enumerate(publishers):
                nursery.start_soon(join, name, doors[at - 1])
        async with trio.open_nursery() as nursery:
            for name, node in zip(names, nodes, strict=True):
                nursery.start_soon(heard, node, f"{name} ({node.addr})", expected)
        run.results["mesh"] = {"nodes": len(nodes), "messages": len(expected), "size": LARGE}
        ours = [node for name, node in zip(names, nodes, strict=True) if name == OURS]
        run.results["features"] = features([await snapshot(node) for node in ours])


async def snapshot(node: ListenerProcess) -> dict[str, Any]:
    """What a Talos node saw of the mesh; it is told to end."""
    await node.end()
    while (line := await node.line()) is not None:
        said = json.loads(line)
        if "snapshot" in said:
            return dict(said["snapshot"])
    raise PeerFailed("talos: ended without a snapshot")


def features(snapshots: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What was used: PeerFailed when a neighbour spoke less than v1.2, or nothing of v1.1 and v1.2 was of use."""
    protocols = Counter(peer["protocol"] for each in snapshots for peer in each["peers"] if peer["protocol"])
    used = {name: sum(each["counters"][name] for each in snapshots) for name in ("unwanted", "dialled", "duplicates")}
    old = [name for name in protocols if name < IDONTWANT]
    expect(not old, f"talos: neighbours agreed on {', '.join(old)}")
    expect(used["dialled"] > 0, f"talos: nobody was met by peer exchange: {used!r}")
    expect(used["unwanted"] > 0, f"talos: no copy was left unsent because of IDONTWANT: {used!r}")
    scores = [peer["score"] for each in snapshots for peer in each["peers"]]
    expect(min(scores) >= 0, f"talos: an honest neighbour has a score of {min(scores)}")
    return {"protocols": dict(protocols), **used, "best_score": max(scores)}
