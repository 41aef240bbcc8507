"""DHT nodes among each other, over memory transport on a virtual clock."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from talos.abc import AddressConfirmed
from talos.addr import parse
from talos.dht import DhtConfig, DhtMode, DhtModeChanged, DhtScope, LookupConfig, key_namespace, provider_key
from talos.dht.key import kad_id
from talos.dht.state import VALUE
from talos.errors import ConfigError, LimitExceeded, PeerNotFound, RecordRejected, RoutingError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.transport.memory import MemoryNetwork
from tests.dht.network import TEST_CONFIG, crowd, dht_network, open_peer

if TYPE_CHECKING:
    from trio.testing import MockClock

    from talos.abc import Event
    from talos.dht import QueryStep
    from tests.dht.network import Peer

VECTORS = Path(__file__).parents[1] / "vectors"
SIZE = 21
HOUR = 3600.0
SHORT = replace(
    TEST_CONFIG,
    value_seconds=480.0,
    provider_seconds=480.0,
    provider_addr_seconds=240.0,
    republish_seconds=220.0,
    sign_again_seconds=700.0,
    key_record_seconds=4000.0,
    refresh_seconds=100.0,
)
"""An hour is ten seconds: connections are kept alive every half minute, which takes its time."""
CLIENT = replace(TEST_CONFIG, mode=DhtMode.CLIENT)


def somebody() -> PeerId:
    return PeerId.from_key(PrivateKey.generate().public_key)


def joining(config: DhtConfig, peer: Peer) -> DhtConfig:
    return replace(config, bootstrap=(peer.addr,))


async def test_three_nodes_with_one_bootstrap_find_each_other(autojump_clock: MockClock) -> None:
    async with dht_network(3) as (_, one, other):
        assert await one.dht.find_peer(other.id) == (other.node.config.listen[0],)
        connection = await other.node.connect(one.id)  # through peer routing: nobody told an address
        assert connection.remote_peer == one.id
        assert await one.dht.find_peer(one.id) == (one.node.config.listen[0],)
        with pytest.raises(PeerNotFound):
            await one.dht.find_peer(somebody())
        with pytest.raises(PeerNotFound):  # nor may the host's own dial ask this DHT for ever
            await one.dht.find_peer(somebody())


async def test_a_network_finds_what_any_node_put_and_provides(autojump_clock: MockClock) -> None:
    async with dht_network(SIZE) as peers:
        assert {peer.dht.mode for peer in peers} == {DhtMode.SERVER}
        first, last = peers[3], peers[-1]
        await first.dht.put_value(b"/example/a", b"value")
        assert await last.dht.get_value(b"/example/a") == b"value"
        assert await last.dht.get_value(b"/example/b") is None

        key = provider_key("a file")
        assert await first.dht.provide(key) == 20
        await peers[5].dht.provide(key)
        found = await last.dht.find_providers(key)
        assert {provider.peer for provider in found} == {first.id, peers[5].id}
        assert all(provider.addrs for provider in found)
        assert await last.dht.find_providers(provider_key("nothing")) == []
        assert len(await last.dht.closest_peers(key)) == 20
        for peer in peers[1:]:
            assert await peer.dht.find_peer(peers[7].id) == (peers[7].node.config.listen[0],)


async def test_a_client_uses_the_network_and_is_in_no_table(autojump_clock: MockClock) -> None:
    memory = MemoryNetwork()
    async with dht_network(6, memory=memory) as peers, open_peer(memory, 99, joining(CLIENT, peers[0])) as client:
        await client.dht.put_value(b"/example/a", b"value")
        assert await client.dht.provide(provider_key("a")) == 6
        assert await peers[5].dht.get_value(b"/example/a") == b"value"
        assert [provider.peer for provider in await peers[4].dht.find_providers(provider_key("a"))] == [client.id]
        assert client.dht.mode is DhtMode.CLIENT
        assert CLIENT.protocol_id not in client.node.protocols
        assert all(client.id not in {member.peer for member in peer.dht.table_peers()} for peer in peers)
        # Those that it is connected to know it nevertheless, and say so to whoever asks for it.
        assert await peers[3].dht.find_peer(client.id) == (client.node.config.listen[0],)


async def test_two_swarms_do_not_mix(autojump_clock: MockClock) -> None:
    memory = MemoryNetwork()
    other = replace(TEST_CONFIG, protocol_id="/other/kad/1.0.0")
    async with dht_network(3, memory=memory) as peers, open_peer(memory, 9, joining(other, peers[0])) as stranger:
        await stranger.dht.bootstrapped()
        await stranger.node.connect(peers[1].id, [peers[1].addr])
        await trio.testing.wait_all_tasks_blocked()
        assert stranger.dht.status().peers == 0
        assert stranger.dht.status().bootstrap.startswith("unreachable")
        assert all(peer.dht.status().peers == 2 for peer in peers)


async def test_the_network_survives_its_bootstrap(autojump_clock: MockClock) -> None:
    async with crowd() as nodes:
        bootstrap = await nodes.open(0)
        peers = [await nodes.open(number, joining(TEST_CONFIG, bootstrap)) for number in range(1, 6)]
        await nodes.close(bootstrap)
        await peers[0].dht.put_value(b"/example/a", b"value")
        await peers[0].dht.provide(provider_key("a"))
        assert await peers[4].dht.get_value(b"/example/a") == b"value"
        assert await peers[4].dht.find_providers(provider_key("a"))
        assert await peers[4].dht.find_peer(peers[0].id)
        await trio.sleep(0.5 * HOUR)
        for peer in peers:
            assert {member.peer for member in peer.dht.table_peers()} == {one.id for one in peers if one is not peer}
            assert peer.dht.status().bootstrap == "ok"


async def test_a_dead_bootstrap_is_tried_for_ever_ever_more_rarely(autojump_clock: MockClock) -> None:
    memory = MemoryNetwork()
    key = PrivateKey.generate()
    async with open_peer(memory, 1, key=key) as late:
        addr = late.addr
    async with open_peer(memory, 2, replace(TEST_CONFIG, bootstrap=(addr,))) as peer:
        assert peer.dht.status().bootstrap == "starting"
        await peer.dht.bootstrapped()
        assert peer.dht.status().bootstrap == "unreachable, next try in 5 s"
        with pytest.raises(PeerNotFound):
            await peer.dht.find_peer(somebody())
        with pytest.raises(RoutingError):
            await peer.dht.put_value(b"/example/a", b"value")
        with pytest.raises(RoutingError):
            await peer.dht.provide(provider_key("a"))
        await trio.sleep(3600)
        assert 10 < peer.dht.status().bootstrap_failures < 20
        async with open_peer(memory, 1, key=key):
            await trio.sleep(600 + 10)
            assert peer.dht.status().bootstrap == "ok"
            assert peer.dht.status().bootstrap_failures == 0
            assert peer.dht.status().peers == 1
            await trio.sleep(300)  # what nobody took is tried again by itself
            assert peer.dht.state.own[VALUE, b"/example/a"].published > 0


async def test_a_lone_node_wakes_up_when_somebody_comes(autojump_clock: MockClock) -> None:
    memory = MemoryNetwork()
    async with open_peer(memory, 0) as first:
        await first.dht.bootstrapped()
        assert first.dht.status().bootstrap == "none configured"
        assert first.dht.status().last_refresh is None
        async with open_peer(memory, 1, joining(TEST_CONFIG, first)) as second:
            await second.dht.bootstrapped()
            await trio.sleep(1)
            assert first.dht.status().peers == 1
            assert first.dht.status().last_refresh is not None


async def test_a_restart_needs_no_bootstrap(autojump_clock: MockClock, tmp_path: Path) -> None:
    kept: dict[str, Any] = {"key": PrivateKey.generate(), "store": tmp_path / "dht" / "records"}
    async with crowd() as nodes:
        bootstrap = await nodes.open(0)
        config = joining(TEST_CONFIG, bootstrap)
        peers = [await nodes.open(number, config) for number in range(1, 5)]
        first = await nodes.open(9, config, **kept)
        await first.dht.put_value(b"/example/own", b"value")
        await first.dht.provide(provider_key("own"))
        await peers[0].dht.put_value(b"/example/others", b"value")
        await peers[0].dht.provide(provider_key("others"))
        await trio.sleep(1)
        before = first.dht.status()
        assert (before.values, before.providers) == (1, 1)
        await nodes.close(first)
        await nodes.close(bootstrap)

        again = await nodes.open(9, **kept)
        now = again.dht.status()
        assert (now.values, now.providers, now.published_values, now.provided_keys) == (1, 1, 1, 1)
        assert now.store == "disk"
        assert await again.dht.find_peer(peers[3].id) == (peers[3].node.config.listen[0],)
        assert await again.dht.get_value(b"/example/others") == b"value"
        await trio.sleep(HOUR)  # the bootstrap that was remembered is dead: it leaves
        assert {member.peer for member in again.dht.table_peers()} == {peer.id for peer in peers}


class TestModes:
    async def test_auto_serves_at_once_where_any_address_counts(self, autojump_clock: MockClock) -> None:
        memory = MemoryNetwork()
        async with open_peer(memory, 0) as listening, open_peer(memory, 1, listen=False) as dialling:
            assert (listening.dht.mode, dialling.dht.mode) == (DhtMode.SERVER, DhtMode.CLIENT)

    async def test_auto_waits_for_a_confirmed_address_where_public_ones_count(self, autojump_clock: MockClock) -> None:
        config = replace(TEST_CONFIG, scope=DhtScope.PUBLIC)
        async with open_peer(MemoryNetwork(), 0, config) as peer:
            events: list[Event] = []
            with peer.node.observe(events.append):
                peer.node.emit(AddressConfirmed(parse("/ip4/10.0.0.1/tcp/1")))
                modes = [peer.dht.mode]
                peer.node.emit(AddressConfirmed(parse("/ip4/1.2.3.4/tcp/1")))
            assert [*modes, peer.dht.mode] == [DhtMode.CLIENT, DhtMode.SERVER]
            assert config.protocol_id in peer.node.protocols
            assert DhtModeChanged(DhtMode.SERVER) in events
            assert peer.dht.state.addrs_of(peer.id) == ()  # of its own addresses none is in scope
        assert config.protocol_id not in peer.node.protocols

    async def test_a_switch_is_told_and_changes_the_tables(self, autojump_clock: MockClock) -> None:
        memory = MemoryNetwork()
        async with dht_network(2, memory=memory) as peers:
            mobile_config = joining(TEST_CONFIG, peers[0])
            async with open_peer(memory, 5, mobile_config, listen=False) as mobile:
                await mobile.dht.bootstrapped()
                await trio.sleep(5)
                assert all(peer.dht.status().peers == 1 for peer in peers)
                mobile.node.emit(AddressConfirmed(parse("/memory/6")))
                assert mobile.dht.mode is DhtMode.SERVER
                await trio.sleep(5)
                # Told by identify; but nobody names a server that cannot be dialled.
                assert TEST_CONFIG.protocol_id in peers[0].node.peerstore.protocols(mobile.id)
                assert peers[0].dht.status().peers == 1

    async def test_who_serves_no_longer_leaves_the_tables(self, autojump_clock: MockClock) -> None:
        async with dht_network(3) as peers:
            await trio.sleep(1)
            gone = peers[2]
            assert peers[0].dht.status().peers == 2
            gone.dht.modes.__exit__(None, None, None)
            await trio.sleep(5)  # identify pushes within a second
            assert gone.id not in {member.peer for member in peers[0].dht.table_peers()}


class TestValues:
    async def test_what_the_namespace_refuses_goes_nowhere(self, autojump_clock: MockClock) -> None:
        async with dht_network(3) as peers:
            for key, value in (
                (b"/unknown/a", b"v"),
                (b"/pk/" + peers[0].id.raw, b"v"),
                (b"/example/a", bytes(10_241)),
            ):
                with pytest.raises(RecordRejected):
                    await peers[1].dht.put_value(key, value)
            with pytest.raises(RecordRejected):
                await peers[1].dht.get_value(b"/unknown/a")
            assert all(peer.dht.status().values == 0 for peer in peers)

    async def test_the_best_value_wins_and_corrects_the_others(self, autojump_clock: MockClock) -> None:
        async with dht_network(6) as peers:
            key = key_namespace.key_of(peers[1].id)
            await peers[1].dht.publish_keys(bytes(32), name="old")
            old = await peers[2].dht.get_value(key)
            assert old is not None
            await trio.sleep(1)
            await peers[1].dht.publish_keys(b"\1" * 32, name="new")
            record = await peers[2].dht.keys_of(peers[1].id)
            assert record is not None
            assert (record.name, record.x25519) == ("new", b"\1" * 32)
            with pytest.raises(RecordRejected):
                await peers[2].dht.put_value(key, old)
            # One node comes by the old one nevertheless: whoever gets the value sets it right.
            new = peers[3].dht.state.values.get(key, peers[3].dht.state.clock())
            assert new is not None
            peers[3].dht.state.keep_value(replace(new, value=old))
            assert await peers[2].dht.get_value(key, quorum=20) == new.value
            await trio.sleep(1)
            mended = peers[3].dht.state.value(key)
            assert mended is not None
            assert mended.value == new.value
            assert peers[2].dht.status().counters["entries corrected"] == 1

    async def test_a_quorum_of_one_is_met_by_what_is_held(self, autojump_clock: MockClock) -> None:
        async with dht_network(4) as peers:
            await peers[1].dht.put_value(b"/example/a", b"value")
            asked = peers[2].dht.status().counters["requests answered"]
            assert await peers[2].dht.get_value(b"/example/a", quorum=1) == b"value"
            assert peers[2].dht.status().counters["requests answered"] == asked

    async def test_values_expire_unless_they_are_published_again(self, autojump_clock: MockClock) -> None:
        memory = MemoryNetwork()
        async with dht_network(4, SHORT, memory) as peers:
            async with open_peer(memory, 9, replace(SHORT, bootstrap=(peers[0].addr,), mode=DhtMode.CLIENT)) as owner:
                await owner.dht.put_value(b"/example/a", b"value")
                await owner.dht.provide(provider_key("a"))
                await trio.sleep(600)
                assert await peers[1].dht.get_value(b"/example/a") == b"value"
                assert await peers[1].dht.find_providers(provider_key("a"))
                owner.dht.stop_providing(provider_key("a"))
            await trio.sleep(700)
            assert await peers[1].dht.get_value(b"/example/a") is None
            assert not await peers[1].dht.find_providers(provider_key("a"))
            assert all(peer.dht.status().values == peer.dht.status().providers == 0 for peer in peers)

    async def test_our_key_record_is_signed_again_every_week(self, autojump_clock: MockClock) -> None:
        async with dht_network(3, SHORT) as peers:
            await peers[1].dht.publish_keys(bytes(32))
            first = await peers[2].dht.keys_of(peers[1].id)
            await trio.sleep(600)
            same = await peers[2].dht.keys_of(peers[1].id)
            await trio.sleep(400)
            later = await peers[2].dht.keys_of(peers[1].id)
            assert first is not None
            assert later is not None
            assert same == first
            assert later.seq > first.seq
            assert await peers[2].dht.keys_of(peers[0].id) is None

    async def test_so_many_records_are_published(self, autojump_clock: MockClock) -> None:
        config = replace(TEST_CONFIG, limits=replace(TEST_CONFIG.limits, own_values=1, own_keys=1))
        async with dht_network(2, config) as peers:
            await peers[1].dht.put_value(b"/example/a", b"value")
            await peers[1].dht.put_value(b"/example/a", b"another")
            with pytest.raises(LimitExceeded):
                await peers[1].dht.put_value(b"/example/b", b"value")
            await peers[1].dht.provide(provider_key("a"))
            with pytest.raises(LimitExceeded):
                await peers[1].dht.provide(provider_key("b"))
            for key in (b"", bytes(81)):
                with pytest.raises(ConfigError):
                    await peers[1].dht.provide(key)
                with pytest.raises(ConfigError):
                    await peers[1].dht.find_providers(key)


async def test_key_records_are_kept_by_a_whole_region(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As small as it is, this network has no region beyond the k nearest, so k is less here.
    config = replace(TEST_CONFIG, lookup=LookupConfig(k=3, beta=3))
    async with dht_network(12, config) as peers:
        await trio.sleep(1)
        await peers[1].dht.publish_keys(bytes(32))
        assert sum(peer.dht.status().values for peer in peers) == 3
        monkeypatch.setattr("talos.dht.routing_table.RoutingTable.region_bits", lambda _table: 1)
        key = key_namespace.key_of(peers[1].id)
        await peers[1].dht.publish_keys(b"\1" * 32)
        region = [peer for peer in peers[:1] + peers[2:] if kad_id(peer.id.raw) >> 255 == kad_id(key) >> 255]
        holders = [peer for peer in region if peer.dht.state.value(key) is not None]
        assert len(holders) == len(region)
        # The nearest ones forget it, or say so: it is found nevertheless.
        for peer in sorted(holders, key=lambda peer: kad_id(peer.id.raw) ^ kad_id(key))[:3]:
            peer.dht.state.remove_value(key)
        if len(holders) > 3:
            assert (await peers[5].dht.keys_of(peers[1].id)) is not None


async def test_a_trace_tells_each_step(autojump_clock: MockClock) -> None:
    steps: list[QueryStep] = []
    async with dht_network(8) as peers:
        with pytest.raises(PeerNotFound):
            await peers[1].dht.find_peer(somebody(), trace=steps.append)
    kinds = [step.kind for step in steps]
    assert kinds[0] == "start"
    assert kinds[-1] == "end"
    assert kinds.count("ask") >= kinds.count("answer") >= 3
    assert {step.peer for step in steps if step.kind == "answer"} <= {peer.id for peer in peers}


async def test_a_server_stays_known_beside_a_command_of_its_home(autojump_clock: MockClock) -> None:
    """The command's node has the server's identity, only asks, and is gone with its answer."""
    memory, key = MemoryNetwork(), PrivateKey.generate()
    async with (
        dht_network(2, memory=memory) as peers,
        open_peer(memory, 7, joining(TEST_CONFIG, peers[0]), key=key) as server,
    ):
        await server.dht.bootstrapped()
        await trio.sleep(1)
        for _ in range(2):
            assert server.id in {member.peer for member in peers[0].dht.table_peers()}
            config = joining(CLIENT, peers[0])
            async with open_peer(memory, 8, config, key=key, listen=False) as command:
                await command.dht.bootstrapped()
                await trio.sleep(1)
            await trio.sleep(1)


async def test_a_dead_peer_is_told_as_failed_and_leaves_the_table(autojump_clock: MockClock) -> None:
    memory = MemoryNetwork()
    async with dht_network(3, memory=memory) as peers:
        async with open_peer(memory, 9, joining(TEST_CONFIG, peers[0])) as gone:
            await gone.dht.bootstrapped()
            await trio.sleep(1)
            assert peers[1].dht.status().peers == 3
            identity = gone.id
        steps: list[QueryStep] = []
        await peers[1].dht.put_value(b"/example/a", b"value", trace=steps.append)
        assert [step.peer for step in steps if step.kind == "fail"] == [identity]
        await trio.sleep(2 * 600)
        assert peers[1].dht.status().peers == 2
        assert peers[1].dht.status().counters["members dropped"] == 1
        peers[1].dht.forget(peers[0].id)
        assert peers[1].dht.status().peers == 1


async def test_a_lookup_has_a_deadline(autojump_clock: MockClock) -> None:
    config = replace(TEST_CONFIG, lookup_seconds=1.0, lookup=LookupConfig(alpha=1))
    memory = MemoryNetwork()
    async with dht_network(3, config, memory) as peers:
        memory.partition({"1"})
        started = trio.current_time()
        with pytest.raises(PeerNotFound):
            await peers[1].dht.find_peer(somebody())
        assert trio.current_time() - started == pytest.approx(1.0)
        memory.heal()


async def test_a_round_now_joins_the_one_under_way(autojump_clock: MockClock) -> None:
    async with dht_network(3) as peers, trio.open_nursery() as nursery:
        nursery.start_soon(peers[1].dht.refresh)
        nursery.start_soon(peers[1].dht.refresh)


async def test_a_key_record_needs_an_ed25519_identity(autojump_clock: MockClock) -> None:
    keys = json.loads((VECTORS / "peer_ids.json").read_text())["keys"]
    rsa = PrivateKey.from_bytes(next(bytes.fromhex(key["private"]) for key in keys if key["type"] == "rsa"))
    async with open_peer(MemoryNetwork(), 0, key=rsa) as peer:
        with pytest.raises(ConfigError):
            await peer.dht.publish_keys(bytes(32))
        assert repr(peer.dht) == "<Dht server of /talos/kad/1.0.0>"
