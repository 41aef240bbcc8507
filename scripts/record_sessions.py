"""Records what other implementations say to Talos, byte for byte: `python scripts/record_sessions.py [go js py rust]`.

Every session runs over tcp/noise/yamux with keys that are stored beside its bytes, so that the pure machines can live
through it again; `tests/vectors/transcript.py` does. A session is made anew only when a peer's version moves: what is
committed under `tests/vectors/recorded` is what that peer really sent on that day. With `--seeds` alone the inputs
that the fuzz targets get from the sessions are written again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from interop.adapters import prepare
from interop.operations import ECHO, serve_echo
from interop.peers.build import PEERS
from interop.process import dial, listener
from talos import open_host
from talos.abc import ByteTransport, PeerIdentified, Role, SecureChannel
from talos.addr import parse, split_peer
from talos.host.config import NodeConfig, Stack
from talos.identity.keys import PrivateKey
from talos.ping import ping
from talos.security.channel import open_channel
from talos.security.noise import NoiseConfig, wire
from talos.security.noise.machine import NoiseMachine
from talos.security.noise.xx import KeyPair
from talos.transport import Tcp
from tests.vectors.seeds import seeds_of
from tests.vectors.transcript import RECORDED, Session, load

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    from multiaddr import Multiaddr

    from interop.process import Adapter
    from talos.abc import ByteListener, Connection, Event, Host, ProtocolId
    from talos.identity.peer_id import PeerId

    Bytes = bytes | bytearray | memoryview

STACK = "tcp/noise/yamux"
LISTEN = "/ip4/127.0.0.1/tcp/0"
SESSION_SECONDS = 30.0
QUIET_SECONDS = 2.0
"""How long the peer has to ask who we are; not all do, and none has to."""
ABSENT = "/talos/absent/1.0.0"
"""Nobody speaks it: proposing it first shows how a peer refuses."""
OUR_ECHO = bytes(range(256)) * 5
LISTENED = {"ping": {"count": 4}, "echo": {"bytes": 1300}}
"""What each peer is told to do when it dials us, one session an operation."""
FUZZ_CORPUS = RECORDED.parents[2] / "fuzz" / "corpus"


class Tape:
    """What passed at one layer, in the order in which our side saw it."""

    def __init__(self) -> None:
        self.chunks: list[tuple[str, str]] = []

    def sent(self, data: Bytes) -> None:
        self.chunks.append(("sent", bytes(data).hex()))

    def received(self, data: Bytes) -> None:
        if data:
            self.chunks.append(("received", bytes(data).hex()))


class TapedStream(trio.abc.Stream):
    """A stream whose bytes are noted as they pass, with no checkpoint between the note and the pass."""

    def __init__(self, stream: trio.abc.Stream, tape: Tape) -> None:
        self._stream = stream
        self._tape = tape

    @property
    def local_addr(self) -> object:
        """Where the upgrade looks for this end."""
        return getattr(self._stream, "local_addr", None)

    async def send_all(self, data: Bytes) -> None:
        self._tape.sent(data)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._tape.received(data)
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


class TapedChannel(TapedStream, SecureChannel):
    """The same of a secure channel: plaintext."""

    def __init__(self, channel: SecureChannel, tape: Tape) -> None:
        super().__init__(channel, tape)
        self.remote_peer = channel.remote_peer
        self.remote_key = channel.remote_key
        self.early_muxer = channel.early_muxer


class Recorder:
    """The layers of one node that talks to one peer on one connection, and what they heard."""

    def __init__(self, adapter: Adapter, name: str, role: Role, operation: str) -> None:
        self.adapter, self.name, self.role, self.operation = adapter, name, role, operation
        self.raw, self.secure = Tape(), Tape()
        self.seeds = {part: _seed(name, part) for part in ("identity", "noise_static", "noise_ephemeral")}
        self.key = PrivateKey.from_seed(self.seeds["identity"])
        self.channel: SecureChannel | None = None

    def config(self, *listen: str) -> NodeConfig:
        stack = Stack(transports=(TapedTcp(self.raw),), security=(FixedNoise(self),))
        return NodeConfig(key=self.key, stack=stack, listen=tuple(map(parse, listen)))

    def session(self, facts: dict[str, Any] | None, remote: PeerId | None = None) -> Session:
        """All of it; `remote` is who the peer must have been, where we knew before."""
        assert self.channel is not None
        return Session.from_json(
            self.name,
            {
                "peer": self.adapter.name,
                "version": self.adapter.version,
                "recorded": datetime.now(UTC).date().isoformat(),
                "stack": STACK,
                "role": self.role.name.lower(),
                "operation": self.operation,
                "keys": {part: seed.hex() for part, seed in self.seeds.items()},
                "remote_peer": str(remote or self.channel.remote_peer),
                "early_muxer": self.channel.early_muxer,
                "identified": facts,
                "raw": self.raw.chunks,
                "secure": self.secure.chunks,
            },
        )


def _seed(name: str, part: str) -> bytes:
    return hashlib.sha256(f"talos recorded session {name} {part}".encode()).digest()


class TapedTcp(ByteTransport):
    """TCP with the tape in every connection."""

    def __init__(self, tape: Tape) -> None:
        self._tcp = Tcp()
        self._tape = tape

    def matches(self, addr: Multiaddr) -> bool:
        return self._tcp.matches(addr)

    async def dial(self, addr: Multiaddr) -> trio.abc.Stream:
        return TapedStream(await self._tcp.dial(addr), self._tape)

    async def listen(self, addr: Multiaddr) -> ByteListener:
        return TapedListener(await self._tcp.listen(addr), self._tape)


class TapedListener:
    """A `ByteListener` with the tape in every connection."""

    def __init__(self, listener: ByteListener, tape: Tape) -> None:
        self._listener = listener
        self._tape = tape
        self.addr = listener.addr

    async def accept(self) -> tuple[trio.abc.Stream, Multiaddr]:
        stream, addr = await self._listener.accept()
        return TapedStream(stream, self._tape), addr

    async def aclose(self) -> None:
        await self._listener.aclose()


class FixedNoise:
    """Noise for one handshake with keys that are known; its plaintext is taped too."""

    protocol_id = "/noise"

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    async def secure(
        self, stream: trio.abc.Stream, role: Role, expected: PeerId | None, *, muxers: Sequence[ProtocolId] = ()
    ) -> SecureChannel:
        recorder = self._recorder
        if recorder.channel is not None:
            raise RuntimeError("a second handshake: its keys were used already")
        static = KeyPair.from_bytes(recorder.seeds["noise_static"])
        key = recorder.key
        machine = NoiseMachine(
            dialer=role is Role.DIALER,
            static=static,
            ephemeral=KeyPair.from_bytes(recorder.seeds["noise_ephemeral"]),
            payload=wire.encode(key.public_key.to_bytes(), key.sign(wire.SIGNATURE_PREFIX + static.public), muxers),
            config=NoiseConfig(),
            muxers=muxers,
            expected=expected,
        )
        recorder.channel = TapedChannel(await open_channel(stream, machine), recorder.secure)
        return recorder.channel


class Heard:
    """What the host made of the session as it happened."""

    def __init__(self, host: Host) -> None:
        self.identified = trio.Event()
        self._host = host
        self._found: PeerIdentified | None = None

    def observe(self, event: Event) -> None:
        if isinstance(event, PeerIdentified):
            self._found = event
            self.identified.set()

    def as_json(self) -> dict[str, Any] | None:
        """What was learned of the peer; None when it went without a word."""
        found = self._found
        if found is None:
            return None
        return {
            "agent": found.agent_version,
            "protocol_version": found.protocol_version,
            "protocols": list(found.protocols),
            "listen_addrs": list(map(str, found.listen_addrs)),
            "observed_addr": str(found.observed_addr or ""),
            "signed_record": self._host.peerstore.signed_record(found.peer) is not None,
        }


@asynccontextmanager
async def hearing(host: Host) -> AsyncIterator[Heard]:
    serve_echo(host)
    heard = Heard(host)
    with host.observe(heard.observe):
        yield heard


async def record_dialing(adapter: Adapter, name: str) -> Session:
    """We dial: identify both ways, a ping, an echo, and an echo behind a proposal that is refused."""
    recorder = Recorder(adapter, name, Role.DIALER, "all")
    async with listener(adapter, STACK) as process, open_host(recorder.config()) as host, hearing(host) as heard:
        addr, peer = split_peer(parse(process.addr))
        connection = await host.connect(peer, [addr])
        await heard.identified.wait()
        with trio.move_on_after(QUIET_SECONDS):
            while not connection.stats.streams_in:  # noqa: ASYNC110 - a plain counter, nobody tells of its change
                await trio.sleep(0.01)
        await ping(host, connection)
        for protocols in ((ECHO,), (ABSENT, ECHO)):
            await _echo(host, connection, *protocols)
        facts = heard.as_json()
    return recorder.session(facts, peer)


async def _echo(host: Host, connection: Connection, *protocols: str) -> None:
    async with await host.open_stream(connection, *protocols) as stream:
        await stream.send_all(OUR_ECHO)
        await stream.send_eof()
        back = bytearray()
        while data := await stream.receive_some():
            back += data
    if back != OUR_ECHO:
        raise RuntimeError("the peer echoed other bytes")


async def record_listening(adapter: Adapter, name: str, operation: str) -> Session:
    """The peer dials us for one operation, and goes."""
    recorder = Recorder(adapter, name, Role.LISTENER, operation)
    async with open_host(recorder.config(LISTEN)) as host, hearing(host) as heard:
        await dial(adapter, str(host.addrs[0]), STACK, operation, LISTENED[operation])
        while host.connections:  # noqa: ASYNC110 - until its end is on the tape
            await trio.sleep(0.01)
        facts = heard.as_json()
    return recorder.session(facts)


async def record(peers: Sequence[str]) -> int:
    """Records every session of the peers that are there; 1 when one of them is not, or does not do what it should."""
    found = await prepare(peers)
    for name, reason in (found.absent | found.failed).items():
        print(f"{name}: {reason}", file=sys.stderr)
    for adapter in found.ready.values():
        sessions: dict[str, Callable[[str], Awaitable[Session]]] = {
            f"{adapter.name}_dialed": partial(record_dialing, adapter),
            **{
                f"{adapter.name}_dials_{operation}": partial(record_listening, adapter, operation=operation)
                for operation in LISTENED
            },
        }
        for name, recording in sessions.items():
            with trio.fail_after(SESSION_SECONDS):
                session = await recording(name)
            path = RECORDED / f"{name}.json"
            path.write_text(json.dumps(session.to_json(), indent=1) + "\n")
            print(f"{path.name}: {path.stat().st_size} bytes")
    return 1 if found.absent or found.failed else 0


def write_seeds(corpus: Path) -> None:
    """One set of fuzz inputs a peer, from the session in which it was dialled."""
    for path in sorted(RECORDED.glob("*_dialed.json")):
        session = load(path)
        for target, kinds in seeds_of(session).items():
            for kind, data in kinds.items():
                seed = corpus / target / f"recorded-{session.peer}{kind}"
                seed.parent.mkdir(parents=True, exist_ok=True)
                seed.write_bytes(data)


def main() -> int:
    """Records, then writes the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("peers", nargs="*", metavar="PEER", help=f"{', '.join(PEERS)}; all by default")
    parser.add_argument("--seeds", action="store_true", help="record nothing, only write the fuzz inputs")
    options = parser.parse_args()
    if unknown := set(options.peers) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    code = 0 if options.seeds else trio.run(record, options.peers or PEERS)
    write_seeds(FUZZ_CORPUS)
    return code


if __name__ == "__main__":
    sys.exit(main())
