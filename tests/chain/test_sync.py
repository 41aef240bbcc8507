"""Chains between nodes: the exchange of the design, who may ask, and what liars get."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from talos.addr import parse
from talos.chain import ChainConfig, ChainReader, open_chain, verify_reader, wire
from talos.chain.driver import now
from talos.chain.messages import Code, ProofReq, Range, Request, Response, Status
from talos.chain.sync import CHAIN
from talos.errors import LocalProtocolError
from talos.host.config import NodeConfig, Stack
from talos.host.node import open_node
from talos.transport import Memory
from talos.wire.message_stream import MessageStream
from tests.carriers import USUAL, carried, over_carriers
from tests.chain.conftest import call, keys_of, peer_of

if TYPE_CHECKING:
    from pathlib import Path

    from talos.chain import Chain
    from talos.host.node import Node

ALICE, BOB, EVE = keys_of(b"Alice"), keys_of(b"Bob"), keys_of(b"Eve")
ENTRIES = 40


async def node_of(stack: AsyncExitStack, keys: object, *others: Node, carrier: str = USUAL) -> Node:
    config = NodeConfig(key=keys.identity, stack=Stack(transports=(Memory(),)), listen=(parse("/memory/0"),))  # type: ignore[attr-defined]
    node = await stack.enter_async_context(open_node(carried(config, carrier)))
    for other in others:
        await node.connect(other.peer_id, other.addrs)
    return node


async def fill(chain: Chain, start: int, count: int) -> None:
    for number in range(start, start + count):
        await chain.record(call(number))
    await chain.seal()


def talk(stream: object) -> MessageStream[object, object]:
    return MessageStream(stream, decode=wire.decode, encode=wire.encode, max_size=wire.MAX_FRAME)  # type: ignore[arg-type]


async def answer_with_nothing(messages: MessageStream[object, object]) -> None:
    """Headers that are none, for every request, until the stream ends."""
    while True:
        asked = await messages.receive()
        if isinstance(asked, Request):
            await messages.send(Response(id=asked.id, headers=(b"\x00" * 296,)))


@over_carriers
async def test_a_copy_catches_up_and_follows(tmp_path: Path, carrier: str) -> None:
    """Section 1's diagram: status, compare, request, validate, take over; then each new block by itself."""
    shown = ChainConfig(readers=frozenset({peer_of(BOB)}))
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE, carrier=carrier)
        b = await node_of(stack, BOB, a, carrier=carrier)
        alice = await stack.enter_async_context(open_chain(a, shown, ALICE, directory=tmp_path / "a"))
        bob = await stack.enter_async_context(open_chain(b, ChainConfig(), BOB, directory=tmp_path / "b"))
        for start in range(0, ENTRIES, 4):
            await fill(alice, start, 4)
        with trio.fail_after(20):
            result = await bob.sync(peer_of(ALICE))
        assert (result.height, result.log_size) == (10, ENTRIES + 1)
        await fill(alice, 1000, 3)
        with trio.fail_after(20):
            while (await bob.sync(peer_of(ALICE))).height < 11:
                pass
    copy = next((tmp_path / "b" / "replicas").iterdir())
    with ChainReader(copy) as reader:
        found = verify_reader(reader, full=True)
        assert (found.first_bad, found.checked) == (None, ENTRIES + 4)
        assert reader.params.chain_id.hex() == result.chain_id


@over_carriers
async def test_a_long_gap_goes_by_headers_first(tmp_path: Path, carrier: str) -> None:
    shown = ChainConfig(readers=frozenset({peer_of(BOB)}))
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE, carrier=carrier)
        b = await node_of(stack, BOB, a, carrier=carrier)
        alice = await stack.enter_async_context(open_chain(a, shown, ALICE, directory=tmp_path / "a"))
        bob = await stack.enter_async_context(open_chain(b, ChainConfig(), BOB, directory=tmp_path / "b"))
        for number in range(50):
            await fill(alice, number, 1)
        with trio.fail_after(20):
            assert (await bob.sync(peer_of(ALICE))).height == 50


async def test_strangers_are_told_nothing(tmp_path: Path) -> None:
    """A chain that one may not read and one that is not there look the same."""
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        e = await node_of(stack, EVE, a)
        alice = await stack.enter_async_context(open_chain(a, ChainConfig(), ALICE, directory=tmp_path / "a"))
        eve = await stack.enter_async_context(open_chain(e, ChainConfig(), EVE, directory=tmp_path / "e"))
        await fill(alice, 0, 5)
        with pytest.raises(LocalProtocolError, match="no chain that we may read"):
            await eve.sync(peer_of(ALICE))
        answers = []
        for chain_id in (alice.chain_id, bytes(32)):
            for request in (
                Request(chain_id=chain_id, id=7, blocks=Range(0, 5)),
                Request(chain_id=chain_id, id=7, headers=Range(0, 5)),
                Request(chain_id=chain_id, id=7, proof=ProofReq(msg_id=(3).to_bytes(16, "big"))),
            ):
                async with await e.open_stream(a.peer_id, CHAIN) as stream:
                    messages = talk(stream)
                    await messages.send(request)
                    answers.append(await messages.receive())
        assert answers == [Response(id=7, code=Code.NOT_FOUND)] * 6


async def test_the_other_side_of_a_message_may_ask_for_its_proof(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        e = await node_of(stack, EVE, a)
        alice = await stack.enter_async_context(open_chain(a, ChainConfig(), ALICE, directory=tmp_path / "a"))
        await alice.record(call(1, counterparty=peer_of(EVE).to_bytes()))
        await fill(alice, 2, 3)
        async with await e.open_stream(a.peer_id, CHAIN) as stream:
            messages = talk(stream)
            for number, code in ((1, Code.OK), (2, Code.NOT_FOUND)):
                wanted = ProofReq(msg_id=number.to_bytes(16, "big"))
                await messages.send(Request(chain_id=alice.chain_id, id=number, proof=wanted))
                response = await messages.receive()
                assert isinstance(response, Response)
                assert (response.id, response.code, response.proof is not None) == (number, code, code is Code.OK)


async def test_a_lie_about_work_is_a_fault(tmp_path: Path) -> None:
    """Who claims more than his headers hold is dropped; the chain stays as it was."""
    shown = ChainConfig(readers=frozenset({peer_of(EVE)}))
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        e = await node_of(stack, EVE, a)
        alice = await stack.enter_async_context(open_chain(a, shown, ALICE, directory=tmp_path / "a"))
        await fill(alice, 0, 5)
        tip = alice.header(1)
        assert tip is not None
        async with await e.open_stream(a.peer_id, CHAIN) as stream:
            messages = talk(stream)
            claim = Status(
                chain_id=alice.chain_id, height=500, total_work=1 << 60, tip_id=b"\x01" * 32, log_size=9000, log_root=bytes(32)
            )  # fmt: skip
            await messages.send(claim)
            with trio.fail_after(10), pytest.raises((trio.BrokenResourceError, EOFError)):
                await answer_with_nothing(messages)
        assert alice.header(1) == tip
        assert not alice.frozen


async def test_answers_to_nothing_and_slow_frames_end_the_stream(tmp_path: Path) -> None:
    shown = ChainConfig(readers=frozenset({peer_of(EVE)}))
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        e = await node_of(stack, EVE, a)
        alice = await stack.enter_async_context(open_chain(a, shown, ALICE, directory=tmp_path / "a"))
        status = replace(alice.machine.status(now()), height=0)
        for bad in (Response(id=99), b"\x00", b"\xff" * 40):
            async with await e.open_stream(a.peer_id, CHAIN) as stream:
                messages = talk(stream)
                await messages.send(status)
                if isinstance(bad, bytes):
                    await stream.send_all(bad)
                else:
                    await messages.send(bad)
                with trio.fail_after(10), pytest.raises((trio.BrokenResourceError, EOFError)):
                    await answer_with_nothing(messages)
        await fill(alice, 0, 3)
        assert alice.header(1) is not None
