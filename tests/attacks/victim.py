"""The node under attack: `python -m tests.attacks.victim SETTINGS` serves every service of this floor until stdin closes.

SETTINGS is a JSON object, all of it optional: `listen` (addresses), `yamux` (fields of YamuxConfig), `stack` (`tcp/noise/yamux`), `limits` (fields of
LimitsConfig; those of a scope, of `ip`, `dialing` and `manager` as objects), `timeouts` (fields of TimeoutsConfig), `log` (a level),
`descriptors` (RLIMIT_NOFILE), `gate` and `observer` (`raise`), `late` (LateNoise beside the stack's security),
`limit` (`raise`), `resolver` (`hang`), `scaled` (limits for so many bytes of memory), `gossip` (fields of GossipConfig, its
limits as an object: speaks gossip, reads the topic FLEET and judges it), `dht` (fields of DhtConfig, its limits as an object, `bootstrap`
as texts, `store` a path), `messages` (a directory: takes letters there, as the `bob` of tests.messaging.writer, with a chain), `files` (fields of FileConfig: takes files too, into `downloads`
there), `live` (reads live streams and forgets what is said).

Commands: `status`; `peer` (what is stored of it); `visit` (echoes `size` bytes with a connected `peer`); `calm` (forgets the peak of memory and the worst loop delay); `release` (the protocol HOLD begins
to read); `dial` with `addrs` and perhaps `peer`; `dial each` of `addrs`; `hoard` and `share` (takes all
descriptors, gives them back); `shift` (the wall clock, by `seconds`); `publish` (`count` messages of `size` bytes in FLEET); `find peer` by the DHT; `value` that it has under `key` (hex).
"""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from interop.stack import node_config
from talos.abc import Verdict
from talos.addr import parse
from talos.errors import DialError, PeerNotFound, TalosError, TransferFailed
from talos.gossip import GossipConfig, GossipLimits, SignaturePolicy, open_gossip, sha256_of_data
from talos.host.block import background
from talos.host.config import NodeConfig, TimeoutsConfig
from talos.host.limits import LimitsConfig
from talos.host.node import open_node
from talos.identify import open_identify
from talos.identity.peer_id import PeerId
from talos.muxer.yamux import Yamux, YamuxConfig
from talos.perf import open_perf
from talos.ping import open_ping
from tests.attacks.hostile import LateNoise
from tests.attacks.nodes import ECHO, FAIL, HOLD, SIP, commands, exchange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from multiaddr import Multiaddr

    from talos.abc import AuditLog, Event, GateStep, Stream, TopicMessage
    from talos.dht import Dht
    from talos.gossip import Gossip
    from talos.host.node import Node
    from talos.identify import IdentifyService
    from talos.messaging import Messaging
    from talos.messaging.files import Files
    from talos.messaging.live import IncomingStream

FORBIDDEN = "127.0.9.9"
BROKEN = "127.0.8.8"
FLEET = "fleet"
MAX_HEARD = 1000
MAX_REMEMBERED_PEERS = 1000


class Handlers:
    """What the victim offers beside its services."""

    def __init__(self) -> None:
        self.release = trio.Event()

    async def echo(self, stream: Stream) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    async def hold(self, stream: Stream) -> None:
        """Reads nothing until told: a slow application."""
        await self.release.wait()
        async for _ in stream:
            pass

    async def sip(self, stream: Stream) -> None:
        """Reads byte by byte."""
        while await stream.receive_some(1):
            pass

    async def fail(self, stream: Stream) -> None:
        """Raises what the peer asks for."""
        wanted = bytes(await stream.receive_some()).decode()
        match wanted:
            case "ValueError":
                raise ValueError("a bug of the application")
            case "RecursionError":
                await self.fail_deeply(0)
            case "MemoryError":
                raise MemoryError
            case "ExceptionGroup":
                raise ExceptionGroup("outer", [ExceptionGroup("inner", [ValueError("a"), KeyError("b")]), OSError("c")])
            case "StreamReset":
                stream.reset()
                await stream.receive_some()

    async def fail_deeply(self, depth: int) -> None:
        await self.fail_deeply(depth + 1)


class Observer:
    """Counts events by class, and remembers the peers that any event was about."""

    def __init__(self, *, raising: bool) -> None:
        self.events: Counter[str] = Counter()
        self.peers: dict[str, None] = {}
        self._raising = raising

    def __call__(self, event: Event) -> None:
        self.events[type(event).__name__] += 1
        if (peer := getattr(event, "peer", None)) is not None and len(self.peers) < MAX_REMEMBERED_PEERS:
            self.peers[str(peer)] = None
        if self._raising:
            raise RuntimeError(f"a bug of the observer, at {type(event).__name__}")


class RaisingGate:
    """An operator's gate with a bug: asked about FORBIDDEN, it raises."""

    def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:
        if FORBIDDEN in str(addr):
            raise RuntimeError("a bug of the gate")
        return True


class LoopDelay:
    """How late the event loop was at worst since `calm`, in seconds."""

    def __init__(self) -> None:
        self.worst = 0.0

    async def watch(self) -> None:
        while True:
            wanted = trio.current_time() + 0.02
            await trio.sleep_until(wanted)
            self.worst = max(self.worst, trio.current_time() - wanted)


class Victim:
    """The node and what is asked of it."""

    def __init__(self, node: Node, identify: IdentifyService, gossip: Gossip | None, observer: Observer) -> None:
        self.node = node
        self.identify = identify
        self.gossip = gossip
        self.heard: list[str] = []
        self.handlers = Handlers()
        self.delay = LoopDelay()
        self.observer = observer
        self.dht: Dht | None = None
        self.messaging: Messaging | None = None
        self.files: Files | None = None
        self.hoarded: list[int] = []

    def hoard(self) -> None:
        """Takes every descriptor that is left."""
        try:
            while True:
                self.hoarded.append(os.dup(2))
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise

    async def answer(self, command: dict[str, Any]) -> dict[str, Any]:
        match command["command"]:
            case "calm":
                self.delay.worst = 0.0
                Path("/proc/self/clear_refs").write_text("5")  # noqa: ASYNC240  # no disk is behind it
            case "release":
                self.handlers.release.set()
            case "hoard":
                self.hoard()
            case "share":
                while self.hoarded:
                    os.close(self.hoarded.pop())
            case "shift":
                shift_clock(command["seconds"])
            case "dial each":
                return await self.dial_each(command["addrs"])
            case "dial":
                return await self.dial(command["addrs"], command.get("peer"))
            case "find peer":
                return await self.find_peer(PeerId.parse(command["peer"]))
            case "value":
                assert self.dht is not None
                value = await self.dht.get_value(bytes.fromhex(command["key"]), quorum=1)
                return {"value": None if value is None else value.hex()}
            case "peer":
                return self.known(PeerId.parse(command["peer"]))
            case "publish":
                assert self.gossip is not None
                for _ in range(command["count"]):
                    await self.gossip.publish(FLEET, os.urandom(command["size"]))
            case "visit":
                return await self.visit(PeerId.parse(command["peer"]), command["size"])
        return {} if self.hoarded else self.status()

    async def hear(self) -> None:
        """Reads FLEET, and keeps what it hears."""
        assert self.gossip is not None
        async with self.gossip.subscribe(FLEET, judge) as messages:
            async for message in messages:
                self.heard.append(message.data.decode("utf-8", "replace"))
                del self.heard[:-MAX_HEARD]

    async def find_peer(self, peer: PeerId) -> dict[str, Any]:
        """Where it is said to be, and how many were asked."""
        assert self.dht is not None
        asked: list[str] = []
        addrs: Sequence[Multiaddr] = ()
        try:
            addrs = await self.dht.find_peer(
                peer, trace=lambda step: asked.append(str(step.peer)) if step.kind == "ask" else None
            )
        except PeerNotFound:
            pass
        return {"addrs": [str(addr) for addr in addrs], "asked": asked}

    async def dial(self, addrs: list[str], peer: str | None) -> dict[str, Any]:
        """How long it took, and what came of it."""
        started = trio.current_time()
        cpu = time.process_time()
        answer: dict[str, Any] = {}
        try:
            wanted = None if peer is None else PeerId.parse(peer)
            connection = await self.node.connect(wanted, [parse(addr) for addr in addrs])
            answer["peer"] = str(connection.remote_peer)
        except TalosError as error:
            answer["error"] = type(error).__name__
            answer["text"] = str(error)
            if isinstance(error, DialError):
                answer["causes"] = {str(addr): [type(why).__name__, str(why)] for addr, why in error.causes.items()}
        seconds, cpu = trio.current_time() - started, time.process_time() - cpu
        return {**answer, "seconds": seconds, "cpu": cpu}

    async def dial_each(self, addrs: list[str]) -> dict[str, Any]:
        """Dials all at once: the errors, and the most threads that there were meanwhile."""
        answers: list[dict[str, Any]] = []
        most = 0

        async def dial(addr: str) -> None:
            answers.append(await self.dial([addr], None))

        async def count_threads() -> None:
            nonlocal most
            while len(answers) < len(addrs):
                most = max(most, threading.active_count())
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count_threads)
            for addr in addrs:
                nursery.start_soon(dial, addr)
        return {"errors": Counter(answer.get("error") for answer in answers), "threads": most}

    def known(self, peer: PeerId) -> dict[str, Any]:
        store = self.node.peerstore
        return {
            "protocols": sorted(store.protocols(peer)),
            "addrs": [str(addr) for addr in store.addrs(peer)],
            "agent": store.agent_version(peer),
            "seq": store.record_seq(peer),
        }

    async def visit(self, peer: PeerId, size: int) -> dict[str, Any]:
        """How many bytes came back as they were sent, which was while others were received."""
        data = bytes(number % 251 for number in range(size))
        async with await self.node.open_stream(peer, ECHO) as stream:
            return {"echoed": size if await exchange(stream, data) == data else 0}

    def status(self) -> dict[str, Any]:
        node = self.node
        memory = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return {
            "rss": int(memory["VmRSS"].split()[0]) * 1024,
            "peak": int(memory["VmHWM"].split()[0]) * 1024,
            "threads": int(memory["Threads"]),
            "cpu": time.process_time(),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
            "fds": len(os.listdir("/proc/self/fd")),  # noqa: PTH208  # counted, not read
            "limits": node.limits.snapshot(),
            "leaked": node.limits.leaked,
            "refused": dict(node.limits.refused),
            "failed": dict(node.limits.failed),
            "evicted": dict(node.limits.evicted),
            "identify": {"ignored": self.identify.ignored, "failed": dict(self.identify.failed)},
            "connections": len(node.connections),
            "known": [str(peer) for peer in node.peerstore.peers()],
            "gossip": None if self.gossip is None else {**self.gossip.snapshot().to_json(), "heard": self.heard},
            "loop_delay": self.delay.worst,
            "events": dict(self.observer.events),
            "peers": list(self.observer.peers),
            **({"dht": asdict(self.dht.status())} if self.dht is not None else {}),
            **({"letters": letters(self.messaging)} if self.messaging is not None else {}),
            **(
                {"transfers": [[one.id.hex(), one.state.name, one.code] for one in self.files.transfers()]}
                if self.files
                else {}
            ),
        }


def letters(messaging: Messaging) -> dict[str, list[str]]:
    """Ids and contents of what came, and the ids that the log has of it."""
    came = list(messaging.history())[::-1]
    return {
        "ids": [one.id.hex() for one in came],
        "contents": [one.content.hex() for one in came],
        "recorded": [one.id.hex() for one in came if one.leaf],
    }


def shift_clock(seconds: float) -> None:
    """Sets the wall clock, as far as this process is concerned."""
    wall = time.time
    time.time = lambda: wall() + seconds


def hang_resolver() -> None:
    """Makes the name server silent for names in .invalid, as one that drops every question."""
    honest = socket.getaddrinfo

    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".invalid"):
            threading.Event().wait(60)
        return honest(host, *args, **kwargs)

    socket.getaddrinfo = look_up  # type: ignore[assignment]


def break_limits(node: Node) -> None:
    """A bug in the resource manager: asked about BROKEN, it raises."""
    honest = node.limits.inbound

    def inbound(addr: Multiaddr, *args: Any, **kwargs: Any) -> Any:
        if BROKEN in str(addr):
            raise RuntimeError("a bug of the limits")
        return honest(addr, *args, **kwargs)

    node.limits.inbound = inbound  # type: ignore[assignment,method-assign]


def with_settings(config: Any, settings: dict[str, Any]) -> Any:
    """`config` with fields replaced, also those of the dataclasses in it."""
    present = {field.name: getattr(config, field.name) for field in fields(config)}
    return replace(
        config,
        **{
            name: with_settings(present[name], value) if is_dataclass(present[name]) else value
            for name, value in settings.items()
        },
    )


def config_of(settings: dict[str, Any]) -> NodeConfig:
    limits = LimitsConfig()
    if memory := settings.get("scaled"):
        limits = LimitsConfig.scaled(memory, 1024)
    limits = replace(limits, ip=replace(limits.ip, exempt_loopback=False))
    config = NodeConfig(
        listen=tuple(map(parse, settings.get("listen", ["/ip4/127.0.0.1/tcp/0"]))),
        limits=with_settings(limits, settings.get("limits", {})),
        timeouts=TimeoutsConfig(**settings.get("timeouts", {})),
        gates=(RaisingGate(),) if settings.get("gate") == "raise" else (),
    )
    if "messages" in settings:
        from tests.messaging.writer import wallet

        config = replace(config, key=wallet("bob").identity)
    if "stack" not in settings:
        return config
    stack = node_config(settings["stack"]).stack
    if "yamux" in settings:
        stack = replace(stack, muxers=(Yamux(YamuxConfig(**settings["yamux"])),))
    if settings.get("late"):
        stack = replace(stack, security=(*stack.security, LateNoise))
    return replace(config, stack=stack)


def judge(message: TopicMessage) -> Verdict:
    """The application's validator, with a bug."""
    if message.data.startswith(b"raise"):
        raise RuntimeError("a bug of the validator")
    return Verdict.ACCEPT


def gossip_config_of(settings: dict[str, Any]) -> GossipConfig:
    changes = dict(settings)
    limits = GossipLimits(**changes.pop("limits", {}))
    policy = SignaturePolicy(changes.pop("policy", SignaturePolicy.STRICT_SIGN.value))
    message_id = None if policy is SignaturePolicy.STRICT_SIGN else sha256_of_data
    return GossipConfig(limits=limits, policy=policy, message_id=message_id, **changes)


def dht_of(node: Node, settings: dict[str, Any]) -> AbstractAsyncContextManager[Dht]:
    """A DHT server in a swarm where `/example/` holds anything."""
    from talos.dht import TALOS_KAD, DhtConfig, DhtLimits, DhtMode, accept_anything, default_namespaces, open_dht

    settings = dict(settings)
    store = settings.pop("store", None)
    config = DhtConfig(
        mode=DhtMode.SERVER,
        namespaces={**default_namespaces(TALOS_KAD), "example": accept_anything()},
        limits=DhtLimits(**settings.pop("limits", {})),
        bootstrap=tuple(map(parse, settings.pop("bootstrap", ()))),
        **settings,
    )
    return open_dht(node, config, store=None if store is None else Path(store))


async def forget(messaging: Messaging) -> None:
    """Reads each live stream to its end, whatever that is."""

    async def read(stream: IncomingStream) -> None:
        try:
            async for _ in stream:
                pass
        except TransferFailed:
            pass

    async with trio.open_nursery() as nursery:
        async for stream in messaging.streams():
            nursery.start_soon(read, stream)


def files_of(node: Node, messaging: Messaging, audit: AuditLog, directory: Path, settings: dict[str, Any]) -> Any:
    from talos.messaging import WalletKeys
    from talos.messaging.files import FileConfig, open_files
    from tests.messaging.writer import wallet

    return open_files(
        messaging,
        node,
        WalletKeys(wallet("bob")),
        FileConfig(**settings),
        directory=directory,
        downloads=directory / "downloads",
        audit=audit,
    )


@asynccontextmanager
async def messages_of(node: Node, directory: Path) -> AsyncIterator[tuple[Messaging, AuditLog]]:
    from talos.chain import ChainConfig, ChainKeys, open_chain
    from talos.messaging import WalletKeys, open_messaging
    from tests.messaging.writer import wallet

    mine = wallet("bob")
    async with (
        open_chain(None, ChainConfig(), ChainKeys.of(mine), directory=directory / "chain") as chain,
        open_messaging(node, WalletKeys(mine), directory=directory, audit=chain) as messaging,
    ):
        yield messaging, chain


@asynccontextmanager
async def open_services(
    config: NodeConfig, gossip: dict[str, Any] | None
) -> AsyncIterator[tuple[Node, IdentifyService, Gossip | None]]:
    """As `talos.agent.open_host`, with what identify counts at hand, and gossip where it is wanted."""
    async with open_node(config) as node, open_identify(node) as identify, open_ping(node), open_perf(node):
        if gossip is None:
            yield node, identify, None
            return
        async with open_gossip(node, gossip_config_of(gossip)) as service:
            yield node, identify, service


async def main() -> None:
    settings = json.loads(sys.argv[1])
    level = settings.get("log", "WARNING")
    logging.basicConfig(level=level, stream=sys.stderr, format="%(name)s %(levelname)s %(message)s")
    if descriptors := settings.get("descriptors"):
        resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    if settings.get("resolver") == "hang":
        hang_resolver()
    async with (
        aclosing(commands()) as asked,
        open_services(config_of(settings), settings.get("gossip")) as (node, identify, gossip),
        background() as nursery,
        AsyncExitStack() as stack,
    ):
        victim = Victim(node, identify, gossip, Observer(raising=settings.get("observer") == "raise"))
        if gossip is not None:
            nursery.start_soon(victim.hear)
        if settings.get("limit") == "raise":
            break_limits(node)
        node.handle(ECHO)(victim.handlers.echo)
        node.handle(HOLD)(victim.handlers.hold)
        node.handle(SIP)(victim.handlers.sip)
        node.handle(FAIL)(victim.handlers.fail)
        nursery.start_soon(victim.delay.watch)
        if "dht" in settings:
            victim.dht = await stack.enter_async_context(dht_of(node, settings["dht"]))
        if "messages" in settings:
            directory = Path(settings["messages"])
            messaging, audit = await stack.enter_async_context(messages_of(node, directory))
            victim.messaging = messaging
            if "live" in settings:
                nursery.start_soon(forget, messaging)
            if "files" in settings:
                opening = files_of(node, messaging, audit, directory, settings["files"])
                victim.files = await stack.enter_async_context(opening)
        with node.observe(victim.observer):
            print(json.dumps({"addrs": [str(addr) for addr in node.addrs]}), flush=True)
            async for command in asked:
                print(json.dumps(await victim.answer(command)), flush=True)


if __name__ == "__main__":
    try:
        trio.run(main)
    except KeyboardInterrupt:
        sys.exit(130)
