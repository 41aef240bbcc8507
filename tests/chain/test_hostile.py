"""Peers that lie, withhold, dawdle and flood: their streams end, our tips stay, and others notice nothing of it."""

from __future__ import annotations

import itertools
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
import trio

from talos.chain import ChainConfig, ChainReader, open_chain, sync
from talos.chain.audit import Chain
from talos.chain.block import Item
from talos.chain.box import Boxes
from talos.chain.driver import now
from talos.chain.effects import Alarm, AlarmKind, Fault
from talos.chain.genesis import Mode
from talos.chain.messages import Code, ProofReq, Range, Request, Response
from talos.chain.opening import OpenChain
from talos.chain.sessions import SyncLimits
from talos.chain.store import Store
from talos.chain.sync import ChainService
from talos.errors import RemoteProtocolError
from talos.host.block import background
from tests.chain.conftest import call, keys_of, peer_of
from tests.chain.raw_peer import AUTHOR, CHAIN, RawPeer
from tests.chain.test_sync import fill, node_of, talk
from tests.unit.chain.memory_chain import KEYS, Builder, make_entry, make_params

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from talos.abc import Stream
    from talos.host.node import Node
    from talos.identity.peer_id import PeerId

ALICE, BOB, EVE = keys_of(b"Alice"), keys_of(b"Bob"), keys_of(b"Eve")
QUICK = SyncLimits(
    heartbeat_seconds=0.2,
    first_seconds=0.3,
    frame_seconds=0.2,
    header_seconds=0.3,
    body_seconds=0.3,
    announce_seconds=0.01,
    staged_headers=60,
)
FEED = make_params()
LONG = Builder(FEED).grow(20, 1)
"""More blocks than are asked for without their headers."""


@dataclass
class Scene:
    """Bob, who is attacked, keeps a copy of honest Alice's chain all the while."""

    path: Path
    stack: AsyncExitStack
    node: Node
    bob: Chain
    alice: Chain

    async def unaffected(self) -> None:
        """What Alice writes reaches Bob, and Bob's own chain takes entries."""
        await fill(self.alice, 1000 + self.alice.count, 1)
        await self.bob.record(call(self.bob.count))
        height = self.alice.machine.tip.header.height
        with trio.fail_after(5):
            while True:
                with suppress(
                    trio.TooSlowError
                ):  # Bob waits for a third of a second, less than a busy machine may take
                    if (await self.bob.sync(peer_of(ALICE))).height >= height:
                        return

    async def attacker(self, raw: RawPeer) -> PeerId:
        """The author of the raw peer's chain, connected to Bob."""
        return await self.meet(raw.answer)

    async def meet(self, answer: Callable[[Stream], Awaitable[None]]) -> PeerId:
        """The same, by what it does with a stream."""
        node = await node_of(self.stack, AUTHOR)
        self.stack.enter_context(node.mounted(CHAIN, answer))
        await self.node.connect(node.peer_id, node.addrs)
        return node.peer_id

    async def whole(self) -> None:
        """Bob's copy of the attacker's chain has all of it in the end."""
        core = self.bob._replicas._cores[FEED.chain_id]  # type: ignore[union-attr]
        with trio.fail_after(10), core.listen() as events:
            while core.machine.tip.block_id != LONG.blocks[-1].block_id:
                await events.receive()

    @property
    def copied(self) -> int:
        """The height of Bob's copy of the attacker's chain."""
        with ChainReader(self.path / "bob" / "replicas" / FEED.chain_id.hex()[:16]) as reader:
            tip = reader.reading.tip()
            assert tip is not None
            return tip.header.height


@asynccontextmanager
async def staged(path: Path, limits: SyncLimits = QUICK) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        b = await node_of(stack, BOB, a)
        shown = ChainConfig(readers=frozenset({peer_of(BOB)}), sync=SyncLimits(heartbeat_seconds=0.1))
        attacked = ChainConfig(sync=limits, readers=frozenset({peer_of(EVE)}), sync_seconds=5)
        alice = await stack.enter_async_context(open_chain(a, shown, ALICE, directory=path / "alice"))
        bob = await stack.enter_async_context(open_chain(b, attacked, BOB, directory=path / "bob"))
        await alice.record(call(1))
        scene = Scene(path, stack, b, bob, alice)
        await scene.unaffected()
        yield scene
        await scene.unaffected()


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "PAUSE_SECONDS", (0.05,))


# -- What a peer shows ----------------------------------------------------------------------------------


def other_bodies(raw: RawPeer) -> Callable[[Request], Response | None]:
    """Each block with an entry of its own that the header does not sign."""

    def respond(request: Request) -> Response:
        response = raw.honest(request)
        if request.blocks is None or not request.blocks.start:
            return response
        blocks = [replace(block, items=(Item(make_entry(9000 + n)),)) for n, block in enumerate(response.blocks)]
        return replace(response, blocks=tuple(blocks))

    return respond


def no_headers(raw: RawPeer) -> Callable[[Request], Response | None]:
    def respond(request: Request) -> Response:
        return Response(id=request.id) if request.headers is not None else raw.honest(request)

    return respond


def late_headers(raw: RawPeer) -> Callable[[Request], Response | None]:
    def respond(request: Request) -> Response | None:
        return None if request.headers is not None else raw.honest(request)

    return respond


def too_many_headers(raw: RawPeer) -> Callable[[Request], Response | None]:
    def respond(request: Request) -> Response:
        response = raw.honest(request)
        return replace(response, headers=response.headers * 2) if request.headers is not None else response

    return respond


def others_number(raw: RawPeer) -> Callable[[Request], Response | None]:
    """Answers to what was never asked."""

    def respond(request: Request) -> Response:
        response = raw.honest(request)
        return replace(response, id=request.id + 77) if request.headers is not None else response

    return respond


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (lambda raw: raw.genesis_only, "DEADLINE"),
        (other_bodies, "BODY"),
        (no_headers, "EMPTY"),
        (late_headers, "DEADLINE"),
        (too_many_headers, "SIZE"),
        (others_number, "UNASKED"),
    ],
)
async def test_an_answer_that_is_none_is_a_fault(
    tmp_path: Path, way: Callable[[RawPeer], Callable[[Request], Response | None]], reason: str
) -> None:
    async with staged(tmp_path) as scene:
        raw = RawPeer(LONG)
        raw.respond = way(raw)
        peer = await scene.attacker(raw)
        with trio.fail_after(5), pytest.raises(RemoteProtocolError, match=reason):
            await scene.bob.sync(peer)
        await scene.unaffected()
        assert scene.copied == 0


@pytest.mark.parametrize(
    ("lie", "reason"),
    [
        ({"total_work": 1 << 200}, "LIED"),
        ({"height": 40, "total_work": 1 << 60, "log_size": 1 << 40}, "EMPTY"),
        ({"chain_id": bytes(32)}, "another chain"),
        ({"checkpoint": b"nobody's\n1\n\n"}, "CHECKPOINT"),
    ],
)
async def test_status_is_a_hint(tmp_path: Path, lie: dict[str, object], reason: str) -> None:
    """Claims are recomputed from headers; what the headers do not bear out is a fault."""
    async with staged(tmp_path) as scene:
        raw = RawPeer(LONG)
        raw.claim = replace(raw.claim, **lie)  # type: ignore[arg-type]
        peer = await scene.attacker(raw)
        with trio.fail_after(5), pytest.raises(RemoteProtocolError, match=reason):
            await scene.bob.sync(peer)
        await scene.unaffected()
        assert scene.copied in {0, 20}, "what was shown and is valid may stay"


async def test_three_faults_close_the_door(tmp_path: Path) -> None:
    """For an hour: no stream is opened to the peer, and none of it is taken."""
    async with staged(tmp_path) as scene:
        raw = RawPeer(LONG)
        raw.respond = no_headers(raw)
        peer = await scene.attacker(raw)
        service = scene.bob._replicas.service  # type: ignore[union-attr]
        with pytest.raises(RemoteProtocolError):
            await scene.bob.sync(peer)
        for _ in range(2):
            with pytest.raises(RemoteProtocolError):
                await scene.bob.sync(peer)
        with pytest.raises(RemoteProtocolError, match="too often"):
            await scene.bob.sync(peer)
        assert service._banned[peer] > trio.current_time() + 3500
        asked = [request for request in raw.asked if request.headers is not None]
        await scene.unaffected()
        assert [request for request in raw.asked if request.headers is not None] == asked


async def test_withheld_bodies_are_asked_of_others(tmp_path: Path) -> None:
    """The range moves to a peer that gives it, and the copy is whole."""
    async with staged(tmp_path, replace(QUICK, body_seconds=1.0)) as scene:
        raw, helper = RawPeer(LONG), RawPeer(LONG)
        raw.respond = raw.genesis_only
        peer = await scene.attacker(raw)
        eve = await node_of(scene.stack, EVE, scene.node)
        nursery = await scene.stack.enter_async_context(background())
        nursery.start_soon(_until_ended, scene.bob.sync, peer)
        with trio.fail_after(5):
            await raw.withheld.wait()
        stream = await eve.open_stream(scene.node.peer_id, CHAIN)
        await talk(stream).send(helper.claim)
        nursery.start_soon(helper.answer, stream)
        await scene.whole()
        assert any(request.blocks is not None for request in helper.asked)


# -- How it is said -------------------------------------------------------------------------------------


async def slowly(stream: Stream) -> None:
    """A frame of 8,000 bytes, one byte at a time, for ever."""
    await stream.send_all(b"\xc0\x3e")
    while True:
        await stream.send_all(b"\x0a")
        await trio.sleep(0.02)


async def huge_prefix(stream: Stream) -> None:
    """Two gigabytes, it says."""
    await stream.send_all(b"\x80\x80\x80\x80\x08" + bytes(100))
    await trio.sleep_forever()


async def endless_prefix(stream: Stream) -> None:
    await stream.send_all(b"\x80" * 64)
    await trio.sleep_forever()


async def over_its_kind(stream: Stream) -> None:
    """Four megabytes while no answer is awaited."""
    await stream.send_all(b"\x80\x80\x80\x02" + bytes(100))
    await trio.sleep_forever()


async def silence(_: Stream) -> None:
    await trio.sleep_forever()


@pytest.mark.parametrize("greets", [False, True])
@pytest.mark.parametrize("way", [slowly, huge_prefix, endless_prefix, over_its_kind, silence])
async def test_streams_that_dawdle_or_brag_end(
    tmp_path: Path, way: Callable[[Stream], Awaitable[None]], greets: bool
) -> None:
    """Before the first frame, and after it; the half-open one after `idle_seconds`."""
    async with staged(tmp_path, replace(QUICK, idle_seconds=1.5)) as scene:
        eve = await node_of(scene.stack, EVE, scene.node)
        async with await eve.open_stream(scene.node.peer_id, CHAIN) as stream, trio.open_nursery() as nursery:
            if greets:
                await talk(stream).send(replace(scene.bob.machine.status(now()), height=0, total_work=0))
            nursery.start_soon(_until_ended, way, stream)
            with trio.fail_after(5), pytest.raises((trio.BrokenResourceError, EOFError)):
                await _listen(stream)
            nursery.cancel_scope.cancel()


async def _listen(stream: Stream) -> None:
    messages = talk(stream)
    while True:
        await messages.receive()


async def _until_ended(way: Callable[..., Awaitable[object]], *args: object) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError):
        await way(*args)


async def test_a_half_open_stream_is_noticed_and_opened_again(tmp_path: Path) -> None:
    """A peer that has vanished without a word, and is back: the copy is whole in the end."""
    async with staged(tmp_path, replace(QUICK, idle_seconds=1.5)) as scene:
        raw = RawPeer(LONG)
        talks = itertools.count()

        async def answer(stream: Stream) -> None:
            if next(talks) in {2, 3}:  # after STATUS and genesis: who follows and who compares
                with suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
                return
            await raw.answer(stream)

        peer = await scene.meet(answer)
        with trio.fail_after(10), pytest.raises(RemoteProtocolError, match="IDLE"):
            await scene.bob.sync(peer)
        await scene.whole()


async def test_a_stranger_cannot_tell_a_chain_from_none(tmp_path: Path) -> None:
    """STATUS, ranges, a block, proofs by index and of others' messages: NOT_FOUND, as for a chain that is not here."""
    async with staged(tmp_path) as scene:
        stranger = await node_of(scene.stack, keys_of(b"Mallory"), scene.node)
        known = scene.bob.header(0)
        assert known is not None
        answers = []
        for chain_id in (scene.bob.chain_id, bytes(32)):
            for message in (
                replace(scene.bob.machine.status(now()), chain_id=chain_id),
                Request(chain_id=chain_id, id=7, headers=Range(0, 5)),
                Request(chain_id=chain_id, id=7, blocks=Range(0, 5)),
                Request(chain_id=chain_id, id=7, block_id=known.block_id),
                Request(chain_id=chain_id, id=7, proof=ProofReq(index=0)),
                Request(chain_id=chain_id, id=7, proof=ProofReq(msg_id=(1).to_bytes(16, "big"))),
            ):
                async with await stranger.open_stream(scene.node.peer_id, CHAIN) as stream:
                    messages = talk(stream)
                    await messages.send(message)
                    answers.append(await messages.receive())
        assert answers[:6] == answers[6:]
        assert {response.code for response in answers if isinstance(response, Response)} == {Code.NOT_FOUND}
        assert len(answers) == 12


# -- Shared chains --------------------------------------------------------------------------------------


class Member:
    """A node that writes to a shared chain which begins with given blocks."""

    def __init__(self, node: Node, chain: Chain, service: ChainService) -> None:
        self.node, self.chain, self.service = node, chain, service


async def member(
    stack: AsyncExitStack, path: Path, node: Node, builder: Builder, *, key: int, limits: SyncLimits = QUICK
) -> Member:
    store = Store(path)
    store.persist(builder.blocks, {})
    boxes = Boxes(bytes(32))
    opened = OpenChain(store=store, params=builder.params, key=KEYS[key], boxes=boxes)
    config = ChainConfig(seal_seconds=0.01, sync=limits)
    chain = Chain(opened, config, keys_of(b"member"))
    stack.callback(chain.core.close)
    nursery = await stack.enter_async_context(background())
    nursery.start_soon(chain.core.run)
    service = ChainService(node, config, nursery)
    service.add(chain.core, lambda _: True, own=True)
    stack.enter_context(node.mounted(CHAIN, service.answer))
    return Member(node, chain, service)


async def test_a_bomb_below_the_final_block_splits_both(tmp_path: Path) -> None:
    """Two halves parted for longer than finality: each keeps its own, however heavy the other is, and both say so."""
    params = make_params(Mode.SHARED, 2, finality_depth=3)
    ours, theirs = Builder(params).grow(5, 1, key=0), Builder(params).grow(9, 100, key=1)
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        b = await node_of(stack, BOB, a)
        one = await member(stack, tmp_path / "a", a, ours, key=0)
        other = await member(stack, tmp_path / "b", b, theirs, key=1)
        heard = await stack.enter_async_context(await one.chain.events())
        nursery = await stack.enter_async_context(background())
        nursery.start_soon(one.service.follow, b.peer_id, params.chain_id)
        kinds: list[object] = []
        with trio.fail_after(10):
            while AlarmKind.SPLIT not in kinds or "FINAL" not in kinds:
                effect = await heard.receive()
                kinds.append(effect.kind if isinstance(effect, Alarm) else getattr(effect, "reason", None))
        await one.chain.record(call(500))
        await one.chain.seal()
        assert one.chain.machine.tip.header.height == 6
        assert other.chain.machine.tip.block_id == theirs.blocks[-1].block_id


async def test_headers_that_never_outweigh_ours_are_a_flood(tmp_path: Path) -> None:
    """Each is valid and signed, all are light: at `staged_headers` it is enough."""
    params = make_params(Mode.SHARED, 2, finality_depth=200)
    ours, light = Builder(params).grow(2, 1, key=0, bits=16), Builder(params).grow(130, 100, key=1)
    raw = RawPeer(light)
    raw.claim = replace(raw.claim, height=100_000, total_work=1 << 60)
    raw.respond = lambda request: replace(raw.honest(request), headers=raw.honest(request).headers[:40])
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        e = await node_of(stack, EVE, a)
        stack.enter_context(e.mounted(CHAIN, raw.answer))
        victim = await member(stack, tmp_path / "a", a, ours, key=0)
        heard = await stack.enter_async_context(await victim.chain.events())
        nursery = await stack.enter_async_context(background())
        nursery.start_soon(victim.service.follow, e.peer_id, params.chain_id)
        faults: list[str] = []
        with trio.fail_after(10):
            while not faults:
                effect = await heard.receive()
                faults += [effect.reason] if isinstance(effect, Fault) else []
        assert faults == ["FLOOD"]
        assert sum(len(range(*request.headers)) for request in raw.asked if request.headers is not None)
        assert all(request.blocks is None for request in raw.asked), "no body was asked for"
        assert victim.chain.machine.tip.block_id == ours.blocks[-1].block_id
