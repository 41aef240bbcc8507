"""A chain of two authors: halves that were parted agree on the heavier branch, and nobody's entry is lost."""

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING

from talos.chain import ChainConfig, ChainReader, verify_reader
from talos.chain.audit import Chain
from talos.chain.box import Boxes
from talos.chain.genesis import Mode, Params, bind, genesis_draft
from talos.chain.opening import OpenChain
from talos.chain.pow import solve
from talos.chain.store import Store
from talos.chain.sync import CHAIN, ChainService
from talos.host.block import background
from talos.identity.keys import PrivateKey
from tests.chain.conftest import call, keys_of
from tests.chain.test_sync import node_of

if TYPE_CHECKING:
    from pathlib import Path

    from talos.chain import ChainKeys

ALICE, BOB = keys_of(b"Alice"), keys_of(b"Bob")
RANDOM, CREATED_MS = b"\x04" * 16, 1_700_000_000_000
CONFIG = ChainConfig(seal_seconds=0.01)


def audit_key(keys: ChainKeys) -> PrivateKey:
    return PrivateKey.from_seed(keys.audit_seed(RANDOM))


def params() -> Params:
    authors = tuple(
        bind(audit_key(keys).public_key.data, keys.identity, random=RANDOM, created_ms=CREATED_MS)
        for keys in (ALICE, BOB)
    )
    return Params(mode=Mode.SHARED, created_ms=CREATED_MS, random=RANDOM, authors=authors)


def opened(directory: Path, keys: ChainKeys) -> OpenChain:
    store = Store(directory)
    if store.reading.tip() is None:
        draft = genesis_draft(params())
        store.persist((draft.finish(solve(draft.header.encode()), audit_key(ALICE)),), {})
    return OpenChain(store=store, params=params(), key=audit_key(keys), boxes=Boxes(keys.k_priv(RANDOM)))


async def test_the_heavier_half_wins_and_entries_come_back_once(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        a = await node_of(stack, ALICE)
        b = await node_of(stack, BOB, a)
        closing = stack.enter_context(ExitStack())
        nursery = await stack.enter_async_context(background())
        chains = {}
        for name, keys in (("a", ALICE), ("b", BOB)):
            chain = Chain(opened(tmp_path / name, keys), CONFIG, keys)
            closing.callback(chain.core.close)
            nursery.start_soon(chain.core.run)
            chains[name] = chain
        alice, bob = chains["a"], chains["b"]
        for number in range(3):
            await alice.record(call(number))
            await alice.seal()
        for number in range(5):
            await bob.record(call(100 + number))
            await bob.seal()
        assert alice.header(1) != bob.header(1)

        for node, chain in ((a, alice), (b, bob)):
            service = ChainService(node, CONFIG, nursery)
            service.add(chain.core, lambda _: True, own=True)
            stack.enter_context(node.mounted(CHAIN, service.answer))
            if node is a:
                nursery.start_soon(service.follow, b.peer_id, chain.chain_id)
        async with await alice.events() as heard_by_alice, await bob.events() as heard_by_bob:
            while alice.header(1) != bob.header(1) or alice.count < 9:
                await heard_by_alice.receive()
            await alice.seal()
            while bob.machine.tip.header.log_size < 9:
                await heard_by_bob.receive()
        assert alice.machine.tip == bob.machine.tip
    for name, keys in (("a", ALICE), ("b", BOB)):
        with ChainReader(tmp_path / name, keys) as reader:
            found = verify_reader(reader, full=True)
            assert found.first_bad is None
            numbers = [
                int.from_bytes(record.entry.fields[0], "big")
                for record in reader.records()
                if record.entry.msg_id is not None
            ]
            assert sorted(numbers) == [0, 1, 2, 100, 101, 102, 103, 104]
            assert all(record.height is not None for record in reader.records())
