"""Cells that are networks: what their answers have to say. Programs of a few lines stand for the peers."""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from interop import dht_cells, gossip_cells
from interop.adapters import Adapters
from interop.ipns_record import ipns_record
from interop.network_cells import Fleet, NetworkCell, Run, run_network_cells
from interop.process import Adapter, PeerFailed
from talos.dht.records import default_namespaces
from talos.errors import RecordRejected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from interop.cells import Outcome

ADDR = "/ip4/127.0.0.1/tcp/1/p2p/x"


def program(name: str, *lines: str) -> Adapter:
    return Adapter(name=name, command=(sys.executable, "-c", "\n".join(("import sys, json", *lines))))


def listening(*after: str) -> tuple[str, ...]:
    return (f"print({ADDR!r}); print('ready', flush=True)", *after, "sys.stdin.read()")


def test_every_peer_is_met_both_ways() -> None:
    names = [cell.name for cell in (*dht_cells.cells(), *gossip_cells.cells())]
    assert len(names) == len(set(names)) == 2 * 5 + 1 + 2 * 4 + 1
    assert {"dht kubo->talos", "dht talos->py", "dht all->all", "gossip rust->talos"} <= set(names)


@pytest.mark.parametrize(
    ("writer", "takers", "namespace"),
    [("talos", ["js"], "example"), ("talos", ["kubo"], "pk"), ("kubo", ["talos"], "ipns")],
)
def test_records_are_what_their_takers_take(writer: str, takers: list[str], namespace: str) -> None:
    key, value = (bytes.fromhex(text) for text in dht_cells.record(writer, takers))
    assert key.startswith(f"/{namespace}/".encode())
    known = default_namespaces(dht_cells.SWARM)
    if namespace in known:
        known[namespace].validate(key, value, time.time())


def test_names_are_signed_for_a_while() -> None:
    key, value = ipns_record()
    ipns = default_namespaces(dht_cells.SWARM)["ipns"]
    ipns.validate(key, value, time.time())
    with pytest.raises(RecordRejected):
        ipns.validate(key, value, time.time() + 2 * 24 * 3600)


ANSWERS = {"put": {"ok": True}, "get": {"value": "VALUE"}, "provide": {"peer_id": "me"}}


async def test_an_exchange_wants_the_value_back() -> None:
    peer = program("js", f"print(json.dumps({ANSWERS!r}[sys.argv[3]]))")
    client = dht_cells.Client(peer, ADDR)
    with pytest.raises(PeerFailed, match="get answered"):
        await dht_cells.exchange(client, client, "js")


async def test_a_peer_is_found_where_it_is() -> None:
    good = {"peer_id": "x", "addrs": ["/ip4/127.0.0.1/tcp/1"]}
    for answer, holds in ((good, True), ({**good, "addrs": []}, False), ({**good, "peer_id": "y"}, False)):
        client = dht_cells.Client(program("js", f"print(json.dumps({answer!r}))"), ADDR)
        if holds:
            assert await dht_cells.find(client, ADDR) == {"addrs": 1}
        else:
            with pytest.raises(PeerFailed, match="find-peer"):
                await dht_cells.find(client, ADDR)


def told(*digests: str) -> str:
    return "; ".join(f"print(json.dumps({{'from': 'a', 'sha256': {digest!r}}}), flush=True)" for digest in digests)


@pytest.mark.parametrize(
    ("digests", "match"),
    [(["1", "2"], None), (["1", "1", "2"], "more than once"), (["1", "3", "2"], "nobody published")],
)
async def test_every_message_once(digests: list[str], match: str | None) -> None:
    expected = {("a", "1"), ("a", "2")}
    async with Fleet.open() as fleet:
        (peer,) = await fleet.start([program("js", *listening(told(*digests)))])
        if match is None:
            await gossip_cells.heard(peer, "js", expected)
            return
        with pytest.raises(PeerFailed, match=match):
            await gossip_cells.heard(peer, "js", expected)


async def test_a_message_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip_cells, "ARRIVE_SECONDS", 0.2)
    async with Fleet.open() as fleet:
        (peer,) = await fleet.start([program("js", *listening(told("1")))])
        with pytest.raises(PeerFailed, match="1 of 2 messages are missing"):
            await gossip_cells.heard(peer, "js", {("a", "1"), ("a", "2")})


async def test_a_snapshot_is_the_last_word() -> None:
    last: dict[str, Any] = {"snapshot": {"peers": []}}
    async with Fleet.open() as fleet:
        lines = (*listening(told("1")), f"print({json.dumps(last)!r})")
        (peer,) = await fleet.start([program("talos", *lines)])
        assert await gossip_cells.snapshot(peer) == {"peers": []}


def snapshot(**changes: Any) -> dict[str, Any]:
    neighbour = {"protocol": "/meshsub/1.2.0", "score": 1.0}
    counters = {"unwanted": 1, "dialled": 1, "duplicates": 3}
    return {"peers": [neighbour | changes], "counters": {name: changes.get(name, counters[name]) for name in counters}}


def test_features_have_to_be_used() -> None:
    assert gossip_cells.features([snapshot()])["protocols"] == {"/meshsub/1.2.0": 1}
    for change in ({"protocol": "/meshsub/1.1.0"}, {"unwanted": 0}, {"dialled": 0}, {"score": -1.0}):
        with pytest.raises(PeerFailed):
            gossip_cells.features([snapshot(**change)])


def cell(run: Callable[[Run], Awaitable[None]]) -> NetworkCell:
    return NetworkCell(kind="dht", dialer="talos", listener="js", run=run)


async def outcome(run: Callable[[Run], Awaitable[None]], **adapters: dict[str, Any]) -> Outcome:
    found = Adapters(**({"ready": {}, "absent": {}, "failed": {}} | adapters))
    seen: list[Outcome] = []
    (only,) = await run_network_cells([cell(run)], found, seen.append)
    assert seen == [only]
    return only


async def test_what_became_of_a_cell() -> None:
    async def works(run: Run) -> None:
        run.results["exchange"] = {"put": True}

    async def fails(_run: Run, reason: str) -> None:
        raise ExceptionGroup("", [PeerFailed(reason)])

    assert (await outcome(works)).word == "pass"
    failed = await outcome(partial(fails, reason="no value"))
    assert (failed.word, failed.failed) == ("FAIL", "no value")
    assert (await outcome(works, absent={"js": "no node"})).word == "skip"
    assert (await outcome(works, failed={"talos": "broken"})).word == "FAIL"
