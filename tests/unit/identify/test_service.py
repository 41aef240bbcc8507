"""Identify between nodes: both ways on each connection, pushes, and peers that lie."""
# ruff: noqa: SIM117 - nodes outside, services inside

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import trio
from multiaddr import Multiaddr

from talos.abc import Connection, Event, PeerConnected, PeerDisconnected, PeerIdentified, Stream, StreamReset
from talos.errors import ConfigError, DialError, NegotiationError, RemoteProtocolError, StreamCode
from talos.host.node import Node as HostNode
from talos.identify import (
    IDENTIFY,
    PUSH,
    AddressObserved,
    IdentifyConfig,
    PushLimits,
    PushRate,
    ReadLimits,
    open_identify,
    wire,
)
from talos.identify.machine import WrongIdentity
from talos.identify.own import OwnState
from talos.identify.service import _network_of
from talos.identify.wire import Identify
from talos.identity.keys import PrivateKey
from talos.identity.peer_record import SignedPeerRecord
from talos.wire.length_prefix import LengthPrefixDecoder, frame

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from talos.host.config import NodeConfig
    from talos.host.node import Node

    MakeConfig = Callable[..., NodeConfig]

STRANGER = PrivateKey.from_seed(bytes(32))


async def next_of(events: trio.MemoryReceiveChannel[Event], kind: type[Any]) -> Any:
    async for event in events:
        if isinstance(event, kind):
            return event
    raise AssertionError("the events ended")


def says(*messages: bytes) -> Callable[[Stream], Awaitable[None]]:
    """A handler that answers with these messages, whatever they are."""

    async def answer(stream: Stream) -> None:
        await stream.send_all(b"".join(map(frame, messages)))

    return answer


async def push(node: Node, connection: Connection, *messages: bytes) -> None:
    async with await node.open_stream(connection, PUSH) as stream:
        await stream.send_all(b"".join(map(frame, messages)))
        await stream.send_eof()
        assert await stream.receive_some() == b""


async def messages_of(stream: Stream) -> list[bytes]:
    decoder = LengthPrefixDecoder(8192)
    messages: list[bytes] = []
    async for chunk in stream:
        messages += decoder.receive_data(chunk)
    decoder.end()
    return messages


def decoded(data: bytes) -> Identify:
    return wire.decode(data, max_addrs=10_000, max_protocols=10_000)


async def connect(dialer: Node, listener: Node) -> tuple[Connection, Connection]:
    """A connection, and its other end."""
    async with listener.events() as events:
        connection = await dialer.connect(listener.peer_id, listener.addrs)
        return connection, (await next_of(events, PeerConnected)).connection


async def test_both_ends_identify_each_other(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as of_a, b.events() as of_b:
        config = IdentifyConfig(agent_version="one/1")
        async with open_identify(a, config) as on_a, open_identify(b) as on_b:
            await b.connect(a.peer_id, a.addrs)
            at_a, at_b = await next_of(of_a, PeerIdentified), await next_of(of_b, PeerIdentified)
            assert (at_a.peer, at_b.peer) == (b.peer_id, a.peer_id)
            assert at_b.agent_version == b.peerstore.agent_version(a.peer_id) == "one/1"
            assert at_a.agent_version.startswith("talos/")
            assert at_b.protocol_version == "/talos/1.0.0"
            assert set(at_b.protocols) == b.peerstore.protocols(a.peer_id) == {IDENTIFY, PUSH}
            assert [f"{addr}/p2p/{a.peer_id}" for addr in at_b.listen_addrs] == [str(addr) for addr in a.addrs]
            assert at_a.observed_addr == at_b.connection.remote_addr
            record = b.peerstore.signed_record(a.peer_id)
            assert record is not None
            assert SignedPeerRecord.consume(record).record.seq == b.peerstore.record_seq(a.peer_id)
            assert not on_a.failed
            assert not on_b.failed
            assert on_a.candidates == ()


async def test_connections_that_stand_are_identified_too(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_identify(a):
        await b.connect(a.peer_id, a.addrs)
        async with b.events() as events, open_identify(b):
            assert (await next_of(events, PeerIdentified)).peer == a.peer_id


async def test_the_record_is_signed_once_for_all_connections(
    memory_config: MakeConfig, open_nodes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    make = SignedPeerRecord.make

    def counting(*args: Any, **kwargs: Any) -> SignedPeerRecord:
        made.append(1)
        return make(*args, **kwargs)

    async with open_nodes(memory_config(), memory_config(), memory_config()) as (a, b, c), open_identify(a):
        monkeypatch.setattr(SignedPeerRecord, "make", counting)
        for node in (b, c):
            connection = await node.connect(a.peer_id, a.addrs)
            async with await node.open_stream(connection, IDENTIFY) as stream:
                assert decoded(b"".join(await messages_of(stream))).signed_peer_record
    assert len(made) == 1


async def test_loopback_addresses_are_for_peers_on_this_machine(memory_config: MakeConfig, open_nodes: Any) -> None:
    public, loopback = Multiaddr("/ip4/5.6.7.8/tcp/1"), Multiaddr("/ip4/127.0.0.1/tcp/1")
    async with open_nodes(memory_config(announce=(public, loopback))) as (node,):
        own = OwnState(node, agent_version="a", protocol_version="p")
        far = decoded(frames(own.messages_for(Multiaddr("/ip4/9.9.9.9/tcp/1"))))
        near = decoded(frames(own.messages_for(loopback)))
        assert far.listen_addrs == (public.to_bytes(),)
        assert near.listen_addrs == (public.to_bytes(), loopback.to_bytes())
        assert near.observed_addr == loopback.to_bytes()
        for said in (far, near):
            assert said.signed_peer_record is not None
            assert SignedPeerRecord.consume(said.signed_peer_record).record.addrs == said.listen_addrs
        own.changed()
        assert decoded(frames(own.messages_for(loopback))) == near  # the record is not signed again


async def test_a_node_without_addresses_signs_nothing(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(listen=())) as (node,):
        own = OwnState(node, agent_version="a", protocol_version="p")
        assert decoded(frames(own.messages_for(Multiaddr("/memory/1")))).signed_peer_record is None


def test_records_are_remembered_for_the_last_two_sets_of_addresses() -> None:
    node = SimpleNamespace(key=STRANGER, addrs=[], protocols=[])
    own = OwnState(node, agent_version="a", protocol_version="p")
    seen = Multiaddr("/memory/1")
    records: list[bytes | None] = []
    for port in (1, 2, 3, 1):
        node.addrs = [Multiaddr(f"/ip4/5.6.7.8/tcp/{port}")]
        own.changed()
        records.append(decoded(frames(own.messages_for(seen))).signed_peer_record)
    sequence = [SignedPeerRecord.consume(raw).record.seq for raw in records if raw is not None]
    assert sequence == sorted(set(sequence))
    assert len(sequence) == 4


def frames(data: bytes) -> bytes:
    return b"".join(LengthPrefixDecoder(8192).receive_data(data))


async def test_a_change_is_pushed(memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), b.events() as events:
        async with open_identify(a), open_identify(b):
            await b.connect(a.peer_id, a.addrs)
            await next_of(events, PeerIdentified)
            with a.mounted("/new", says()):
                assert "/new" in (await next_of(events, PeerIdentified)).protocols
            assert "/new" not in (await next_of(events, PeerIdentified)).protocols


async def test_pushes_keep_a_second_apart(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock
) -> None:
    times: list[float] = []

    async def take(stream: Stream) -> None:
        times.append(trio.current_time())
        await messages_of(stream)

    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as events, open_identify(a):
        with b.mounted(IDENTIFY, says(wire.encode(Identify(protocols=(PUSH,))))), b.mounted(PUSH, take):
            connection = await b.connect(a.peer_id, a.addrs)
            await next_of(events, PeerIdentified)
            async with await b.open_stream(connection, IDENTIFY) as stream:
                await messages_of(stream)
            for number in range(30):
                with a.mounted(f"/{number}", says()):
                    await trio.sleep(0.1)
    assert 3 <= len(times) <= 8
    assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(times))


async def test_who_takes_no_pushes_gets_none(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock
) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as events, open_identify(a) as on_a:
        with b.mounted(IDENTIFY, says(wire.encode(Identify(protocols=("/x",))))):
            await b.connect(a.peer_id, a.addrs)
            await next_of(events, PeerIdentified)
            with a.mounted("/new", says()):
                await trio.sleep(5)
        assert not on_a.failed


async def test_a_push_that_cannot_be_delivered_harms_nobody(
    memory_config: MakeConfig, open_nodes: Any, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.abc.Clock
) -> None:
    open_stream, refused = HostNode.open_stream, trio.Event()

    async def refusing(node: HostNode, to: Any, *protocols: str, limited_ok: bool = False) -> Stream:
        if PUSH in protocols and not refused.is_set():
            refused.set()
            raise DialError("no streams today")
        return await open_stream(node, to, *protocols, limited_ok=limited_ok)

    monkeypatch.setattr(HostNode, "open_stream", refusing)
    async with open_nodes(memory_config(), memory_config()) as (a, b), b.events() as events:
        async with open_identify(a) as on_a, open_identify(b):
            await b.connect(a.peer_id, a.addrs)
            await next_of(events, PeerIdentified)
            with a.mounted("/one", says()):
                await refused.wait()
                assert on_a.failed == {"DialError": 1}
                with a.mounted("/two", says()):
                    assert "/two" in (await next_of(events, PeerIdentified)).protocols


async def test_a_push_with_one_field_leaves_the_rest(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as events:
        async with open_identify(a), open_identify(b):
            connection = await b.connect(a.peer_id, a.addrs)
            before = await next_of(events, PeerIdentified)
            await push(b, connection, wire.encode(Identify(agent_version="new\x1b/2")))
            after = await next_of(events, PeerIdentified)
    assert after.agent_version == "new/2"
    assert (after.protocols, after.listen_addrs) == (before.protocols, before.listen_addrs)


@pytest.mark.parametrize(
    ("limits", "codes"),
    [
        (PushLimits(), [StreamCode.NONE, StreamCode.RATE_LIMITED, StreamCode.RATE_LIMITED]),
        (PushLimits(per_peer=PushRate(per_second=1, burst=5)), [StreamCode.NONE] * 3),
    ],
)
async def test_a_flood_of_pushes_is_reset(
    memory_config: MakeConfig, open_nodes: Any, limits: PushLimits, codes: list[int]
) -> None:
    got: list[int] = []
    async with open_nodes(memory_config(), memory_config()) as (a, b):
        async with open_identify(a, IdentifyConfig(push=limits)) as on_a:
            connection = await b.connect(a.peer_id, a.addrs)
            for _ in codes:
                try:
                    await push(b, connection, wire.encode(Identify()))
                    got.append(StreamCode.NONE)
                except StreamReset as reset:
                    got.append(reset.code)
            assert on_a.failed["RateLimited"] == codes.count(StreamCode.RATE_LIMITED)
    assert got == codes


async def test_pushes_at_once_are_bounded(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock
) -> None:
    free = PushRate(per_second=1e6, burst=1e6)
    config = IdentifyConfig(push=PushLimits(at_once=2, per_peer=free))
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_identify(a, config):
        connection = await b.connect(a.peer_id, a.addrs)
        held = [await b.open_stream(connection, PUSH) for _ in range(2)]
        for stream in held:
            await stream.send_all(b"\x05")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(StreamReset) as caught:
            await push(b, connection, wire.encode(Identify()))
        assert caught.value.code == StreamCode.RATE_LIMITED
        await trio.sleep(6)
        await push(b, connection, wire.encode(Identify()))
        for stream in held:
            await stream.aclose()


@pytest.mark.parametrize("by_push", [False, True])
async def test_a_foreign_key_ends_the_connection(memory_config: MakeConfig, open_nodes: Any, *, by_push: bool) -> None:
    lie = wire.encode(Identify(public_key=STRANGER.public_key.to_bytes(), protocols=("/lie",)))
    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as events, open_identify(a) as on_a:
        with b.mounted(IDENTIFY, says(wire.encode(Identify()) if by_push else lie)):
            connection = await b.connect(a.peer_id, a.addrs)
            if by_push:
                await next_of(events, PeerIdentified)
                with pytest.raises(StreamReset):
                    await push(b, connection, lie)
            await next_of(events, PeerDisconnected)
            assert a.peerstore.protocols(b.peer_id) == frozenset()
            assert by_push or on_a.failed[WrongIdentity.__name__] == 1


@pytest.mark.parametrize(
    ("messages", "error"),
    [((), "RemoteProtocolError"), ((b"x" * 9000,), "MessageTooLarge"), ((b"\x0a\xff",), "RemoteProtocolError")],
    ids=["nothing", "9 KiB", "no protobuf"],
)
async def test_a_bad_answer_is_counted_and_harms_nobody(
    memory_config: MakeConfig, open_nodes: Any, messages: Iterable[bytes], error: str
) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_identify(a) as on_a:
        with b.mounted(IDENTIFY, says(*messages)):
            connection, back = await connect(b, a)
            with pytest.raises(RemoteProtocolError):
                await on_a.identify(back)
            await trio.testing.wait_all_tasks_blocked()
            assert on_a.failed[error] == 1
            async with await b.open_stream(connection, IDENTIFY) as stream:
                assert await messages_of(stream)


async def test_a_peer_that_never_answers_is_given_up(
    memory_config: MakeConfig, open_nodes: Any, autojump_clock: trio.abc.Clock
) -> None:
    async def hang(stream: Stream) -> None:
        await trio.sleep_forever()

    async with open_nodes(memory_config(), memory_config()) as (a, b), open_identify(a) as on_a:
        with b.mounted(IDENTIFY, hang):
            await b.connect(a.peer_id, a.addrs)
            await trio.sleep(4)
            assert not on_a.failed
            await trio.sleep(2)
            assert on_a.failed == {"TooSlowError": 1}


async def test_a_peer_without_identify_is_no_fault(memory_config: MakeConfig, open_nodes: Any) -> None:
    async with open_nodes(memory_config(), memory_config()) as (a, b), open_identify(a) as on_a:
        connection = await a.connect(b.peer_id, b.addrs)
        with pytest.raises((NegotiationError, trio.BrokenResourceError)):
            await on_a.identify(connection)
        await trio.testing.wait_all_tasks_blocked()
        assert sum(on_a.failed.values()) == 1
        assert not a._bus.faults


async def test_more_than_is_taken_is_cut(memory_config: MakeConfig, open_nodes: Any) -> None:
    said = [wire.encode(Identify(protocols=(f"/{n}",), listen_addrs=(addr(n),))) for n in range(11)]
    config = IdentifyConfig(read=ReadLimits(addrs=3, protocols=4))
    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as events:
        async with open_identify(a, config):
            with b.mounted(IDENTIFY, says(*said)):
                await b.connect(a.peer_id, a.addrs)
                event = await next_of(events, PeerIdentified)
    assert event.protocols == ("/0", "/1", "/2", "/3")
    assert len(event.listen_addrs) == 3


def addr(number: int) -> bytes:
    data: bytes = Multiaddr(f"/ip4/5.6.7.8/tcp/{number + 1}").to_bytes()
    return data


async def test_bad_parts_are_ignored_and_counted(memory_config: MakeConfig, open_nodes: Any) -> None:
    forged = SignedPeerRecord.make(STRANGER, [addr(1)], 1).envelope.raw
    message = Identify(listen_addrs=(addr(2), b"\xff\xff\xff"), signed_peer_record=forged, protocols=("/ok", "\x00"))
    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as events, open_identify(a) as on_a:
        with b.mounted(IDENTIFY, says(wire.encode(message))):
            await b.connect(a.peer_id, a.addrs)
            event = await next_of(events, PeerIdentified)
            assert event.protocols == ("/ok",)
            assert event.listen_addrs == (Multiaddr("/ip4/5.6.7.8/tcp/3"),)
            assert on_a.ignored == 3
            assert a.peerstore.signed_record(b.peer_id) is None


async def test_our_messages_fit_what_others_read(memory_config: MakeConfig, open_nodes: Any) -> None:
    announce = tuple(Multiaddr(f"/ip4/5.6.7.8/tcp/{port}") for port in range(1, 400))
    async with open_nodes(memory_config(announce=announce), memory_config()) as (a, b), open_identify(a):
        for number in range(60):
            a.handle(f"/some/protocol/with/a/name/{number}")(says())
        _, connection = await connect(a, b)
        async with await b.open_stream(connection, IDENTIFY) as stream:
            messages = await messages_of(stream)
    assert 1 < len(messages) <= 10
    assert max(map(len, messages)) <= 4096
    own = decoded(b"".join(messages))
    assert len(own.protocols) == 62
    assert len(own.listen_addrs) == 399
    assert own.signed_peer_record is not None
    record = SignedPeerRecord.consume(own.signed_peer_record).record
    assert own.listen_addrs[: len(record.addrs)] == record.addrs
    assert decoded(messages[0]).public_key == a.key.public_key.to_bytes()
    assert decoded(messages[0]).observed_addr is not None


async def test_candidates_are_told(memory_config: MakeConfig, open_nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = Multiaddr("/ip4/9.9.9.9/tcp/4001")
    config = IdentifyConfig(observer_groups=1)
    async with open_nodes(memory_config(), memory_config()) as (a, b), a.events() as events:
        async with open_identify(a, config) as on_a:
            monkeypatch.setattr(
                "talos.identify.observed.addresses.ip_of", lambda addr, real=_ip_of: real(addr) or real(seen)
            )
            with b.mounted(IDENTIFY, says(wire.encode(Identify(observed_addr=seen.to_bytes())))):
                await b.connect(a.peer_id, a.addrs)
                assert (await next_of(events, AddressObserved)).addr == seen
                assert on_a.candidates == (seen,)


def _ip_of(addr: Multiaddr) -> object:
    from talos.addr.ip import ip_of

    return ip_of(addr)


@pytest.mark.parametrize(
    ("addr", "network"),
    [
        ("/ip4/5.6.7.8/tcp/1", (4, 24, 0x050607)),
        ("/ip6/2a00:1:2:3::1/tcp/1", (6, 48, 0x2A0000010002)),
        ("/ip4/127.0.0.1/tcp/1", None),
        ("/memory/1", None),
    ],
)
def test_which_network_a_push_comes_from(addr: str, network: object) -> None:
    assert _network_of(Multiaddr(addr)) == network


@pytest.mark.parametrize(
    "changes", [{"agent_version": ""}, {"protocol_version": "x" * 257}, {"seconds": 0}, {"pushes_at_once": 0}]
)
def test_contradictory_configurations_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(IdentifyConfig(), **changes)
