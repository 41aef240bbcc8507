"""DHT cells: Talos as client and as server of each peer, and all of them in one network."""

from __future__ import annotations

import hashlib
import secrets
from functools import partial
from typing import TYPE_CHECKING

import trio

from interop.ipns_record import ipns_record
from interop.matrix import OURS
from interop.network_cells import MIXED, STACK, Fleet, NetworkCell
from interop.process import PeerFailed, dial
from talos.dht.key import kad_id
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from interop.network_cells import Run
    from interop.process import Adapter, ListenerProcess

__all__ = ["cells"]

SWARM = "/ipfs/lan/kad/1.0.0"
"""The one id that kubo has for private addresses; any other would do for the rest."""
PEERS = ("js", "go", "kubo", "rust", "py")
SERVERS = (OURS, OURS, OURS, OURS, "js", "js", "go", "go", "rust", "rust", "py", "kubo")
LEAST_SERVERS = 12
HIDDEN = (OURS, "js", "go", "rust", "py")
"""Plain listeners without a DHT, which only Talos nodes are connected to."""
PAIRS_AT_ONCE = 3
BETA = 3


def cells() -> list[NetworkCell]:
    """Two for each peer, and the mixed network."""
    made = []
    for peer in PEERS:
        made.append(NetworkCell(kind="dht", dialer=OURS, listener=peer, run=partial(_pair, OURS, peer)))
        made.append(NetworkCell(kind="dht", dialer=peer, listener=OURS, run=partial(_pair, peer, OURS)))
    return [*made, NetworkCell(kind="dht", dialer=MIXED, listener=MIXED, run=_mixed)]


def record(writer: str, takers: Sequence[str]) -> tuple[str, str]:
    """A key and a value, in hex, that all take: kubo checks all it gets and puts names only, py's keys are text."""
    if writer == "kubo":
        name, value = ipns_record()
        return name.hex(), value.hex()
    if "kubo" in takers:
        key = PrivateKey.generate().public_key
        return (b"/pk/" + PeerId.from_key(key).raw).hex(), key.to_bytes().hex()
    return f"/example/{secrets.token_hex(8)}".encode().hex(), secrets.token_hex(32)


class Client:
    """Dials one server with one implementation."""

    def __init__(self, adapter: Adapter, addr: str) -> None:
        self.adapter = adapter
        self.addr = addr

    async def ask(self, operation: str, *words: str, **options: str) -> dict[str, Any]:
        return await dial(self.adapter, self.addr, STACK, operation, {"dht": SWARM} | options, words=words)

    async def provide(self) -> tuple[str, str]:
        """Provides something of its own; the key and who said that it has it."""
        content = secrets.token_bytes(16)
        key = "1220" + hashlib.sha256(content).hexdigest()
        options = {"content": content.hex()} if self.adapter.name == "kubo" else {}
        done = await self.ask("provide", key, **options)
        return key, str(done["peer_id"])


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise PeerFailed(what)


async def exchange(writer: Client, reader: Client, *takers: str) -> dict[str, Any]:
    """A value and a provider of one are found by the other; `takers` are those that have to take the value."""
    names = f"{writer.adapter.name}->{reader.adapter.name}"
    try:
        await _exchange(writer, reader, takers)
    except PeerFailed as failed:
        raise PeerFailed(f"{names}: {failed}") from failed
    return {"put": True, "provide": True}


async def _exchange(writer: Client, reader: Client, takers: Sequence[str]) -> None:
    key, value = record(writer.adapter.name, takers)
    await writer.ask("put", key, value)
    got = await reader.ask("get", key)
    expect(got.get("value") == value, f"get answered {got!r} for a value that was put"[:300])
    provided, provider = await writer.provide()
    found = await reader.ask("find-providers", provided)
    expect(provider in found.get("providers", ()), f"find-providers answered {found!r}, not {provider}"[:300])


async def _pair(client: str, server: str, run: Run) -> None:
    """One server by itself, asked by two clients of the other implementation."""
    async with Fleet.open() as fleet:
        (listening,) = await fleet.start([run.ready[server]], dht=SWARM)
        one = Client(run.ready[client], listening.addr)
        run.results["exchange"] = await exchange(one, one, client, server)


async def _mixed(run: Run) -> None:
    """Servers of all, who know one Talos node to begin with; what one leaves there another one finds."""
    names = [name for name in SERVERS if name in run.ready]
    names += [OURS] * (LEAST_SERVERS - len(names))
    ours, others = names.count(OURS), [name for name in names if name != OURS]
    async with Fleet.open() as fleet:
        hidden = await fleet.start([run.ready[name] for name in HIDDEN if name in run.ready])
        known = [peer.addr for peer in hidden]
        (first,) = await fleet.start([run.ready[OURS]], dht=SWARM, bootstrap=known)
        talos = await fleet.start([run.ready[OURS]] * (ours - 1), dht=SWARM, bootstrap=[first.addr, *known])
        foreign = await fleet.start([run.ready[name] for name in others], dht=SWARM, bootstrap=[first.addr])
        sought = [peer for peer in hidden if _near(peer, [first, *talos], foreign)]
        expect(bool(sought), "no hidden peer is near enough to a Talos node")
        run.results["network"] = {"servers": len(names), "hidden": len(hidden), "sought": len(sought)}
        limiter = trio.CapacityLimiter(PAIRS_AT_ONCE)

        async def meet(name: str, at: int) -> None:
            async with limiter:
                theirs = Client(run.ready[name], talos[at % len(talos)].addr)
                mine = Client(run.ready[OURS], foreign[others.index(name)].addr)
                run.results[f"talos->{name}"] = await exchange(mine, theirs, name)
                run.results[f"{name}->talos"] = await exchange(theirs, mine, name)
                for peer in sought:
                    run.results[f"find-peer by {name}"] = await find(theirs, peer.addr)
                run.results[f"find-peer of {name}"] = await find(Client(run.ready[OURS], talos[0].addr), mine.addr)

        async with trio.open_nursery() as nursery:
            for at, name in enumerate(name for name in PEERS if name in run.ready):
                nursery.start_soon(meet, name, at)


def _near(target: ListenerProcess, talos: Sequence[ListenerProcess], foreign: Sequence[ListenerProcess]) -> bool:
    """Whether a Talos node is among the nearest to the peer that only Talos nodes know.

    go's lookups end when those have answered, so that whether one farther off was heard is chance.
    """

    def distance(server: ListenerProcess) -> int:
        return kad_id(_peer_id(server)) ^ kad_id(_peer_id(target))

    nearest = sorted([*talos, *foreign], key=distance)[:BETA]
    return any(server in talos for server in nearest)


def _peer_id(peer: ListenerProcess) -> bytes:
    return PeerId.parse(peer.addr.rpartition("/p2p/")[2]).raw


async def find(client: Client, addr: str) -> dict[str, Any]:
    """The address of a peer that the client was not told."""
    where, _, peer = addr.rpartition("/p2p/")
    found = await client.ask("find-peer", peer)
    expect(
        found.get("peer_id") == peer and not {where, addr}.isdisjoint(found.get("addrs", ())),
        f"{client.adapter.name}: find-peer answered {found!r}, not {addr}"[:300],
    )
    return {"addrs": len(found["addrs"])}
