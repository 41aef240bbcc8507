"""The honest ones: `python -m tests.attacks.bystander '{"addr": …}'` keeps using a node while it is attacked.

One connection echoes 32 bytes every 50 ms and opens a further stream every 500 ms; a newcomer with a new identity
connects every second, from 127.0.0.2 and its neighbours in turn: each keeps within the rate of a public address.
`stack` is that of the node (`tcp/noise/yamux`), `newcomers` whether there are any, `source` where all of them come from. The command `report` is answered with the
worst times, in seconds, and every failure.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import trio

from talos.addr import parse
from tests.attacks.nodes import ECHO, attacker_node, commands, echo_once, open_echo

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from multiaddr import Multiaddr

SOURCES = 16


@dataclass
class Report:
    """What the honest ones met."""

    echoes: int = 0
    worst_echo: float = 0.0
    streams: int = 0
    newcomers: int = 0
    worst_newcomer: float = 0.0
    failures: list[str] = field(default_factory=list)
    begun: trio.Event = field(default_factory=trio.Event)
    """The first echo came, or did not."""

    def as_json(self) -> str:
        return json.dumps({name: value for name, value in vars(self).items() if name != "begun"})


async def keep_echoing(addr: Multiaddr, stack: str, report: Report) -> None:
    async with attacker_node(stack=stack) as host:
        stream = await open_echo(host, addr)
        turn = 0
        while True:
            started = trio.current_time()
            await echo_once(stream, turn.to_bytes(4, "big") * 8)
            report.worst_echo = max(report.worst_echo, trio.current_time() - started)
            report.echoes += 1
            report.begun.set()
            turn += 1
            if turn % 10 == 0:
                async with await host.open_stream(stream.connection, ECHO) as other:
                    await echo_once(other, b"x" * 32)
                report.streams += 1
            await trio.sleep(0.05)


async def keep_arriving(addr: Multiaddr, stack: str, own_source: str, report: Report) -> None:
    while True:
        started = trio.current_time()
        source = own_source or f"127.0.0.{2 + report.newcomers % SOURCES}"
        async with attacker_node(stack=stack, source=source) as host:
            async with await open_echo(host, addr) as stream:
                await echo_once(stream, b"hello")
            report.worst_newcomer = max(report.worst_newcomer, trio.current_time() - started)
            report.newcomers += 1
        await trio.sleep_until(started + 1)


async def main() -> None:
    settings = json.loads(sys.argv[1])
    addr, stack = parse(settings["addr"]), settings.get("stack", "")
    report = Report()

    async def watched(what: str, work: Callable[..., Awaitable[None]], *args: object) -> None:
        try:
            await work(*args)
        except Exception as failure:  # noqa: BLE001  # whatever an honest one meets is the finding
            report.failures.append(f"{what}: {type(failure).__name__}: {failure}")
            report.begun.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched, "echo", keep_echoing, addr, stack, report)
        if settings.get("newcomers", True):
            nursery.start_soon(watched, "newcomer", keep_arriving, addr, stack, settings.get("source"), report)
        await report.begun.wait()
        print(json.dumps({"ready": True}), flush=True)
        async for command in commands():
            if command["command"] == "report":
                print(report.as_json(), flush=True)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
