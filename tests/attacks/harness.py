"""A live node under attack with honest bystanders; leaving the block holds the attack to the catalogue's expectations.

Part of every row: the node is up, the bystander's echoes came back in order and within a second, newcomers
connected within a second, resident memory grew by less than 16 MiB at its peak, no traceback stands on stderr and no
more lines than offences, and five seconds later tasks, descriptors and limit counters are where they were.

    async with attacked() as node:                      # or attacked(stack="tcp/tls/yamux", limits={…})
        async with attacker_node() as host:
            stream = await open_echo(host, node.addr)
            …
        assert (await node.status())["refused"] == …
"""

from __future__ import annotations

import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from talos.addr import host_port, names_of, parse, split_peer
from tests.attacks.process import Child, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from multiaddr import Multiaddr

    from talos.identity.peer_id import PeerId

MIB = 1 << 20
WITHIN_SECONDS = 1.0
BACK_TO_NORMAL_SECONDS = 5.0
STDERR_LINES = 10
SOON_SECONDS = 8.0
"""For what the catalogue gives no figure: below the shortest deadline of the node, so that none of them passes for it."""


@dataclass
class Victim:
    """The node under attack."""

    child: Child
    addr: Multiaddr
    """Where it listens, ending in its peer id."""
    addrs: list[Multiaddr]
    peer: PeerId

    @property
    def socket_address(self) -> tuple[str, int]:
        return host_port(self.addr)

    @property
    def path(self) -> str:
        """Of a Unix socket."""
        return str(self.addr).removeprefix("/unix").partition("/p2p/")[0]

    async def status(self) -> dict[str, Any]:
        """Counters of the node; their names stand in `tests.attacks.victim`."""
        return await self.child.ask("status")

    async def until(self, reached: Callable[[dict[str, Any]], bool], seconds: float = SOON_SECONDS) -> dict[str, Any]:
        """The first status that has `reached` what is waited for; the test fails when none has in time."""
        status: dict[str, Any] = {}
        with trio.move_on_after(seconds):
            while True:
                status = await self.status()
                if reached(status):
                    return status
                await trio.sleep(0.01)
        told = {name: status.get(name) for name in ("failed", "refused", "events", "connections", "tasks", "fds")}
        raise AssertionError(f"not reached within {seconds} s: {told}")

    async def dial(self, *addrs: object, peer: PeerId | None = None) -> dict[str, Any]:
        """Lets the node dial: `peer` or `error`, `text` and `causes`; `seconds` and `cpu` that it took."""
        wanted = None if peer is None else str(peer)
        return await self.child.ask("dial", addrs=[str(addr) for addr in addrs], peer=wanted)

    @asynccontextmanager
    async def raw(self, source: str | None = None) -> AsyncIterator[trio.SocketStream]:
        """A bare connection to it, from the address `source`, for the length of the block."""
        unix = "unix" in names_of(self.addr)
        with trio.socket.socket(socket.AF_UNIX if unix else socket.AF_INET) as sock:
            if source is not None:
                await sock.bind((source, 0))
            await sock.connect(self.path if unix else self.socket_address)
            yield trio.SocketStream(sock)


@asynccontextmanager
async def victim(**settings: object) -> AsyncIterator[Victim]:
    """The node alone, without bystanders; `settings` are those of `tests.attacks.victim`."""
    async with running("tests.attacks.victim", **settings) as child:
        addrs = [parse(addr) for addr in (await child.answer())["addrs"]]
        peer = split_peer(addrs[0])[1]
        assert peer is not None
        yield Victim(child, addrs[0], addrs, peer)


@asynccontextmanager
async def attacked(
    *,
    newcomers: bool = True,
    memory: int = 16 * MIB,
    lines: int = STDERR_LINES,
    stack: str = "tcp/noise/yamux",
    source: str = "",
    **settings: object,
) -> AsyncIterator[Victim]:
    """A victim with bystanders; on leaving, everything that every row expects is checked."""
    async with victim(stack=stack, **settings) as node:
        before = await node.status()
        async with running("tests.attacks.bystander", addr=str(node.addr), stack=stack, newcomers=newcomers) as honest:
            assert (await honest.answer())["ready"]
            calm = await node.child.ask("calm")
            yield node
            during = await node.status()
            report = await honest.ask("report")
            check_honest(report, newcomers=newcomers)
        grown = (during["peak"] - calm["rss"]) / MIB
        assert grown < memory / MIB, f"memory grew by {grown:.1f} MiB"
        await back_to_normal(node, before)
        check_stderr(node, lines)


def check_honest(report: dict[str, Any], *, newcomers: bool) -> None:
    assert not report["failures"], report
    assert report["echoes"] > 0
    assert report["worst_echo"] < WITHIN_SECONDS, report
    if newcomers:
        assert report["newcomers"] > 0
        assert report["worst_newcomer"] < WITHIN_SECONDS, report


def check_stderr(node: Victim, lines: int) -> None:
    written = node.child.stderr_lines
    assert not [line for line in written if "Traceback" in line], written
    assert len(written) <= lines, written


async def back_to_normal(node: Victim, before: dict[str, Any]) -> None:
    """Tasks, descriptors and counters are as before, within five seconds."""
    status: dict[str, Any] = {}
    with trio.move_on_after(BACK_TO_NORMAL_SECONDS):
        while True:
            status = await node.status()
            if is_back(status, before):
                assert status["leaked"] == 0
                return
            await trio.sleep(0.1)
    held = {name: count for name, count in status["limits"].items() if count}
    changes = {name: (before[name], status[name]) for name in ("tasks", "fds", "connections")}
    raise AssertionError(f"not back to normal: held {held}, {changes}")


def is_back(status: dict[str, Any], before: dict[str, Any]) -> bool:
    """Whether nothing is held and no more runs than before."""
    grown = status["tasks"] > before["tasks"] or status["fds"] > before["fds"]
    return not (grown or status["connections"] or any(status["limits"].values()))
