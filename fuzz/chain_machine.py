"""What a peer may say to a chain's machine, in any order: effects come, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.chain.block import Block, Item
from talos.chain.genesis import Mode
from talos.chain.machine import MachineConfig, Now, SyncLimits
from talos.chain.messages import Code, ProofReq, Range, Request, Response, Status
from tests.unit.chain.memory_chain import CREATED_MS, Builder, Node, make_params

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.chain.genesis import Params

CHAINS = []
for mode in Mode:
    params = make_params(mode, 1 if mode is Mode.FEED else 2)
    ours = Builder(params).grow(8, 1)
    CHAINS.append(
        (params, ours, ours.fork(8).grow(24, 100), ours.fork(5).grow(6, 200, key=0 if mode is Mode.FEED else 1))
    )
LIMITS = SyncLimits(staged_headers=20)


def target(data: bytes) -> None:
    """The first byte chooses the chain; each further word is something said, or time passing."""
    words = iter(data)
    chain = CHAINS[next(words, 0) % 2]
    node = Node("n", chain[0], chain[1].blocks, config=MachineConfig(sync=LIMITS))
    seconds = 1000.0
    for peer in "pq":
        node.do(
            node.machine.peer_joined(peer, Now(seconds, CREATED_MS + 10_000_000), reader=peer == "p"), Now(seconds, 0)
        )
    for _ in range(200):
        word = next(words, None)
        if word is None:
            break
        seconds += word % 4
        now = Now(seconds, CREATED_MS + 10_000_000)
        if word & 0x80:
            node.do(node.machine.deadline_passed(now), now)
        else:
            node.do(node.machine.receive("pq"[word % 2], _message(word, words, chain, node), now), now)
        node.work(now)
    if node.machine.tip.block_id != node.chain.blocks[-1].block_id:
        raise AssertionError("the machine and its store have different tips")


def _message(
    word: int, words: Iterator[int], chain: tuple[Params, Builder, Builder, Builder], node: Node
) -> Status | Request | Response:
    params, *builders = chain
    source = builders[next(words, 0) % 3].blocks
    start, length = next(words, 0) % 40, next(words, 0) % 24
    blocks = source[start : start + length]
    match word >> 1 & 3:
        case 0:
            tip = source[min(start, len(source) - 1)]
            return Status(
                chain_id=params.chain_id, height=tip.height + length % 3, total_work=tip.total_work << length % 5,
                tip_id=tip.block_id if length % 4 else bytes(32), log_size=1, log_root=bytes(32), now_ms=length << 40,
                checkpoint=b"note" if length == 23 else b"",
            )  # fmt: skip
        case 1:
            span = Range(start, start + length - 2)
            wanted = (
                {"headers": span}, {"blocks": span}, {"proof": ProofReq(index=start)}, {"block_id": bytes(32)}, {},
                {"headers": span, "locator": tuple(block.block_id for block in blocks)},
            )[length % 6]  # fmt: skip
            return Request(chain_id=params.chain_id, id=start, **wanted)
        case 2:
            code = Code(length % 5) if length % 7 == 0 else Code.OK
            return Response(
                id=_id(node, words), code=code, headers=tuple(_mangled(b.raw + b.sig, words) for b in blocks)
            )
        case _:
            return Response(id=_id(node, words), blocks=tuple(_block(block.block, words) for block in blocks))


def _id(node: Node, words: Iterator[int]) -> int:
    """Mostly one that was asked, the newest first."""
    asked = [message.id for _, message in node.sent if isinstance(message, Request)]
    number = next(words, 0)
    return asked[-1 - number % len(asked)] if asked and number < 0xE0 else number


def _mangled(data: bytes, words: Iterator[int]) -> bytes:
    word = next(words, 0)
    if word < 0xE0:
        return data
    changed = bytearray(data)
    changed[next(words, 0) * 7 % len(changed)] ^= word
    return bytes(changed)[: len(data) - (word == 0xFF)]


def _block(block: Block, words: Iterator[int]) -> Block:
    word = next(words, 0)
    if word < 0xE0:
        return block
    items = (Item(_mangled(item.entry, words), b"x" * (word & 3)) for item in block.items)
    return Block(_mangled(block.raw, words), block.sig, tuple(items)[: word & 1])
