"""What an agent does for its clients, between nodes in memory: peers, ping, the DHT, gossip."""

from __future__ import annotations

import base64
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio
from jsonschema import Draft202012Validator

import talos.cli
from talos.agent import Agent, AgentConfig
from talos.control.arguments import Arguments
from talos.control.failure import Failure
from talos.control.ops import dht, gossip, load, peers, ping, view
from talos.errors import TalosError
from talos.gossip import open_gossip
from talos.identity.home import Home
from talos.identity.peer_id import PeerId
from talos.identity.wallet import Wallet
from talos.testing.network import addr_of
from talos.transport.memory import MemoryNetwork
from tests.dht.network import TEST_CONFIG, open_peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from multiaddr import Multiaddr
    from trio.testing import MockClock

    from talos.dht import DhtConfig

SCHEMAS = Path(talos.cli.__file__).with_name("schema")
NOBODY = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"


@dataclass
class Told:
    """In the place of `Emit`: keeps the events, each checked by its schema."""

    stages: list[str] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, kind: str, **fields: object) -> None:
        self.events.append(valid(kind, fields))

    def stage(self, stage: str, detail: str) -> None:
        assert detail
        self.stages.append(stage)


def valid(kind: str, fields: Mapping[str, object]) -> dict[str, Any]:
    """The event as a client reads it."""
    found: dict[str, Any] = json.loads(json.dumps({"v": 1, "kind": kind, **fields}))
    Draft202012Validator(json.loads((SCHEMAS / f"{kind}.json").read_text())).validate(found)
    return found


def rows(snapshot: Mapping[str, Any], name: str = "rows") -> list[dict[str, Any]]:
    return list(snapshot[name])


async def perform(agent: Agent, op: str, seconds: float | None = None, **args: object) -> tuple[dict[str, Any], Told]:
    function, told = load(op), Told()
    assert function is not None
    result = await function(agent, Arguments(args, deadline=seconds), told)  # type: ignore[arg-type]
    return dict(result or {}), told


async def failing(agent: Agent, op: str, seconds: float | None = None, **args: object) -> str:
    with pytest.raises(Failure) as caught:
        await perform(agent, op, seconds, **args)
    return caught.value.code


@asynccontextmanager
async def open_agent(memory: MemoryNetwork, number: int, config: DhtConfig = TEST_CONFIG) -> AsyncIterator[Agent]:
    """Node `number` of `memory` with the services that operations ask."""
    wallet = Wallet.new(f"agent {number}", now_ms=time.time_ns() // 1_000_000)
    async with (
        open_peer(memory, number, config, key=wallet.identity) as peer,
        open_gossip(peer.node, random=Random(number)) as gossiping,
    ):
        settings = AgentConfig(node=peer.node.config, wallet=wallet, home=Home(Path("nowhere")))
        yield Agent(config=settings, node=peer.node, tell=Told(), dht=peer.dht, gossip=gossiping)


@asynccontextmanager
async def open_agents(count: int) -> AsyncIterator[list[Agent]]:
    """All of them begin with the first."""
    memory = MemoryNetwork()
    async with AsyncExitStack() as stack:
        found: list[Agent] = []
        for number in range(count):
            config = replace(TEST_CONFIG, bootstrap=(found[0].node.addrs[0],)) if found else TEST_CONFIG
            found.append(await stack.enter_async_context(open_agent(memory, number, config)))
        for agent in found:
            assert agent.dht is not None
            await agent.dht.bootstrapped()
        yield found


def addrs(agent: Agent) -> list[str]:
    return [str(addr) for addr in agent.node.addrs]


# -- peers


async def test_peers_are_shown_in_parts(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "MAX_ROWS", 1)
    async with open_agents(3) as (first, second, third):
        result, told = await perform(first, "peers")
        assert result == {"count": 2}
        assert [row["peer_id"] for row in told.events] == sorted(str(each.peer_id) for each in (second, third))
        assert all(row["connected"] and row["addr"] for row in told.events)
        part = peers.snapshot(first, {})
        rest = peers.snapshot(first, {"after": str(part["next"])})
        assert (len(rows(part)), len(rows(rest)), rest["next"]) == (1, 1, None)


async def test_known_peers_are_shown_without_a_connection(autojump_clock: MockClock) -> None:
    async with open_agents(1) as (agent,):
        nobody = PeerId.parse(NOBODY)
        agent.node.peerstore.add_addrs(nobody, (addr_of(9),))
        assert peers.snapshot(agent, {})["rows"] == []
        (row,) = rows(peers.snapshot(agent, {"known": "1"}))
        assert valid("peer", row)["peer_id"] == NOBODY
        assert (row["connected"], row["addr"]) == (False, str(addr_of(9)))
        result, told = await perform(agent, "peers", which="known")
        assert (result, told.stages) == ({"count": 1}, ["join"])


async def test_nearby_peers_are_those_that_mdns_hears(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    @dataclass
    class Near:
        peers: dict[PeerId, Sequence[Multiaddr]]

    async with open_agents(2) as (first, second):
        stranger = PeerId.parse(NOBODY)
        near = {second.peer_id: second.node.addrs, stranger: (addr_of(9),)}

        @asynccontextmanager
        async def open_mdns(node: Any) -> AsyncIterator[Near]:
            yield Near(near)

        monkeypatch.setattr(peers, "open_mdns", open_mdns)
        assert peers.snapshot(first, {"nearby": "1"})["rows"] == []
        result, told = await perform(first, "peers", which="nearby")
        assert (result, told.stages) == ({"count": 2}, ["listen"])
        assert {row["peer_id"]: (row["connected"], row["path"]) for row in told.events} == {
            str(second.peer_id): (True, view.path_of(first.node.connections[0])),
            NOBODY: (False, "lan"),
        }
        assert first.mdns is None


# -- ping


async def test_ping(autojump_clock: MockClock) -> None:
    async with open_agents(2) as (first, second):
        result, told = await perform(
            first, "ping", peer=str(second.peer_id), addrs=addrs(second), count=3, interval=0.5
        )
        assert [(event["seq"], event["peer_id"]) for event in told.events] == [
            (number, str(second.peer_id)) for number in (1, 2, 3)
        ]
        assert (told.stages, result["received"]) == (["dial"], 3)
        assert result["min_ms"] <= result["mean_ms"] <= result["max_ms"]
        assert await failing(first, "ping", peer=str(first.peer_id)) == "usage"
        with pytest.raises(TalosError):
            await perform(first, "ping", peer=NOBODY, count=1)


async def test_a_ping_without_answer(autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Deaf:
        async def ping(self) -> float:
            raise trio.TooSlowError

    @asynccontextmanager
    async def pinging(*_: Any) -> AsyncIterator[Deaf]:
        yield Deaf()

    monkeypatch.setattr(ping, "pinging", pinging)
    async with open_agents(2) as (first, second):
        assert await failing(first, "ping", peer=str(second.peer_id), addrs=addrs(second)) == "timeout"


# -- dht


async def test_the_dht_finds_peers_and_providers(autojump_clock: MockClock) -> None:
    async with open_agents(3) as (_, second, third):
        result, told = await perform(second, "dht-find-peer", peer=str(third.peer_id))
        assert result["peer_id"] == str(third.peer_id)
        assert result["addrs"]
        assert [event["kind"] for event in told.events] == ["provider"]
        assert await failing(second, "dht-find-providers", key="a thing") == "not_found"
        result, told = await perform(third, "dht-provide", key="a thing")
        assert result["told"] >= 1
        assert told.events == []
        result, told = await perform(second, "dht-find-providers", key="a thing", count=3)
        assert (result, [event["peer_id"] for event in told.events]) == (
            {"key": "a thing", "count": 1},
            [str(third.peer_id)],
        )
        # One is less than three, so it has to ask; for a peer that it is connected with, it would not.
        _, told = await perform(second, "dht-find-providers", key="a thing", count=3, trace=True)
        assert [event["kind"] for event in told.events[-2:]] == ["lookup_step", "provider"]
        assert await failing(second, "dht-provide", key="") == "usage"
        assert await failing(second, "dht-provide", key="x" * 1025) == "usage"


async def test_the_dht_keeps_values(autojump_clock: MockClock) -> None:
    async with open_agents(3) as (_, second, third):
        value = base64.b64encode(b"value").decode()
        assert await failing(second, "dht-get", key="/example/x") == "not_found"
        result, _ = await perform(second, "dht-put", key="/example/x", value_b64=value)
        assert result == {"key": "/example/x", "size": 5}
        result, told = await perform(third, "dht-get", key="/example/x")
        assert result == {"key": "/example/x", "value_b64": value, "seq": None}
        assert told.events == [{"v": 1, "kind": "record", **result}]
        for key in ("x", "/x", "/example/", "/pk/x", "/example/" + "x" * 1024):
            assert await failing(second, "dht-get", key=key) == "usage"


async def test_a_public_key_is_named_by_its_peer_id(autojump_clock: MockClock) -> None:
    assert dht._record_key(f"/pk/{NOBODY}")[4:] == Arguments({"p": NOBODY}).peer("p").to_bytes()


async def test_register_through_a_server_without_a_name(autojump_clock: MockClock) -> None:
    memory = MemoryNetwork()
    async with open_agent(memory, 0) as server, open_agent(memory, 1) as alice:
        assert await failing(alice, "register") == "no_bootstrap"
        result, told = await perform(alice, "register", server=[addrs(server)[0].partition("/p2p/")[0]])
        assert told.stages == ["dial", "bootstrap", "publish"]
        assert (result["name"], result["peer_id"], result["told"]) == ("agent 1", str(alice.peer_id), 1)
        valid("registration", result)
        _, told = await perform(server, "dht-get", key=f"/talos/keys/{alice.peer_id}")
        assert told.events[0]["value_b64"]
        found = dict(dht.table(server, {}))
        assert found.pop("next") is None
        assert [row["peer_id"] for row in valid("dht_status", found)["rows"]] == [str(alice.peer_id)]


async def test_services_that_are_switched_off(autojump_clock: MockClock) -> None:
    async with open_agents(1) as (agent,):
        agent.dht = agent.gossip = None
        assert await failing(agent, "dht-get", key="/example/x") == "config_invalid"
        assert await failing(agent, "gossip-pub", topic="fleet", data_b64="") == "config_invalid"
        assert await perform(agent, "peers") == ({"count": 0}, Told())


# -- gossip


async def test_a_topic_reaches_who_is_in_it(autojump_clock: MockClock) -> None:
    data = base64.b64encode(b"hello").decode()
    async with open_agents(2) as (first, second):
        assert await failing(first, "gossip-pub", 0.5, topic="fleet", data_b64=data) == "unreachable"

        async def say() -> None:
            result, told = await perform(first, "gossip-pub", topic="fleet", data_b64=data)
            assert (result["topic"], result["peers"], told.stages) == ("fleet", 1, ["wait"])
            valid("published", result)
            found = gossip.mesh(first, {"topic": "fleet"})
            (row,) = rows(found)
            valid("mesh", row)
            assert (row["topic"], [peer["peer_id"] for peer in row["peers"]]) == ("fleet", [str(second.peer_id)])
            (neighbour,) = rows(found, "peers")
            assert valid("gossip_peer", neighbour)["direction"] == "in"
            assert len(rows(gossip.mesh(first, {}))) == 2
            await perform(first, "gossip-pub", topic="other", data_b64=data)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(say)
            heard, told = await perform(second, "gossip-sub", topics=["fleet", "fleet", "other"], count=2)
        assert heard == {"received": 2}
        assert told.stages == ["subscribed"]
        assert {(event["topic"], event["from"]) for event in told.events} == {
            ("fleet", str(first.peer_id)),
            ("other", str(first.peer_id)),
        }


async def test_gossip_that_cannot_be(autojump_clock: MockClock) -> None:
    async with open_agents(1) as (agent,):
        assert agent.gossip is not None
        too_much = base64.b64encode(bytes(agent.gossip.max_data("fleet") + 1)).decode()
        assert await failing(agent, "gossip-pub", topic="fleet", data_b64=too_much) == "usage"
        for topics in ([], [""], ["x" * 257], [str(number) for number in range(17)]):
            assert await failing(agent, "gossip-sub", topics=topics) == "usage"
