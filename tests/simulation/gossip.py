"""What gossip does in a large network, simulated: loss, churn, partitions, and the published attacks.

`python -m tests.simulation.gossip --nodes 1000 --write-docs` runs every scene and writes docs/gossip-simulation.md.
The attacks are those of the evaluation of gossipsub v1.1 (PL-TechRep-2020-001) and the floods of its text.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import random
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from talos.gossip.config import GossipConfig, GossipLimits
from talos.gossip.router import Router
from talos.gossip.score_config import ScoreConfig, TopicScore
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from tests.simulation.gossip_network import TOPIC, Network, Node
from tests.simulation.gossip_sybil import (
    BackoffFlood,
    IhaveSpam,
    InvalidFlood,
    IwantSpam,
    Silent,
    Turncoat,
    sybil,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DOCS = Path(__file__).resolve().parents[2] / "docs"
DIALS = 8
"""Of each honest node; others dial it as often."""
MESSAGES_PER_SECOND = 2.0
WARM_SECONDS, PUBLISH_SECONDS, DRAIN_SECONDS = 14.0, 20.0, 8.0
MESSAGE_BYTES = 256

SCORE = ScoreConfig(
    topics={
        TOPIC: TopicScore(
            topic_weight=1.0,
            time_in_mesh_weight=0.01,
            time_in_mesh_cap=100.0,
            first_message_deliveries_weight=0.5,
            first_message_deliveries_decay=0.9,
            first_message_deliveries_cap=40.0,
            # At two messages a second the counter of a peer that passes everything on goes to 20.
            mesh_message_deliveries_weight=-1.0,
            mesh_message_deliveries_decay=0.9,
            mesh_message_deliveries_threshold=3.0,
            mesh_message_deliveries_cap=40.0,
            mesh_message_deliveries_window=2.0,
            mesh_message_deliveries_activation=10.0,
            mesh_failure_penalty_weight=-1.0,
            mesh_failure_penalty_decay=0.98,
            invalid_message_deliveries_weight=-10.0,
            invalid_message_deliveries_decay=0.9,
        )
    },
    behaviour_penalty_decay=0.9,
)
CONFIG = GossipConfig(score=SCORE, limits=GossipLimits(peers=2048))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a scene came to."""

    name: str
    honest: int
    sybils: int
    messages: int
    delivery: float
    """Part of all pairs of a message and an honest node that was there from first to last."""
    p50: float
    p99: float
    slowest: float
    mesh_honesty: float | None
    """Part of the places in the meshes of honest nodes that honest nodes hold, at the end; None: nobody has a mesh."""
    honest_score: float
    sybil_score: float
    """Medians of what honest nodes think of each kind; 0 where there is none."""
    rpcs: int

    def line(self) -> str:
        sybil_score = f"{self.sybil_score:.1f}" if self.sybils else "–"
        mesh = "none" if self.mesh_honesty is None else f"{self.mesh_honesty:.1%}"
        return (
            f"| {self.name} | {self.honest} | {self.sybils} | {self.messages} | {self.delivery:.4%} | {self.p50:.2f} |"
            f" {self.p99:.2f} | {self.slowest:.2f} | {mesh} | {self.honest_score:.1f} | {sybil_score} |"
        )


# ------------------------------------------------------------------------------------- the parts of a scene


def honest_network(count: int, seed: int, *, loss: float = 0.0) -> tuple[Network, list[Node]]:
    """Routers that are not linked yet."""
    network = Network(random.Random(seed), loss=loss)
    return network, [network.add_router(number + 1, CONFIG) for number in range(count)]


def publishing(
    network: Network, publisher: Callable[[], Node], readers: Callable[[Node], Sequence[Node]] | None = None
) -> None:
    """Messages at an even pace from now on; `readers` are to get those of a publisher, all if it is not named."""

    def publish() -> None:
        node = publisher()
        network.publish(node, network.random.randbytes(MESSAGE_BYTES), readers(node) if readers else None)

    network.every(1 / MESSAGES_PER_SECOND, publish)


def measure(network: Network, seconds: float = PUBLISH_SECONDS) -> None:
    """Counts the messages of the next so many seconds, and waits for the last of them."""
    network.measuring = True
    network.run(network.now + seconds)
    network.measuring = False
    network.run(network.now + DRAIN_SECONDS)


def anyone(network: Network) -> Callable[[], Node]:
    return lambda: network.random.choice(network.honest())


def sybils_join(
    network: Network, victims: Sequence[Node], count: int, kind: type[Silent], *, dials: int, per_address: int = 4
) -> None:
    """So many of the kind, each of which dials some of the victims."""
    for number in range(count):
        node = network.add(sybil(kind, number, network.random, per_address=per_address))
        for victim in network.random.sample(victims, min(dials, len(victims))):
            network.connect(node, victim)


def outcome(name: str, network: Network) -> Outcome:
    """Counts what was delivered to nodes that stayed."""
    honest = network.honest()
    here = {node.peer for node in honest}
    delays = []
    owed = 0
    for publication in network.published.values():
        for peer in publication.expected & here:
            owed += 1
            arrived = publication.arrived.get(peer)
            if arrived is not None:
                delays.append(arrived - publication.at)
    delays.sort()
    meshes = [peer for node in honest for peer in _router(node).mesh(TOPIC)]
    scores: dict[bool, list[float]] = {True: [0.0], False: [0.0]}
    for node in honest:
        for peer in node.met:
            scores[network.nodes[peer].honest].append(_router(node).score(peer))
    return Outcome(
        name,
        len(honest),
        sum(not node.honest for node in network.nodes.values()),
        sum(bool(publication.expected) for publication in network.published.values()),
        len(delays) / owed,
        delays[len(delays) // 2],
        delays[len(delays) * 99 // 100],
        delays[-1],
        sum(network.nodes[peer].honest for peer in meshes) / len(meshes) if meshes else None,
        statistics.median(scores[True]),
        statistics.median(scores[False]),
        network.rpcs,
    )


def _router(node: Node) -> Router:
    assert isinstance(node.machine, Router)
    return node.machine


# ------------------------------------------------------------------------------------- scenes without enemies


def calm(count: int, *, seed: int = 1) -> Outcome:
    """Nothing happens but messages."""
    network, nodes = honest_network(count, seed)
    network.wire_up(nodes, DIALS)
    publishing(network, anyone(network))
    network.run(WARM_SECONDS)
    measure(network)
    return outcome("no faults", network)


def loss_and_churn(count: int, *, loss: float = 0.05, per_second: float = 0.002, seed: int = 2) -> Outcome:
    """RPCs are lost, and each second some nodes leave for good and as many come."""
    network, nodes = honest_network(count, seed, loss=loss)
    network.wire_up(nodes, DIALS)
    publishing(network, anyone(network))
    network.run(WARM_SECONDS)
    numbers = iter(range(count + 1, 10 * count))

    def churn() -> None:
        for _ in range(max(1, round(per_second * count))):
            network.leave(network.random.choice(network.honest()))
            newcomer = network.add_router(next(numbers), CONFIG)
            for other in network.random.sample(network.honest(), DIALS):
                network.connect(newcomer, other)
        for node in network.honest():
            if len(node.links) < DIALS:  # as a node does that looks after its connections
                network.connect(node, network.random.choice(network.honest()))

    network.every(1.0, churn)
    measure(network)
    return outcome(f"{loss:.0%} loss, {per_second:.1%} churn/s", network)


def partition(count: int, *, seconds: float = 15.0, seed: int = 3) -> tuple[Outcome, Outcome]:
    """Two halves lose all links between them, then get them back: each half by itself, and all after healing."""
    network, nodes = honest_network(count, seed)
    network.wire_up(nodes, DIALS)
    healed = False
    half = set(nodes[: count // 2])
    sides = [[node for node in nodes if node in half], [node for node in nodes if node not in half]]
    publishing(network, anyone(network), lambda publisher: nodes if healed else sides[publisher not in half])
    network.run(WARM_SECONDS)
    cut = [(node, network.nodes[peer]) for node in half for peer in node.links if network.nodes[peer] not in half]
    for a, b in cut:
        network.disconnect(a, b)
    measure(network, seconds)
    apart = outcome(f"partition, {seconds:.0f} s", network)
    network.published.clear()
    healed = True
    for a, b in cut:
        network.connect(a, b)
    network.run(network.now + 5)
    measure(network)
    return apart, outcome("healed", network)


# ------------------------------------------------------------------------------------- attacks


def attack(
    name: str, kind: type[Silent], honest: int, sybils: int, *, dials: int = 20, per_address: int = 4, seed: int = 4
) -> Outcome:
    """Sybils that join a network that runs, each linked to some of it."""
    network, nodes = honest_network(honest, seed)
    network.wire_up(nodes, DIALS)
    publishing(network, anyone(network))
    network.run(5.0)
    sybils_join(network, nodes, sybils, kind, dials=dials, per_address=per_address)
    network.run(WARM_SECONDS)
    measure(network)
    return outcome(name, network)


def eclipse(honest: int, sybils: int, *, publishes: bool, seed: int = 5) -> Outcome:
    """All sybils surround one node, which reads, or also writes all messages; only pairs with it count."""
    network, nodes = honest_network(honest, seed)
    network.wire_up(nodes, DIALS)
    victim = nodes[0]
    publishing(network, anyone(network), lambda _: [])
    network.run(5.0)
    sybils_join(network, [victim], sybils, Silent, dials=1)
    network.run(WARM_SECONDS)
    if publishes:
        publishing(network, lambda: victim)
    else:
        publishing(network, lambda: network.random.choice(nodes[1:]), lambda _: [victim])
    measure(network)
    return outcome("eclipse of a publisher" if publishes else "eclipse of a reader", network)


def cold_boot(honest: int, sybils: int, *, dials: int = 20, seed: int = 6) -> Outcome:
    """Sybils are there first: every mesh is full of them before the honest nodes meet."""
    network, nodes = honest_network(honest, seed)
    sybils_join(network, nodes, sybils, Silent, dials=dials)
    publishing(network, anyone(network))
    network.run(3.0)
    network.wire_up(nodes, DIALS)
    network.run(4.0)
    measure(network)
    return outcome("cold boot", network)


def turned(
    name: str, honest: int, turncoats: int, drops: Callable[[Network], Callable[[], bool]], *, seed: int = 7
) -> Outcome:
    """Routers that are honest at first, and trusted."""
    network, nodes = honest_network(honest, seed)
    drop = drops(network)
    for number in range(turncoats):
        key = PrivateKey.from_seed((1_000_000 + number).to_bytes(32, "big"))
        peer = PeerId.from_key(key.public_key)
        machine = Turncoat(CONFIG, peer_id=peer, key=key, random=network.random, now=0.0, drops=drop)
        node = network.add(Node(peer, machine, sybil(Silent, number, network.random).ip, honest=False))
        machine.subscribe(TOPIC, 0.0, validate=True)
        nodes.append(node)
    network.random.shuffle(nodes)
    network.wire_up(nodes, DIALS)
    publishing(network, anyone(network))
    network.run(WARM_SECONDS)
    measure(network)
    return outcome(name, network)


def flash(network: Network) -> Callable[[], bool]:
    """All fall silent at once, while messages flow."""
    return lambda: network.now > WARM_SECONDS + PUBLISH_SECONDS / 3


def degrading(network: Network) -> Callable[[], bool]:
    """Each passes half of the messages on."""
    return lambda: network.random.random() < 0.5


def scenes(nodes: int) -> dict[str, Callable[[], Sequence[Outcome]]]:
    """Every scene, with so many nodes on both sides together."""
    half, fifth, few = nodes // 2, nodes // 5, max(10, nodes // 21)
    return {
        "calm": lambda: [calm(nodes)],
        "churn": lambda: [loss_and_churn(nodes)],
        "partition": lambda: partition(nodes),
        "sybil-1": lambda: [attack("sybil 1:1", Silent, half, nodes - half)],
        "sybil-4": lambda: [attack("sybil 4:1", Silent, fifth, nodes - fifth, dials=40)],
        "sybil-20": lambda: [attack("sybil 20:1", Silent, few, nodes - few, dials=few)],
        "addresses": lambda: [
            attack("sybil 20:1, few addresses", Silent, few, nodes - few, dials=few, per_address=100)
        ],
        "eclipse-reader": lambda: [eclipse(half, nodes - half, publishes=False)],
        "eclipse-publisher": lambda: [eclipse(half, nodes - half, publishes=True)],
        "cold-boot": lambda: [cold_boot(half, nodes - half)],
        "flash": lambda: [turned("covert flash 1:1", half, nodes - half, flash)],
        "degradation": lambda: [turned("degradation 1:1", half, nodes - half, degrading)],
        "iwant": lambda: [attack("IWANT spam", IwantSpam, half, nodes // 10)],
        "ihave": lambda: [attack("IHAVE spam", IhaveSpam, half, nodes // 10)],
        "backoff": lambda: [attack("back-off flood", BackoffFlood, half, nodes - half)],
        "invalid": lambda: [attack("invalid-message flood", InvalidFlood, half, nodes // 4)],
    }


PEACEFUL = ("calm", "churn", "partition")


def play(name: str, nodes: int) -> tuple[Sequence[Outcome], float]:
    """One scene, and how long it took."""
    began = time.monotonic()
    gc.disable()  # a thousand routers are a large heap without cycles
    outcomes = scenes(nodes)[name]()
    gc.enable()
    gc.collect()
    return outcomes, time.monotonic() - began


# ------------------------------------------------------------------------------------- the document

HEAD = """\
# Gossip in a large network, simulated

The router as it is (`talos/gossip/router.py`, with real signatures) in virtual time: {nodes} nodes, each dials {dials}
others over links of 10 to 100 ms; {rate:g} messages of {size} bytes a second by nodes that chance picks, for {seconds:g} s.
A node counts for a message when it was there from its publication to the end. "Mesh" is the part of places in honest
meshes that honest nodes hold at the end, scores are medians of what honest nodes think of each kind.

Written by `python -m tests.simulation.gossip --nodes {plain} --write-docs`; smaller networks run in `make long`.

| scene | honest | sybils | messages | delivered | p50 s | p99 s | slowest s | mesh | score honest | score sybil |
|---|---|---|---|---|---|---|---|---|---|---|
"""

TAIL = """
- **partition**: every node loses about half of its links at once and dials no others. Who is left without a mesh
  waits for gossip, which chance spreads for three seconds: a message may miss a node. Nothing is missed once healed.
- **scores** are near 0 where most pairs never shared a mesh. Who stayed silent in one was pruned, and its debt decays.
- **sybil**: as many as the ratio says join, graft everybody and pass nothing on; *few addresses*: a hundred of them
  share each IP address.
- **eclipse**: all sybils surround one node; only messages to it, or by it, are counted.
- **cold boot**: the sybils hold every mesh before the honest nodes meet; messages flow a second later.
- **covert flash**: half of all routers are honest for {flash:.0f} s of messages, then pass nothing on. **degradation**:
  they pass half on.
- **floods**: 1,500 ids asked for, 2,400 ids announced, a GRAFT within its back-off, or six invalid messages, each
  second to each neighbour.

![delivery times, meshes and scores](gossip-simulation.svg)
"""


def document(outcomes: Sequence[Outcome], nodes: int) -> str:
    head = HEAD.format(
        nodes=f"{nodes:,}",
        plain=nodes,
        dials=DIALS,
        rate=MESSAGES_PER_SECOND,
        size=MESSAGE_BYTES,
        seconds=PUBLISH_SECONDS,
    )
    return head + "".join(one.line() + "\n" for one in outcomes) + TAIL.format(flash=PUBLISH_SECONDS / 3)


def draw(outcomes: Sequence[Outcome]) -> None:
    """Needs matplotlib."""
    from tests.simulation.chart import Panel
    from tests.simulation.chart import draw as draw_panels

    attacked = [one for one in outcomes if one.sybils]
    panels = [
        Panel(title="p50 of delivery", unit="s", bars={one.name: one.p50 for one in outcomes}),
        Panel(title="p99 of delivery", unit="s", bars={one.name: one.p99 for one in outcomes}),
        Panel(
            title="honest places in the mesh",
            unit="%",
            bars={one.name: 100 * (one.mesh_honesty or 0) for one in attacked},
        ),
        Panel(
            title="median score of sybils, below 0", unit="score", bars={one.name: -one.sybil_score for one in attacked}
        ),
    ]
    draw_panels(DOCS / "gossip-simulation.svg", panels)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the scenes and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--scene", action="append", choices=tuple(scenes(0)), help="only this one; may be repeated")
    parser.add_argument("--write-docs", action="store_true")
    options = parser.parse_args(arguments)
    outcomes: list[Outcome] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        names = options.scene or tuple(scenes(0))
        for played, seconds in pool.map(play, names, itertools.repeat(options.nodes)):
            outcomes += played
            for one in played:
                print(one.line(), f"[{seconds:.0f} s, {one.rpcs} RPCs]", flush=True)
    if options.write_docs:
        (DOCS / "gossip-simulation.md").write_text(document(outcomes, options.nodes))
        draw(outcomes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
