"""Row P13: what an idle connection and a loaded node hold, and how long loading takes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from bench.measure import TALOS, Goal, Metric, Reading
from interop.adapters import talos_adapter
from interop.process import PeerFailed, holding, open_files, private_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bench.side import Side

__all__ = ["SCENARIOS"]

STACK = "tcp/noise/yamux"
HELD = 100
SETTLE_SECONDS = 1.0
"""Identify runs after a connection stands; what it holds meanwhile is not the connection's."""
NODES = {TALOS: "from talos import open_host", "py": "from libp2p import new_host"}
"""What a program imports that opens a node."""
RESIDENT = "; import re; print(re.search(r'VmRSS:\\s+(\\d+)', open('/proc/self/status').read())[1])"


class IdleConnections:
    """The listener's private memory with one hundred and with two. Talos holds the other ends, whoever listens."""

    metrics = (
        Metric(
            row="P13",
            name="P13 connection",
            title="listener's memory per idle connection",
            unit="KB",
            goals=(Goal(bound=45, kind="at most"),),
        ),
    )

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        await side.aclose()  # what an earlier round has freed would hide what this one takes
        peer = await side.listening(STACK)
        holder = talos_adapter()
        async with holding(holder, peer.addr, STACK, HELD):  # a heap that has grown once has room that hides the first
            await trio.sleep(SETTLE_SECONDS)
            before = private_bytes(peer.pid)
            async with holding(holder, peer.addr, STACK, HELD):
                await trio.sleep(SETTLE_SECONDS)
                after = private_bytes(peer.pid)
                if (held := open_files(peer.pid)) < 2 * HELD:
                    raise PeerFailed(f"{side.name}: the listener has {held} open files, so not {2 * HELD} connections")
        return {"P13 connection": Reading(value=(after - before) / HELD / 1000)}


class Loading:
    """A fresh interpreter that imports; only Python has such a thing."""

    metrics = (
        Metric(
            row="P13",
            name="P13 import",
            title="a process that only imports the package, whole run",
            unit="s",
            goals=(Goal(bound=0.35, kind="at most"),),
        ),
        Metric(row="P13", name="P13 import node", title="the same for what a node needs", unit="s"),
        Metric(
            row="P13",
            name="P13 node",
            title="resident memory after importing what a node needs",
            unit="MB",
            goals=(Goal(bound=45, kind="at most"),),
        ),
    )

    async def measure(self, side: Side) -> Mapping[str, Reading]:
        if side.name not in NODES:
            raise PeerFailed("not Python")
        node = NODES[side.name]
        package = node.split()[1].partition(".")[0]
        import_seconds, _ = await _imported(side, f"import {package}")
        node_seconds, kilobytes = await _imported(side, node)
        return {
            "P13 import": Reading(value=import_seconds),
            "P13 import node": Reading(value=node_seconds),
            "P13 node": Reading(value=kilobytes * 1024 / 1e6),
        }


async def _imported(side: Side, statement: str) -> tuple[float, int]:
    """Seconds of the whole process, and its resident KiB at the end."""
    start = time.perf_counter()
    done = await trio.run_process(
        [side.adapter.command[0], "-c", statement + RESIDENT], capture_stdout=True, check=False, cwd=side.adapter.cwd
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise PeerFailed(f"{side.name}: {statement} exited with {done.returncode}")
    return seconds, int(done.stdout)


SCENARIOS = (IdleConnections(), Loading())
