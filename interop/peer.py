"""Talos behind the contract of `interop/peers/README.md`: `python -m interop.peer listen|dial …`.

Over memory a dialer cannot reach another process, so it opens both ends itself. One command more than the
others have: `hold ADDR --count N` keeps N connections of N nodes open until its stdin closes; the bench measures
with it what an idle connection costs the listener at the other end, whoever that is.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from interop import broadcast, kad, nat
from interop.operations import OPERATIONS, Task, serve_echo
from interop.stack import LISTEN, node_config
from talos import open_host
from talos.abc import PeerIdentified
from talos.addr import is_relayed, parse
from talos.dht import DhtMode
from talos.errors import ConfigError, TalosError
from talos.identity.peer_id import PeerId
from talos.program import run
from talos.relay import open_circuit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from multiaddr import Multiaddr

    from talos.abc import Event
    from talos.host.node import Node

MEMORY = "memory"
GOSSIP = "gossip"
SMALLEST = 8
"""Bytes of a message that carries the time of its publishing."""


def arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m interop.peer", description="Talos as a peer of the interop matrix."
    )
    parser.set_defaults(addr="", operation="")
    commands = parser.add_subparsers(dest="command", required=True)
    listening = commands.add_parser("listen", help="print addresses, then `ready`; serve until stdin closes")
    listening.add_argument("--bootstrap", metavar="MULTIADDR", action="append", default=[])
    dialing = commands.add_parser("dial", help="run one operation, print one JSON object")
    dialing.add_argument("addr", metavar="MULTIADDR")
    dialing.add_argument("operation", choices=[*OPERATIONS, *kad.OPERATIONS, *nat.OPERATIONS, GOSSIP])
    dialing.add_argument("words", nargs="*", help="of a DHT operation")
    holding = commands.add_parser("hold", help="keep connections open until stdin closes")
    holding.add_argument("addr", metavar="MULTIADDR")
    networking = commands.add_parser("network", help="run a whole network in this process and time it")
    networking.add_argument("--nodes", type=_natural, default=10)
    for command in (listening, dialing, holding, networking):
        command.add_argument("--stack", default="tcp/noise/yamux")
    for command in (listening, dialing, networking):
        command.add_argument("--listen", metavar="MULTIADDR")
        command.add_argument("--dht", metavar="ID", default="")
        command.add_argument("--gossip", metavar="TOPIC", default="")
    for flag in ("--relay", "--punch", "--autonat"):
        listening.add_argument(flag, action="store_true")
    listening.add_argument("--via", metavar="MULTIADDR", default="")
    for command in (dialing, holding, networking):
        command.add_argument("--count", type=_natural, default=1)
    for command in (dialing, networking):
        command.add_argument("--size", type=_natural, default=1024)
    dialing.add_argument("--publish", type=_natural, default=1)
    for name, default in (("bytes", 1 << 20), ("write", 1 << 16), ("concurrency", 1), ("up", 0), ("down", 0)):
        dialing.add_argument(f"--{name}", type=_natural, default=default)
    return parser.parse_args(words)


def _natural(text: str) -> int:
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"not a whole number: {text[:40]!r}")
    return int(text)


@asynccontextmanager
async def serving(stack: str, listen: str | None) -> AsyncIterator[Node]:
    """A node that listens and serves everything that the contract names."""
    listen = listen or LISTEN.get(stack.partition("/")[0])
    if listen is None:
        raise ConfigError(f"--listen is needed over {stack.partition('/')[0]}")
    async with open_host(node_config(stack, [listen]), perf=True) as host:
        serve_echo(host)
        yield host


def target_of(addr: str) -> tuple[PeerId | None, Multiaddr]:
    """The peer and the address before it. Cut as text: a socket's path takes all that follows it."""
    before, found, peer = addr.rpartition("/p2p/")
    return (PeerId.parse(peer), parse(before)) if found else (None, parse(addr))


async def listen(options: argparse.Namespace) -> None:
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        host = await stack.enter_async_context(serving(options.stack, options.listen))
        stack.enter_context(host.observe(_tell_identified))
        if options.gossip:
            gossip = await stack.enter_async_context(broadcast.joined_gossip(host, options.gossip))
            messages = await stack.enter_async_context(gossip.subscribe(options.gossip))
        if options.dht:
            await stack.enter_async_context(kad.joined_dht(host, options.dht, DhtMode.SERVER, options.bootstrap))
        else:
            await broadcast.connected(host, options.bootstrap)
        for addr in await stack.enter_async_context(nat.behind_nat(host, options)):
            print(addr)
        print("ready", flush=True)
        if options.gossip:
            nursery.start_soon(broadcast.tell, messages)
        await _stdin_closed()
        if options.gossip:  # the last line: what the router saw of its peers
            print(json.dumps({"snapshot": gossip.snapshot().to_json()}), flush=True)
        nursery.cancel_scope.cancel()


def _tell_identified(event: Event) -> None:
    if isinstance(event, PeerIdentified):
        print(f"identified {event.peer} {event.agent_version}", file=sys.stderr, flush=True)


async def _stdin_closed() -> None:
    # A descriptor of our own: the stream makes it non-blocking and closes it.
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as stdin:
        async for _ in stdin:
            pass


async def dial(options: argparse.Namespace) -> None:
    if options.dht and options.operation in kad.OPERATIONS:
        print(json.dumps(await kad.operate(options)), flush=True)
        return
    if options.gossip and options.operation == GOSSIP:
        print(json.dumps(await broadcast.publish(options)), flush=True)
        return
    if options.operation in nat.OPERATIONS:
        print(json.dumps(await nat.operate(options, *target_of(options.addr))), flush=True)
        return
    if options.operation not in OPERATIONS or options.words:
        raise ConfigError(f"{options.operation} needs --dht or --gossip, or takes no words")
    peer, addr = target_of(options.addr)
    async with AsyncExitStack() as stack:
        if options.stack.partition("/")[0] == MEMORY:
            await stack.enter_async_context(serving(options.stack, str(addr)))
        host = await stack.enter_async_context(open_host(node_config(options.stack)))
        if is_relayed(addr):
            await stack.enter_async_context(open_circuit(host))
        names = ("count", "bytes", "write", "concurrency", "up", "down")
        task = Task(host=host, peer=peer, addr=addr, **{name: getattr(options, name) for name in names})
        before = time.process_time()
        result = await OPERATIONS[options.operation](task)
        result["cpu_seconds"] = time.process_time() - before
    print(json.dumps(result), flush=True)


async def hold(options: argparse.Namespace) -> None:
    """One node a connection: a listener limits the connections of one peer."""
    peer, addr = target_of(options.addr)
    async with AsyncExitStack() as stack:
        for _ in range(options.count):
            host = await stack.enter_async_context(open_host(node_config(options.stack)))
            await host.connect(peer, [addr])
        print(options.addr)
        print("ready", flush=True)
        await _stdin_closed()


async def network(options: argparse.Namespace) -> None:
    if bool(options.dht) == bool(options.gossip) or options.nodes < 2 or options.count < 1 or options.size < SMALLEST:
        raise ConfigError(f"a network has --dht or --gossip, 2 nodes and more, messages of {SMALLEST} bytes and more")
    print(json.dumps(await (kad if options.dht else broadcast).network(options)), flush=True)


COMMANDS = {"listen": listen, "dial": dial, "hold": hold, "network": network}


def main() -> int:
    """Runs the command; 0 when it worked, else 1 and the reason on stderr."""
    options = arguments(sys.argv[1:])
    code = 0
    try:
        run(COMMANDS[options.command], options)
    except* KeyboardInterrupt:
        code = 130
    except* (TalosError, trio.BrokenResourceError, EOFError) as errors:
        print(f"talos: {'; '.join(map(str, leaves(errors)))}", file=sys.stderr)
        code = 1
    return code


def leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """The exceptions in a group, however deep."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]


if __name__ == "__main__":
    sys.exit(main())
