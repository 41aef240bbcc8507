"""What a DHT of many nodes does, simulated: dead nodes, churn, liars, and sybils around a key.

`python -m tests.simulation.dht --nodes 1000 10000 --write-docs` measures everything and writes docs/dht-simulation.md.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from talos.dht.key import MAX_SEARCH_BITS, kad_id, preimage
from talos.dht.query import Purpose
from talos.dht.region import RegionQuery
from talos.identity.peer_id import PeerId
from tests.simulation.dht_network import Clock, K, Network, Role, Search, SimNode, begin, random_peer, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

MAX_CHURN_NODES = 1000
"""With more, the refreshes of all tables take too long to simulate."""
DOCS = Path(__file__).resolve().parents[2] / "docs"


@dataclass(slots=True)
class Row:
    """What a number of lookups of one kind came to."""

    name: str
    successes: int = 0
    hops: list[int] = field(default_factory=list)
    messages: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def take(self, success: bool, hops: int, messages: int, seconds: float) -> None:
        self.successes += success
        self.hops.append(hops)
        self.messages.append(messages)
        self.seconds.append(seconds)

    @property
    def rate(self) -> float:
        return self.successes / len(self.hops)

    @property
    def median_hops(self) -> float:
        return statistics.median(self.hops)


# ---------------------------------------------------------------------------------------------- scenarios


def find_peers(network: Network, count: int, name: str) -> Row:
    """Living honest nodes that one of them looks for."""
    row, honest = Row(name), network.honest()
    for _ in range(count):
        origin, wanted = network.rng.sample(honest, 2)
        if wanted.peer in origin.table:
            row.take(True, 1, 0, 0.0)
            continue
        search = run(network, origin, wanted.peer.raw, Purpose.FIND_PEER)
        row.take(search.lookup.found is not None, search.lookup.hops, search.lookup.asked, search.seconds)
    return row


def store_and_get(network: Network, count: int, name: str, trouble: Callable[[], None] | None = None) -> Row:
    """Records stored by one node, then got by another, with `trouble` between the two."""
    row, honest, keys = Row(name), network.honest(), []
    for _ in range(count):
        keys.append(key := network.rng.randbytes(34))
        search = run(network, network.rng.choice(honest), key, Purpose.STORE)
        for peer in search.lookup.closest():
            network.nodes[peer.raw].stored.add(key)
    if trouble is not None:
        trouble()
    honest = network.honest()
    for key in keys:
        search = run(network, network.rng.choice(honest), key, Purpose.GET, quorum=1)
        row.take(search.hits > 0, search.lookup.hops, search.lookup.asked, search.seconds)
    return row


def kill(network: Network, share: float) -> None:
    nodes = list(network.nodes.values())
    for node in network.rng.sample(nodes, round(share * len(nodes))):
        node.alive = False


def corrupt(network: Network, share: float, roles: Sequence[Role]) -> None:
    nodes = list(network.nodes.values())
    for number, node in enumerate(network.rng.sample(nodes, round(share * len(nodes)))):
        node.role = roles[number % len(roles)]


def misbehaving(network: Network, count: int, name: str, roles: Sequence[Role], *, share: float = 0.3) -> list[Row]:
    """Records and peers looked for while a share of the nodes does not do as it should."""
    stored = store_and_get(network, count, f"get, {name}", lambda: corrupt(network, share, roles))
    return [stored, find_peers(network, count, f"find, {name}")]


class Churn:
    """Half of the nodes are replaced within an hour while others look for records and peers."""

    SECONDS = 3600.0
    REFRESH_SECONDS = 600.0
    REPUBLISH_SECONDS = 1800.0
    """Deployed networks republish after 22 hours and lose half of their nodes in about as long: here all is faster."""

    def __init__(self, network: Network, lookups: int) -> None:
        self.network = network
        self.find = Row("find, half replaced in an hour")
        self.get = Row("get, half replaced in an hour")
        network.learning, network.clock = True, Clock()
        clock, rng, nodes = network.clock, network.rng, list(network.nodes.values())
        for node in nodes:
            clock.after(rng.uniform(0, self.REFRESH_SECONDS), self._refresh, node)
        for node in rng.sample(nodes, len(nodes) // 2):
            clock.after(rng.uniform(0, self.SECONDS), self._replace, node)
        for _ in range(lookups):
            clock.after(rng.uniform(0, self.SECONDS), self._find_one)
        for _ in range(lookups // 2):
            self._publish(rng.choice(nodes), rng.randbytes(34), gets=2)
        clock.run()

    def _publish(self, owner: SimNode, key: bytes, gets: int) -> None:
        """The owner goes on for as long as it lives; then another who has the record does."""
        clock, rng = self.network.clock, self.network.rng
        if clock.now > self.SECONDS:
            return

        def stored(search: Search) -> None:
            for peer in search.lookup.closest():
                self.network.nodes[peer.raw].stored.add(key)
            for _ in range(gets):
                clock.after(rng.uniform(0, self.SECONDS - clock.now), self._get_one, key)
            clock.after(self.REPUBLISH_SECONDS, self._publish, rng.choice(self.network.honest()), key, 0)

        begin(self.network, owner, key, Purpose.STORE, stored)

    def _refresh(self, node: SimNode) -> None:
        clock = self.network.clock
        if not node.alive or clock.now > self.SECONDS:
            return
        for peer in node.table.quiet(clock.now):
            if self.network.nodes[peer.raw].alive:
                node.table.heard(peer, clock.now)
            else:
                node.table.failed(peer)
        for key in node.table.refresh_keys(self.network.rng):
            begin(self.network, node, key, Purpose.REFRESH, lambda search: None)
        clock.after(self.REFRESH_SECONDS, self._refresh, node)

    def _replace(self, node: SimNode) -> None:
        node.alive = False
        self._join()

    def _join(self) -> None:
        """A newcomer knows one peer and looks up itself."""
        network = self.network
        known = network.rng.choice(network.honest())
        node = network.join(random_peer(network.rng))
        node.table.add(known.peer, network.clock.now)
        begin(network, node, node.peer.raw, Purpose.REFRESH, lambda search: self._refresh(node))

    def _settled(self) -> list[SimNode]:
        return [node for node in self.network.honest() if len(node.table) > K]

    def _find_one(self) -> None:
        origin, wanted = self.network.rng.sample(self._settled(), 2)

        def found(search: Search) -> None:
            if wanted.alive:  # else there is nothing to be found
                lookup = search.lookup
                self.find.take(lookup.found is not None, lookup.hops, lookup.asked, search.seconds)

        begin(self.network, origin, wanted.peer.raw, Purpose.FIND_PEER, found)

    def _get_one(self, key: bytes) -> None:
        def got(search: Search) -> None:
            self.get.take(search.hits > 0, search.lookup.hops, search.lookup.asked, search.seconds)

        begin(self.network, self.network.rng.choice(self._settled()), key, Purpose.GET, got, quorum=1)


@dataclass(slots=True)
class Eclipse:
    """One key after another surrounded by sybils: how many are found by lookups alone, and how many by region."""

    sybils: int
    lookup: Row
    region: Row


def eclipse(network: Network, sybils: int, keys: int) -> Eclipse:
    """Providers are told of before and looked for after `sybils` nodes have come nearer to the key than any honest."""
    bits = min(math.ceil(math.log2(len(network.nodes))) + 3, MAX_SEARCH_BITS)
    result = Eclipse(sybils, Row(f"lookup alone, {sybils} sybils"), Row(f"region query, {sybils} sybils"))
    for _ in range(keys):
        key = network.rng.randbytes(34)
        target = kad_id(key)
        added = [
            network.join(PeerId(preimage(target, bits, network.rng, exact=False)), Role.LIAR) for _ in range(sybils)
        ]
        for node in network.nodes.values():
            for sybil in added:
                node.table.add(sybil.peer, 0.0)
        provider, seeker = network.rng.sample(network.honest(), 2)
        plain = run(network, provider, key, Purpose.STORE)
        _hand_out(network, key, plain.lookup.closest())
        search = run(network, seeker, key, Purpose.GET, quorum=1)
        result.lookup.take(
            search.hits > 0, search.lookup.hops, plain.lookup.asked + search.lookup.asked, search.seconds
        )
        _take_back(network, key)
        _hand_out(network, key, (told := by_region(network, provider, key))[0])
        asked = by_region(network, seeker, key)
        hits = sum(key in network.nodes[peer.raw].stored for peer in asked[0] if peer.raw in network.nodes)
        result.region.take(hits > 0, 0, told[1] + asked[1], asked[2])
        _take_back(network, key)
        for node in network.nodes.values():
            for sybil in added:
                node.table.remove(sybil.peer)
        for sybil in added:
            del network.nodes[sybil.peer.raw]
    return result


def by_region(network: Network, origin: SimNode, key: bytes) -> tuple[list[PeerId], int, float]:
    """All peers of the region of `key`, the messages that finding and asking them takes, and the seconds."""
    table, started, sent = origin.table, network.clock.now, network.sent
    bits = table.region_bits()
    query = RegionQuery(key, table.nearest, own=origin.peer, bits=bits, rng=network.rng)
    while lookups := query.to_run():
        for lookup in lookups:
            Search(network, origin, lookup, lambda search: None)
        network.clock.run()
    peers = [info.peer for info in query.peers()]
    return peers, network.sent - sent + len(peers), network.clock.now - started


def _hand_out(network: Network, key: bytes, peers: Iterable[PeerId]) -> None:
    for peer in peers:
        node = network.nodes.get(peer.raw)
        if node is not None and node.alive and node.role is Role.HONEST:
            node.stored.add(key)


def _take_back(network: Network, key: bytes) -> None:
    for node in network.nodes.values():
        node.stored.discard(key)


# ---------------------------------------------------------------------------------------------- the whole of it


def measure(count: int, lookups: int, keys: int, seed: int) -> Iterator[tuple[str, Row]]:
    """Every scenario on `count` nodes: its name in the table, and the row."""
    network = Network(count, random.Random(seed))
    for share in (0.0, 0.2, 0.4):
        revive(network)
        yield "dead nodes", store_and_get(network, lookups, f"get, {share:.0%} dead", lambda: kill(network, share))  # noqa: B023 - called at once
        yield "dead nodes", find_peers(network, lookups, f"find, {share:.0%} dead")
    revive(network)
    for sybils in (20, 40, 60):
        result = eclipse(network, sybils, keys)
        yield "eclipse", result.lookup
        yield "eclipse", result.region
    for name, roles in MISCHIEF.items():
        revive(network)
        for row in misbehaving(network, lookups, f"30 % {name}", roles):
            yield "misbehaviour", row
    if count <= MAX_CHURN_NODES:
        revive(network)
        churn = Churn(network, lookups)
        yield "churn", churn.get
        yield "churn", churn.find


MISCHIEF = {
    "droppers": (Role.DROPPER,),
    "liars": (Role.LIAR,),
    "inventors": (Role.INVENTOR,),
    "of all three": (Role.DROPPER, Role.LIAR, Role.INVENTOR),
}


def revive(network: Network) -> None:
    for node in network.nodes.values():
        node.alive, node.role = True, Role.HONEST


HEADER = (
    "| nodes | what | lookups | succeeded | hops, median | hops, most | messages, mean | seconds, median | seconds, p99 |\n"
    "|---|---|---|---|---|---|---|---|---|\n"
)


def line(nodes: int, row: Row) -> str:
    times = sorted(row.seconds)
    return (
        f"| {nodes:,} | {row.name} | {len(row.hops):,} | {row.rate:.2%} | {row.median_hops:g} | {max(row.hops)}"
        f" | {statistics.mean(row.messages):.1f} | {statistics.median(times):.2f} | {times[int(len(times) * 0.99)]:.2f} |\n"
    )


def main(words: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.dht", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[1000])
    parser.add_argument("--lookups", type=int, default=1000, help="in each scenario; default: %(default)s")
    parser.add_argument("--keys", type=int, default=60, help="surrounded by sybils, each in turn; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write-docs", action="store_true", help="write docs/dht-simulation.md and its plot")
    options = parser.parse_args(words)
    found: list[tuple[int, str, Row]] = []
    print(HEADER, end="")
    for count in options.nodes:
        started = time.monotonic()
        for group, row in measure(count, options.lookups, options.keys, options.seed):
            found.append((count, group, row))
            print(line(count, row), end="", flush=True)
        print(f"{count} nodes took {time.monotonic() - started:.0f} s", file=sys.stderr)
    if options.write_docs:
        write_docs(found, " ".join(words))


def write_docs(found: Sequence[tuple[int, str, Row]], words: str) -> None:
    from tests.simulation.chart import Panel, draw

    panels = [
        Panel(
            title=f"{nodes:,} nodes: {group}",
            unit="succeeded, %",
            bars={row.name: row.rate * 100 for count, name, row in found if (count, name) == (nodes, group)},
        )
        for nodes in sorted({count for count, _, _ in found})
        for group in ("dead nodes", "misbehaviour", "eclipse", "churn")
        if any((count, name) == (nodes, group) for count, name, _ in found)
    ]
    draw(DOCS / "dht-simulation.svg", panels, columns=4)
    table = HEADER + "".join(line(count, row) for count, _, row in found)
    (DOCS / "dht-simulation.md").write_text(TEXT.format(words=words, table=table))


TEXT = """# The DHT, simulated

The routing tables and lookups of `talos.dht` (the code that runs in a node, without its wire) on a virtual clock. Made by
`python -m tests.simulation.dht {words}`; `make long` runs a part of it on 1,000 nodes.

- Each node's table holds 20 random nodes of every bucket, or all there are. A request takes 20 to 200 ms; to a dead node it
  fails after 5 s, to one that does not answer after 10 s. Nothing is removed from tables but under churn, so that *dead* means
  dead nodes everywhere in everybody's table.
- **get**: a record that was stored by one node is got by another, with the trouble in between; **find**: addresses of a node.
- **droppers** do not answer, **liars** name only each other, deny records and give false addresses for who is looked for,
  **inventors** name peers near the target that do not exist.
- **half replaced**: nodes leave and newcomers join evenly over an hour; tables are refreshed every 10 minutes, records
  published again every 30 minutes.
- **sybils** lie nearer to the key than any honest node and are in every table that has room for them. The provider is told of,
  and looked for, by lookups alone or by region query; messages are those of both together.

![Share of lookups that succeeded](dht-simulation.svg)

{table}"""


if __name__ == "__main__":
    main(sys.argv[1:])
