"""Chains in memory: a store without a disk, nodes that do what their machine says, and a network between them."""

from __future__ import annotations

import random
from collections import deque
from typing import TYPE_CHECKING, Any

from talos.chain.block import Checked, Draft, Item, Prepared
from talos.chain.entry import Entry, Kind
from talos.chain.genesis import Author, Mode, Params, bind, genesis_draft
from talos.chain.machine import (
    Alarm,
    AlarmKind,
    Announce,
    Answered,
    ChainMachine,
    DropStage,
    Effect,
    Evidence,
    Fault,
    MachineConfig,
    Mine,
    Now,
    Persist,
    Replace,
    Send,
    Serve,
    ServeBlock,
    ServeBlocks,
    ServeHeaders,
    Stage,
    StopMining,
    Stored,
)
from talos.chain.merkle import Frontier, new_tiles
from talos.chain.messages import Code, Response
from talos.chain.pow import solve
from talos.chain.validation import Trail
from talos.identity.keys import PrivateKey

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from talos.chain.effects import Peer

CREATED_MS = 1_700_000_000_000
RANDOM = b"\x04" * 16
IDENTITY = PrivateKey.from_seed(b"\x02" * 32)
KEYS = [PrivateKey.from_seed(bytes((1 + number,)) * 32) for number in range(8)]


def author(number: int = 0, *, rand: bytes = RANDOM) -> Author:
    return bind(KEYS[number].public_key.data, IDENTITY, random=rand, created_ms=CREATED_MS)


def make_params(mode: Mode = Mode.FEED, authors: int = 1, **changes: Any) -> Params:
    everyone = tuple(author(number) for number in range(authors))
    return Params(mode=mode, created_ms=CREATED_MS, random=RANDOM, authors=everyone, **changes)


def make_entry(
    number: int, *, time_ms: int = CREATED_MS, kind: Kind = Kind.SENT, sealed_hash: bytes = bytes(32)
) -> bytes:
    fields = (number.to_bytes(16, "big"), b"p" * 16, sealed_hash, b"m" * 32, bytes(32))
    return Entry(kind, time_ms, fields).encode()


def genesis(params: Params) -> Checked:
    draft = genesis_draft(params)
    return draft.finish(solve(draft.header.encode()), KEYS[0])


class MemoryChain:
    """A `ChainSource` over lists."""

    def __init__(self, first: Checked) -> None:
        self.blocks: list[Checked] = []
        self.tiles: dict[tuple[int, int], bytes] = {}
        self.keys: dict[bytes, int] = {}
        self.staged: list[Checked] = []
        self.append([first])

    def append(self, blocks: Iterable[Checked]) -> None:
        for block in blocks:
            assert block.height == len(self.blocks)
            self.tiles.update(new_tiles(self, block.first_index, block.leaves))
            for number, key in enumerate(block.keys):
                assert key not in self.keys, "a key stands twice"
                self.keys[key] = block.height << 12 | number
            self.blocks.append(block)

    def replace(self, fork: int) -> None:
        for block in self.blocks[fork + 1 :]:
            for key in block.keys:
                del self.keys[key]
        del self.blocks[fork + 1 :]
        self.append(self.staged)
        self.staged = []

    @staticmethod
    def stored(block: Checked) -> Stored:
        return Stored(block.raw, block.sig, block.block_id, block.total_work)

    def tip(self) -> Stored | None:
        return self.stored(self.blocks[-1]) if self.blocks else None

    def header_at(self, height: int) -> Stored | None:
        return self.stored(self.blocks[height]) if 0 <= height < len(self.blocks) else None

    def header_of(self, block_id: bytes) -> Stored | None:
        return next((self.stored(block) for block in self.blocks if block.block_id == block_id), None)

    def ending_at(self, log_size: int) -> Stored | None:
        return next((self.stored(block) for block in self.blocks if block.header.log_size == log_size), None)

    def position(self, key: bytes) -> int | None:
        return self.keys.get(key)

    def entry_of(self, key: bytes) -> bytes | None:
        position = self.keys.get(key)
        return None if position is None else self.blocks[position >> 12].items[position & 4095].entry

    def items_at(self, height: int) -> Sequence[Item]:
        return self.blocks[height].items

    def tile(self, level: int, n: int) -> bytes:
        return self.tiles.get((level, n), b"")


class Builder:
    """Makes valid blocks, and blocks that break just the rule that a test wants broken."""

    def __init__(self, params: Params, *blocks: Checked) -> None:
        self.params = params
        self.trail = Trail.empty(params)
        self.frontier = Frontier()
        self.blocks: list[Checked] = []
        for block in blocks or (genesis(params),):
            self._take(block)

    def _take(self, block: Checked) -> None:
        self.trail.advance(block)
        self.frontier.extend(block.leaves)
        self.blocks.append(block)

    def fork(self, height: int) -> Builder:
        """Another one that has the blocks up to this height."""
        return Builder(self.params, *self.blocks[: height + 1])

    def draft(self, items: Sequence[Item], *, key: int = 0, bits: int = 8, time_ms: int | None = None) -> Draft:
        return Draft.build(
            [Prepared.of(item) for item in items],
            chain_id=self.params.chain_id,
            height=self.trail.height + 1,
            prev_id=self.trail.block_id,
            time_ms=CREATED_MS + 1000 * (self.trail.height + 1) if time_ms is None else time_ms,
            bits=bits,
            frontier=self.frontier,
            author_pk=KEYS[key].public_key.data,
            parent_work=self.trail.total_work,
        )

    def make(self, *numbers: int, key: int = 0, bits: int = 8, time_ms: int | None = None) -> Checked:
        """The next block, with an entry for each number."""
        items = [Item(make_entry(number)) for number in numbers]
        draft = self.draft(items, key=key, bits=bits, time_ms=time_ms)
        block = draft.finish(solve(draft.header.encode()), KEYS[key])
        self._take(block)
        return block

    def grow(self, count: int, first: int, *, key: int = 0, bits: int = 8) -> Builder:
        for number in range(first, first + count):
            self.make(number, key=key, bits=bits)
        return self


class Node:
    """A machine over a memory chain, doing at once what it says."""

    def __init__(
        self,
        name: str,
        params: Params,
        blocks: Sequence[Checked] = (),
        *,
        key: int | None = None,
        config: MachineConfig | None = None,
    ) -> None:
        self.name = name
        self.params = params
        self.chain = MemoryChain(blocks[0] if blocks else genesis(params))
        self.chain.append(blocks[1:])
        self.machine = ChainMachine(params, self.chain, config or MachineConfig(), None if key is None else KEYS[key])
        self.sent: deque[tuple[Peer, object]] = deque()
        self.faults: list[Fault] = []
        self.evidence: list[bytes] = []
        self.alarms: list[AlarmKind] = []
        self.announced: list[Stored] = []
        self.answers: list[Response] = []
        self.log: list[str] = []
        self.drafts: list[Mine] = []
        self.mines = True
        self.refuses = False
        """Its store replaces nothing."""

    def record(self, number: int, now: Now) -> None:
        entry = make_entry(number)
        if not self.machine.admit(entry, b"", now).duplicate:
            self.do(self.machine.seal(now), now)

    def do(self, effects: Iterable[Effect], now: Now) -> None:
        for effect in effects:
            self.log.append(type(effect).__name__)
            self._one(effect, now)

    def _one(self, effect: Effect, now: Now) -> None:
        machine = self.machine
        match effect:
            case Mine(ticket, draft):
                if self.mines:
                    self.do(machine.mined(ticket, solve(draft.header.encode()), now), now)
                else:
                    self.drafts.append(effect)
            case StopMining(ticket):
                self.drafts = [draft for draft in self.drafts if draft.ticket != ticket]
            case Persist(blocks):
                self.chain.append(blocks)
                self.do(machine.persisted(now), now)
            case Stage(blocks):
                self.chain.staged += blocks
            case DropStage():
                self.chain.staged = []
            case Replace() if self.refuses:
                self.do(machine.persist_failed(), now)
            case Replace(fork, _):
                self.chain.replace(fork)
                self.do(machine.persisted(now), now)
            case Send(peer, message):
                self.sent.append((peer, message))
            case Serve(peer, _, _):
                self.sent.append((peer, self.serve(effect)))
                machine.served(peer, 1000)
            case Fault():
                self.faults.append(effect)
            case Evidence(file):
                self.evidence.append(file)
            case Alarm(kind):
                self.alarms.append(kind)
            case Announce(tip):
                self.announced.append(tip)
            case Answered(_, response):
                self.answers.append(response)

    def serve(self, effect: Serve) -> Response:
        blocks = self.chain.blocks
        match effect.what:
            case ServeHeaders(start, end):
                headers = tuple(block.raw + block.sig for block in blocks[start : end + 1])
                return Response(id=effect.request_id, headers=headers)
            case ServeBlocks(start, end):
                return Response(id=effect.request_id, blocks=tuple(block.block for block in blocks[start : end + 1]))
            case ServeBlock(block_id):
                found = tuple(block.block for block in blocks if block.block_id == block_id)
                return Response(id=effect.request_id, code=Code.OK if found else Code.NOT_FOUND, blocks=found)
            case _:
                return Response(id=effect.request_id, code=Code.NOT_FOUND)

    def work(self, now: Now) -> None:
        while self.machine.has_work:
            self.do(self.machine.work(now), now)

    @property
    def tip(self) -> bytes:
        return self.chain.blocks[-1].block_id

    @property
    def numbers(self) -> set[int]:
        """Of the entries in its chain."""
        return {int.from_bytes(key[:16], "big") for block in self.chain.blocks[1:] for key in block.keys}


class Network:
    """Nodes that are joined or parted, and a clock."""

    def __init__(self, *nodes: Node, seed: int = 0) -> None:
        self.nodes = {node.name: node for node in nodes}
        self.links: set[frozenset[str]] = set()
        self.seconds = 1000.0
        self.unix_ms = CREATED_MS + 10_000_000
        self._random = random.Random(seed)

    @property
    def now(self) -> Now:
        return Now(self.seconds, self.unix_ms)

    def join(self, one: str, other: str) -> None:
        self.links.add(frozenset((one, other)))
        for here, there in ((one, other), (other, one)):
            node = self.nodes[here]
            node.do(node.machine.peer_joined(there, self.now, reader=True), self.now)

    def part(self, one: str, other: str) -> None:
        if frozenset((one, other)) in self.links:
            self.links.discard(frozenset((one, other)))
            for here, there in ((one, other), (other, one)):
                node = self.nodes[here]
                node.do(node.machine.peer_left(there, self.now), self.now)

    def settle(self, rounds: int = 20_000) -> None:
        """Delivers all that is on its way, in an order that the seed chooses; reset streams stay closed."""
        for _ in range(rounds):
            if not self.step():
                return
        raise AssertionError("the network does not come to rest")

    def step(self) -> bool:
        """One delivery, or one piece of work; False when there is none."""
        busy = [node for node in self.nodes.values() if node.sent or node.machine.has_work]
        if busy:
            self._turn(self._random.choice(busy))
        return bool(busy)

    def _turn(self, node: Node) -> None:
        if node.machine.has_work and (not node.sent or self._random.random() < 0.5):
            node.do(node.machine.work(self.now), self.now)
        else:
            peer, message = node.sent.popleft()
            if frozenset((node.name, str(peer))) in self.links:
                there = self.nodes[str(peer)]
                there.do(there.machine.receive(node.name, message, self.now), self.now)  # type: ignore[arg-type]
        for fault in node.faults:
            self.part(node.name, str(fault.peer))

    def pass_time(self, seconds: float) -> None:
        """Deadlines come one after the other; what they cause is delivered."""
        end = self.seconds + seconds
        while True:
            self.settle()
            times = [time for node in self.nodes.values() if (time := node.machine.next_deadline()) is not None]
            if not times or min(times) > end:
                break
            self._go_to(max(min(times), self.seconds))
            for node in self.nodes.values():
                deadline = node.machine.next_deadline()
                if deadline is not None and deadline <= self.seconds:
                    node.do(node.machine.deadline_passed(self.now), self.now)
        self._go_to(end)

    def _go_to(self, seconds: float) -> None:
        self.unix_ms += round((seconds - self.seconds) * 1000)
        self.seconds = seconds
