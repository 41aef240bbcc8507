"""A DHT server to be killed: `python -m tests.dht.store_process STORE` prints each key whose PUT was acknowledged."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import trio

from talos.dht.config import DhtConfig, DhtLimits
from talos.dht.journal import open_journal
from talos.dht.records import accept_anything
from talos.dht.server import Server
from talos.dht.state import DhtState
from talos.dht.wire import Message, MessageType, Record
from talos.host.node import open_node

CONFIG = DhtConfig(namespaces={"example": accept_anything()}, limits=DhtLimits(values=100_000, values_per_peer=100_000))
WRITERS = 8


async def main() -> None:
    async with open_node() as other, open_node() as node, trio.open_nursery() as nursery:
        journal = open_journal(Path(sys.argv[1]))
        state = DhtState(node, CONFIG, journal, clock=lambda: 1_700_000_000.0)
        server = Server(state)
        nursery.start_soon(journal.write)
        numbers = itertools.count(len(state.values))

        class From:
            """As much of a connection as the server looks at."""

            remote_peer = other.peer_id

        async def put() -> None:
            for number in numbers:
                key = b"/example/%d" % number
                message = Message(MessageType.PUT_VALUE, key, Record(key, b"value of %d" % number))
                await server.answer(message, From())  # type: ignore[arg-type]
                sys.stdout.write(f"{number}\n")
                sys.stdout.flush()

        for _ in range(WRITERS):
            nursery.start_soon(put)


if __name__ == "__main__":
    trio.run(main)
