"""py-libp2p behind the contract of interop/peers/README.md."""

import argparse
import json
import os
import secrets
import ssl
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, NoReturn

import multiaddr
import pydht  # type: ignore[import-not-found] # beside this file when it runs
import pygossip  # type: ignore[import-not-found] # beside this file when it runs
import trio
from libp2p import create_new_ed25519_key_pair, new_host
from libp2p.crypto.x25519 import create_new_key_pair as create_new_x25519_key_pair
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PING_LENGTH, PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.io.utils import read_exactly
from libp2p.network.config import ConnectionConfig
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import PeerInfo, info_from_p2p_addr
from libp2p.perf.perf_service import PerfService
from libp2p.rcmgr.connection_limits import ConnectionLimits
from libp2p.rcmgr.manager import ResourceLimits, ResourceManager
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS
from libp2p.security.tls.transport import TLSTransport
from libp2p.stream_muxer.mplex.mplex import MPLEX_PROTOCOL_ID, Mplex
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.utils.varint import read_length_prefixed_protobuf
from pybase import Refused, Result, leave  # type: ignore[import-not-found] # beside this file when it runs
from pydht import DHTMode

ECHO = "/echo/1.0.0"
PERF = "/perf/1.0.0"
CHUNK = 65536
PATTERN_SIZE = 65521  # prime, so that the pattern never lines up with a frame and a lost piece shows
MANY = 100_000
GOODBYE_SECONDS = 1.0

MUXERS = {"yamux": {YAMUX: Yamux}, "mplex": {MPLEX_PROTOCOL_ID: Mplex}}


def open_host(stack: str) -> Any:
    """A host with exactly one stack and without the shipped limits, which refuse quick reconnects."""
    key_pair = create_new_ed25519_key_pair()
    if stack == "quic-v1":
        return new_host(key_pair=key_pair, enable_quic=True, enable_tcp=False, **unlimited())
    transport, _, upgrades = stack.partition("/")
    security, _, muxer = upgrades.partition("/")
    if transport not in {"tcp", "ws", "wss"} or security not in {"noise", "tls"} or muxer not in MUXERS:
        raise Refused(f"py has no stack {stack!r}")
    if security == "noise":
        secured = {NOISE: NoiseTransport(key_pair, noise_privkey=create_new_x25519_key_pair().private_key)}
    else:
        secured = {TLS: TLSTransport(key_pair)}
    return new_host(
        key_pair=key_pair,
        sec_opt=secured,
        muxer_opt=MUXERS[muxer],
        **websocket(transport),
        **unlimited(),
    )


def unlimited() -> dict[str, Any]:
    """Without the shipped limits, which refuse quick reconnects."""
    return {
        "connection_config": ConnectionConfig(
            max_connections=MANY, min_connections=0, low_watermark=0, high_watermark=MANY, max_connections_per_peer=MANY
        ),
        "resource_manager": ResourceManager(
            limits=ResourceLimits(max_connections=MANY, max_memory_mb=MANY, max_streams=MANY),
            connection_limits=ConnectionLimits(),
            enable_memory_limits=False,
            enable_circuit_breaker=False,
            enable_graceful_degradation=False,
            enable_rate_limiting=False,
        ),
    }


def websocket(transport: str) -> dict[str, Any]:
    """What `new_host` wants for WebSockets; the certificates of wss are those that the environment names."""
    if transport == "tcp":
        return {}
    if transport == "ws":
        return {"enable_websocket": True}
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(os.environ["WEB_CHAIN"], os.environ["WEB_KEY"])
    client = ssl.create_default_context(cafile=os.environ["WEB_AUTHORITY"])
    return {"enable_websocket": True, "tls_client_config": client, "tls_server_config": server}


async def read(stream: Any, size: int = CHUNK) -> bytes:
    """Up to `size` bytes; empty at the end of the stream."""
    try:
        return bytes(await stream.read(size))
    except StreamEOF:
        return b""


async def write_zeros(stream: Any, size: int, chunk: int) -> None:
    piece = bytes(chunk)
    while size > 0:
        await stream.write(piece[: min(size, chunk)])
        size -= chunk


async def answer_echo(stream: Any) -> None:
    while chunk := await read(stream):
        await stream.write(chunk)
    await stream.close()


async def echoed(stream: Any, size: int) -> None:
    """Send `size` patterned bytes and check every byte that comes back, up to the end of the stream."""
    pattern = secrets.token_bytes(PATTERN_SIZE) * 2

    async def send() -> None:
        for sent in range(0, size, CHUNK):
            offset = sent % PATTERN_SIZE
            await stream.write(pattern[offset : offset + min(CHUNK, size - sent)])
        await stream.close_write()

    have = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while chunk := await read(stream, PATTERN_SIZE):
            offset = have % PATTERN_SIZE
            if chunk != pattern[offset : offset + len(chunk)]:
                raise Refused(f"echo differs within {len(chunk)} bytes after {have}")
            have += len(chunk)
    if have != size:
        raise Refused(f"echo gave {have} of {size} bytes")
    await stream.close()


async def exchange(stream: Any, start: float, up: int, down: int, chunk: int) -> tuple[float, float]:
    """One round of /perf/1.0.0: seconds until the upload had arrived, and until the end.

    The server answers only after the end of the upload, so that has arrived when the first answer, or the end, comes.
    """
    await stream.write(struct.pack(">Q", down))
    await write_zeros(stream, up, chunk)
    await stream.close_write()
    piece = await read(stream)
    uploaded = time.perf_counter() - start
    received = len(piece)
    while piece := await read(stream):
        received += len(piece)
    if received != down:
        raise Refused(f"perf gave {received} of {down} bytes")
    total = time.perf_counter() - start
    await stream.close()
    return uploaded, total


async def ping(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    await host.connect(peer)
    return {"rtt_ms": await PingService(host).ping(peer.peer_id, ping_amt=options.count)}


async def identify(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:  # noqa: ARG001 - one shape for all
    await host.connect(peer)
    stream = await host.new_stream(peer.peer_id, [IDENTIFY])
    found = Identify()
    found.ParseFromString(await read_length_prefixed_protobuf(stream, use_varint_format=True))
    await stream.close()
    return {
        "peer_id": str(peer.peer_id),
        "agent": found.agent_version,
        "protocol_version": found.protocol_version,
        "protocols": list(found.protocols),
        "listen_addrs": [str(multiaddr.Multiaddr(addr)) for addr in found.listen_addrs],
        "observed_addr": str(multiaddr.Multiaddr(found.observed_addr)) if found.observed_addr else "",
        "signed_record": found.HasField("signedPeerRecord"),
    }


async def echo(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    await host.connect(peer)
    start = time.perf_counter()
    await echoed(await host.new_stream(peer.peer_id, [ECHO]), options.bytes)
    return {"bytes": options.bytes, "ok": True, "seconds": time.perf_counter() - start}


async def perf(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    await host.connect(peer)
    start = time.perf_counter()
    stream = await host.new_stream(peer.peer_id, [PERF])
    uploaded, total = await exchange(stream, start, options.up, options.down, CHUNK)
    return {
        "up": options.up,
        "down": options.down,
        "seconds": total,
        "upload_seconds": uploaded,
        "download_seconds": total - uploaded,
    }


async def bulk(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    if options.write == 0:
        raise Refused("--write must be positive")
    await host.connect(peer)
    start = time.perf_counter()
    stream = await host.new_stream(peer.peer_id, [PERF])
    _, total = await exchange(stream, start, options.bytes, 0, options.write)
    return {"bytes": options.bytes, "seconds": total}


async def reconnect(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    start = time.perf_counter()
    for _ in range(options.count):
        await host.connect(peer)
        await PingService(host).ping(peer.peer_id)
        await host.disconnect(peer.peer_id)
    return {"count": options.count, "seconds": time.perf_counter() - start}


async def handshakes(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    latencies = []
    start = time.perf_counter()
    for _ in range(options.count):
        dialed = time.perf_counter()
        await host.connect(peer)
        latencies.append((time.perf_counter() - dialed) * 1e3)
        await echoed(await host.new_stream(peer.peer_id, [ECHO]), 1)
        await host.disconnect(peer.peer_id)
    return {"count": options.count, "seconds": time.perf_counter() - start, "latency_ms": latencies}


async def streams(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    await host.connect(peer)
    left = iter(range(options.count))

    async def worker() -> None:
        for _ in left:
            await echoed(await host.new_stream(peer.peer_id, [ECHO]), 1)

    start = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(options.concurrency):
            nursery.start_soon(worker)
    return {"count": options.count, "seconds": time.perf_counter() - start}


async def rtt(host: Any, peer: PeerInfo, options: argparse.Namespace) -> Result:
    await host.connect(peer)
    stream = await host.new_stream(peer.peer_id, [PING])
    rtts = []
    for _ in range(options.count):
        sent = secrets.token_bytes(PING_LENGTH)
        start = time.perf_counter()
        await stream.write(sent)
        back = await read_exactly(stream, PING_LENGTH)
        rtts.append((time.perf_counter() - start) * 1e3)
        if back != sent:
            raise Refused("the ping came back changed")
    await stream.close()
    return {"rtt_ms": rtts}


Operation = Callable[[Any, PeerInfo, argparse.Namespace], Awaitable[Result]]
OPERATIONS: dict[str, Operation] = {
    operation.__name__: operation
    for operation in (ping, identify, echo, perf, bulk, reconnect, handshakes, streams, rtt)
}


async def listen(options: argparse.Namespace) -> None:
    host = open_host(options.stack)
    host.set_stream_handler(ECHO, answer_echo)
    await PerfService(host).start()
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        await stack.enter_async_context(host.run(listen_addrs=[multiaddr.Multiaddr(options.listen)]))
        if options.gossip:
            pubsub = await stack.enter_async_context(pygossip.open_gossip(host))
        if options.dht:
            await stack.enter_async_context(pydht.open_dht(host, options.dht, DHTMode.SERVER, options.bootstrap))
        else:
            await pygossip.connect(host, options.bootstrap)
        for addr in host.get_addrs():
            print(addr)
        print("ready", flush=True)
        if options.gossip:
            nursery.start_soon(pygossip.tell_messages, pubsub, options.gossip)
        await trio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        leave()


async def dial(options: argparse.Namespace) -> None:
    if options.dht:
        await pydht.operate(options, open_host)
    if options.gossip:
        await pygossip.publish(options, open_host)
    host = open_host(options.stack)
    peer = info_from_p2p_addr(multiaddr.Multiaddr(options.address))
    async with host.run(listen_addrs=[]):
        before = time.process_time()
        result = await OPERATIONS[options.operation](host, peer, options)
        result["cpu_seconds"] = time.process_time() - before
        print(json.dumps(result), flush=True)
        with trio.move_on_after(GOODBYE_SECONDS):
            await host.disconnect(peer.peer_id)
        leave()


async def network(options: argparse.Namespace) -> None:
    run = pydht.network if options.dht else pygossip.network
    await run(options, open_host)


def reasons(failure: BaseException) -> list[str]:
    if isinstance(failure, BaseExceptionGroup):
        return [reason for inner in failure.exceptions for reason in reasons(inner)]
    return [f"{type(failure).__name__}: {failure}"]


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def parse() -> argparse.Namespace:
    parser = Parser(prog="py")
    commands = parser.add_subparsers(required=True)
    shared = Parser(add_help=False)
    shared.add_argument("--stack", default="tcp/noise/yamux")
    shared.add_argument("--listen", default="/ip4/127.0.0.1/tcp/0")
    shared.add_argument("--dht", default="")
    shared.add_argument("--gossip", default="")
    listener = commands.add_parser("listen", parents=[shared])
    listener.add_argument("--bootstrap", action="append", default=[])
    listener.set_defaults(run=listen)
    dialer = commands.add_parser("dial", parents=[shared])
    dialer.add_argument("address")
    dialer.add_argument("operation", choices=[*OPERATIONS, *pydht.OPERATIONS, "gossip"])
    dialer.add_argument("words", nargs="*")
    dialer.add_argument("--publish", type=int, default=1)
    dialer.add_argument("--size", type=int, default=1024)
    for name, default in (
        ("count", 1),
        ("bytes", 1 << 20),
        ("write", CHUNK),
        ("concurrency", 1),
        ("up", 0),
        ("down", 0),
    ):
        dialer.add_argument(f"--{name}", type=int, default=default)
    dialer.set_defaults(run=dial)
    networked = commands.add_parser("network", parents=[shared])
    for name, default in (("nodes", 10), ("count", 1), ("size", 1024)):
        networked.add_argument(f"--{name}", type=int, default=default)
    networked.set_defaults(run=network)
    return parser.parse_args()


def report(kind: type[BaseException], failure: BaseException, traceback: TracebackType | None) -> None:  # noqa: ARG001
    """Whatever py-libp2p raises is the reason that the contract asks for."""
    print(f"py: {'; '.join(reasons(failure))}", file=sys.stderr, flush=True)
    os._exit(130 if issubclass(kind, KeyboardInterrupt) else 1)


def main() -> None:
    sys.excepthook = report
    options = parse()
    trio.run(options.run, options)


if __name__ == "__main__":
    main()
