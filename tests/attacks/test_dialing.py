"""TR07, TR19, TR22: what peers and their addresses do to whoever dials."""

from __future__ import annotations

import select
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.addr import parse, split_peer, with_peer
from talos.host.config import NodeConfig
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from tests.attacks.harness import attacked
from tests.attacks.hostile import LOOPBACK, listening
from tests.attacks.nodes import attacker_node, read_to_end, receive_exactly
from tests.attacks.test_handshake import HEADER, line

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from multiaddr import Multiaddr

NO_STAGGER_SECONDS = 0.2
NOBODY = PeerId.from_key(PrivateKey.generate().public_key)


@dataclass
class Dead:
    """Takes connections at every address of 127.0.0.0/8 and never says a word."""

    port: int = 0
    open: set[trio.SocketStream] = field(default_factory=set)
    most: int = 0
    seen: set[str] = field(default_factory=set)
    busy: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.SocketStream) -> None:
        self.open.add(stream)
        self.most = max(self.most, sum(map(is_held, self.open)))
        self.seen.add(stream.socket.getsockname()[0])
        self.busy.set()
        async with stream:
            await read_to_end(stream)
            self.open.discard(stream)

    def addrs(self, count: int) -> list[Multiaddr]:
        return [parse(f"/ip4/127.1.{number // 250}.{number % 250 + 1}/tcp/{self.port}") for number in range(count)]


def is_held(stream: trio.SocketStream) -> bool:
    """Whether the dialer has not given it up, as far as the kernel knows."""
    poll = select.poll()
    poll.register(stream.socket.fileno(), select.POLLRDHUP)
    return not poll.poll(0)


@asynccontextmanager
async def dead_addresses() -> AsyncIterator[Dead]:
    dead = Dead()
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, dead.serve, 0, host="0.0.0.0"))
        dead.port = listeners[0].socket.getsockname()[1]
        yield dead
        nursery.cancel_scope.cancel()


async def test_tr19_a_thousand_dead_addresses_of_one_peer() -> None:
    timeouts = {"authenticate": 0.5, "upgrade": 0.5}
    async with attacked(timeouts=timeouts) as node, dead_addresses() as dead:
        addrs = dead.addrs(1000)
        answer = await node.dial(*addrs, peer=NOBODY)
        assert answer["error"] == "DialError"
        assert dead.most <= 8
        assert len(dead.seen) == 25

        rested = [addr for addr in addrs if str(addr).split("/")[2] in dead.seen]
        again = await node.dial(*rested, peer=NOBODY)
        assert again["error"] == "DialError"
        assert again["seconds"] < 0.1
        assert all("backoff" in text for _, text in again["causes"].values())
        assert len(again["causes"]) == 25
        assert len(dead.seen) == 25


async def refusing_ports(sockets: AsyncExitStack, count: int) -> list[Multiaddr]:
    """Addresses that refuse: ports that are bound, so that nobody else takes them, and not listened on."""
    addrs = []
    for _ in range(count):
        sock = sockets.enter_context(trio.socket.socket())
        await sock.bind(("127.0.0.1", 0))
        addrs.append(parse(f"/ip4/127.0.0.1/tcp/{sock.getsockname()[1]}"))
    return addrs


async def test_tr22_a_good_address_is_reached_at_once() -> None:
    config = NodeConfig(listen=(LOOPBACK,))
    async with attacked() as node, AsyncExitStack() as sockets:
        dead = await refusing_ports(sockets, 24)
        for others in ([], dead):
            async with attacker_node(config) as host:
                good = split_peer(host.addrs[0])[0]
                answer = await node.dial(*others, good, peer=host.peer_id)
                assert answer.get("peer") == str(host.peer_id), answer
                assert answer["seconds"] < NO_STAGGER_SECONDS


ENDLESS_ANSWER = b"".join(line(f"/protocol/{number}".encode()) for number in range(1001))


HOSTILE_ANSWERS = {
    "all in one message, as to ls": HEADER + bytes.fromhex("b18e04") + ENDLESS_ANSWER,
    "1,001 answers": HEADER + ENDLESS_ANSWER,
    "no header": ENDLESS_ANSWER,
    "1,001 refusals": HEADER + b"\x03na\n" * 1001,
    "2^30": HEADER + bytes.fromhex("8080808004"),
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}


async def test_tr07_answers_of_a_thousand_protocols() -> None:
    async with attacked() as node:
        for name, answer in HOSTILE_ANSWERS.items():

            async def say(stream: trio.SocketStream, answer: bytes = answer) -> None:
                await receive_exactly(stream, len(HEADER))
                await stream.send_all(answer)
                await read_to_end(stream)

            async with listening(say) as addr:
                told = await node.dial(with_peer(addr, NOBODY))
                assert told["seconds"] < 1, name
                assert told["causes"][str(addr)][0] == "NegotiationError", name
