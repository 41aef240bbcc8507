"""The simulation without a simulator: `python -m interop.gossipsub.local [--nodes N] [--params FILE]`.

Nodes are processes on loopback addresses, started as a simulator starts them. Prints what each missed; 1 if any did.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from talos.program import run

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Deliveries", "blob_script", "run_nodes"]

PROGRAM = Path(__file__).with_name("talos-gossipsub")
LOOPBACK = "127.0.77"
TOPIC = "a-subnet"
CONNECTIONS = 4
SETTLE_SECONDS = 5
START_SECONDS = 0.7
MESSAGE_BYTES = 2048
AFTER_SECONDS = 3
SPREAD_NANOSECONDS = 100_000


@dataclass(frozen=True, slots=True)
class Deliveries:
    """How often each node received each message, and how each process ended."""

    received: dict[int, Counter[str]]
    codes: dict[int, int]
    errors: dict[int, str]


def blob_script(nodes: int, messages: int) -> dict[str, Any]:
    """As the scenario subnet-blob-msg: a random mesh, then one message of each of some nodes."""
    script: list[dict[str, Any]] = []

    def only(node: int, instruction: dict[str, Any]) -> None:
        script.append({"type": "ifNodeIDEquals", "nodeID": node, "instruction": instruction})

    for node in range(nodes):
        parameters = {"HeartbeatInitialDelay": 100_000_000 + node * SPREAD_NANOSECONDS, "Dlo": None}
        only(node, {"type": "initGossipSub", "gossipSubParams": parameters})
    for node in range(1, nodes):
        # One earlier node at least, so that all hang together.
        others = sorted(random.sample(range(node), min(CONNECTIONS, node)))
        only(node, {"type": "connect", "connectTo": others})
    script.append({"type": "setTopicValidationDelay", "topicID": TOPIC, "delaySeconds": 0.02})
    script.append({"type": "subscribeToTopic", "topicID": TOPIC, "partial": False})
    script.append({"type": "waitUntil", "elapsedSeconds": SETTLE_SECONDS})
    for message in range(messages):
        only(
            message % nodes,
            {"type": "publish", "messageID": message, "messageSizeBytes": MESSAGE_BYTES, "topicID": TOPIC},
        )
    script.append({"type": "waitUntil", "elapsedSeconds": SETTLE_SECONDS + AFTER_SECONDS})
    return {"script": script}


async def run_nodes(params: Mapping[str, Any], nodes: int) -> Deliveries:
    """Runs all to the end of the script."""
    found = Deliveries({}, {}, {})
    with tempfile.TemporaryDirectory(prefix="talos-gossipsub-") as folder:
        file = trio.Path(folder) / "params.json"
        await file.write_text(json.dumps(params))

        start = time.time() + START_SECONDS * nodes  # processes of one machine do not start at once

        async def node(number: int) -> None:
            command = [str(PROGRAM), "--params", str(file), "--hostname", f"node{number}", "--loopback", LOOPBACK]
            command += ["--start", str(start)]
            done = await trio.run_process(
                command, capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
            )
            lines = [json.loads(line) for line in done.stdout.splitlines()]
            found.received[number] = Counter(line["id"] for line in lines if line["msg"] == "Received Message")
            found.codes[number] = done.returncode
            found.errors[number] = done.stderr.decode(errors="replace")

        async with trio.open_nursery() as nursery:
            for number in range(nodes):
                nursery.start_soon(node, number)
    return found


def missed(params: Mapping[str, Any], found: Deliveries) -> list[str]:
    """What is wrong: nodes that failed, and messages that did not come to those that did not publish them."""
    wrong = [f"node {node}: exit {code}: {found.errors[node][-300:]}" for node, code in found.codes.items() if code]
    for each in params["script"]:
        node, then = each.get("nodeID"), each.get("instruction", each)
        if then["type"] == "publish":
            name = str(then["messageID"])
            wrong += [
                f"node {other}: message {name} is missing"
                for other, received in found.received.items()
                if other != node and not received[name]
            ]
    return wrong


async def main(options: argparse.Namespace) -> int:
    if options.params is None:
        params = blob_script(options.nodes, options.messages)
    else:
        params = json.loads(await trio.Path(options.params).read_text())
    found = await run_nodes(params, options.nodes)
    wrong = missed(params, found)
    print("\n".join(wrong[:20]) or f"{options.nodes} nodes have every message")
    total = sum(sum(received.values()) for received in found.received.values())
    print(f"{total} messages received, duplicates included")
    return 1 if wrong else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m interop.gossipsub.local", description="Run a script on loopback.")
    parser.add_argument("--nodes", type=int, default=10)
    parser.add_argument("--messages", type=int, default=10)
    parser.add_argument("--params", type=Path, metavar="FILE")
    sys.exit(run(main, parser.parse_args()))
