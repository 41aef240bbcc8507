"""Streams inside the process: /memory/<number>, with latency, loss and partitions where a test wants them.

A chunk that is lost is sent again after `retransmit_seconds`, as TCP would: what is behind it waits. Everything
random comes from the network's seed, everything timed from trio's clock, so a run under an autojump clock is exact.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import deque
from dataclasses import dataclass
from operator import index
from weakref import WeakKeyDictionary, WeakValueDictionary

import trio
from multiaddr import Multiaddr

from talos.abc import ByteTransport
from talos.addr import is_exactly
from talos.errors import ConfigError, DialError, ListenError

__all__ = ["Memory", "MemoryConfig", "MemoryListener", "MemoryNetwork", "MemoryStream"]

_FIRST_FREE_NUMBER = 1 << 32  # numbers that port 0 gives out, away from those that people type


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """How a memory network behaves."""

    latency_seconds: float = 0.0
    """From a send to the moment when it can be received, one way."""
    jitter_seconds: float = 0.0
    """Up to that much more, drawn for each chunk; order is kept."""
    loss: float = 0.0
    """Probability that a chunk is lost once; it may be lost again."""
    retransmit_seconds: float = 0.2
    """Delay of a lost chunk, doubling with each further loss: Linux' least retransmission time-out."""
    seed: int = 0
    """Of jitter and loss."""
    buffer_bytes: int = 256 * 1024
    """Sent and not yet received, each way; then `send_all` waits."""
    backlog: int = 128
    """Dialled and not yet accepted, each listener; then a dial is refused."""

    def __post_init__(self) -> None:
        delays = (self.latency_seconds, self.jitter_seconds, self.retransmit_seconds)
        if not all(math.isfinite(delay) and delay >= 0 for delay in delays):
            raise ConfigError("delays must be finite and not negative")
        if not 0 <= self.loss < 1:
            raise ConfigError(f"loss {self.loss} is not within 0 and 1")
        if self.buffer_bytes < 1 or self.backlog < 1:
            raise ConfigError("buffer and backlog must hold at least one")


class MemoryNetwork:
    """The listeners that reach each other, and the weather between them. Belongs to one event loop."""

    def __init__(self, config: MemoryConfig | None = None) -> None:
        self.config = config or MemoryConfig()
        self._random = random.Random(self.config.seed)  # noqa: S311
        self._listeners: WeakValueDictionary[int, MemoryListener] = WeakValueDictionary()
        self._numbers = itertools.count(_FIRST_FREE_NUMBER)
        self._islands: dict[str, int] = {}
        self._pipes: WeakKeyDictionary[_Pipe, None] = WeakKeyDictionary()  # keeps their order, unlike a WeakSet
        self._islands_changed = trio.lowlevel.ParkingLot()

    def partition(self, *islands: set[str]) -> None:
        """Cuts the places of one island off from all others; places in none of them form an island too.

        Between islands dials wait and what is sent stays on its way, until `heal` or another partition.
        """
        self._islands = {place: number for number, island in enumerate(islands, 1) for place in island}
        self._islands_changed.unpark_all()
        for pipe in list(self._pipes):
            pipe.wake()

    def heal(self) -> None:
        """Joins all islands again."""
        self.partition()

    def joined(self, one: str, other: str) -> bool:
        """Whether there is a way between two places."""
        return self._islands.get(one, 0) == self._islands.get(other, 0)

    async def wait_joined(self, one: str, other: str) -> None:
        """Waits until there is a way between two places; no checkpoint when there is."""
        while not self.joined(one, other):
            await self._islands_changed.park()

    def delay_seconds(self) -> float:
        """What the next chunk takes from one end to the other."""
        config = self.config
        delay = config.latency_seconds
        if config.jitter_seconds:
            delay += self._random.uniform(0, config.jitter_seconds)
        again = config.retransmit_seconds
        while config.loss and self._random.random() < config.loss:
            delay += again
            again *= 2
        return delay

    def free_number(self) -> int:
        """A number that nobody uses."""
        return next(self._numbers)

    def connect(self, source: str, target: str) -> _Pipe:
        """One direction of a connection between two places."""
        pipe = _Pipe(self, source, target)
        self._pipes[pipe] = None
        return pipe

    def add(self, listener: MemoryListener, number: int) -> None:
        """Takes a listener in; ListenError when the number has one."""
        if number in self._listeners:
            raise ListenError(f"/memory/{number}: address already in use")
        self._listeners[number] = listener

    def remove(self, listener: MemoryListener, number: int) -> None:
        """Forgets a listener."""
        if self._listeners.get(number) is listener:
            del self._listeners[number]

    def find(self, number: int) -> MemoryListener | None:
        """Who listens under `number`."""
        return self._listeners.get(number)


_PROCESS = MemoryNetwork()


class _Pipe:
    """One direction: chunks on their way, each with the time at which it can be received."""

    def __init__(self, network: MemoryNetwork, source: str, target: str) -> None:
        self._network = network
        self._places = (source, target)
        self._chunks: deque[tuple[float, bytes | None]] = deque()
        self._bytes = 0
        self._latest = 0.0
        self._changed = trio.lowlevel.ParkingLot()
        self._sending = False
        self._receiving = False
        self._ended = False
        self.send_closed = False
        self.receive_closed = False

    def wake(self) -> None:
        """Lets whoever waits look again."""
        self._changed.unpark_all()

    def _put(self, chunk: bytes | None) -> None:
        self._latest = max(self._latest, trio.current_time() + self._network.delay_seconds())
        self._chunks.append((self._latest, chunk))
        self._changed.unpark_all()

    def _check_send(self) -> None:
        if self.send_closed:
            raise trio.ClosedResourceError("this end was closed")
        if self.receive_closed:
            raise trio.BrokenResourceError("the other end was closed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            self._check_send()
            if self._ended:
                raise trio.ClosedResourceError("sending has ended")
            with memoryview(data) as view:
                position = 0
                while position < len(view):
                    if room := self._network.config.buffer_bytes - self._bytes:
                        chunk = bytes(view[position : position + room])
                        position += len(chunk)
                        self._bytes += len(chunk)
                        self._put(chunk)
                    else:
                        await self._changed.park()
                        self._check_send()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                if self.send_closed:
                    raise trio.ClosedResourceError("this end was closed")
                if self.receive_closed or self._bytes < self._network.config.buffer_bytes:
                    return
                await self._changed.park()
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None) -> bytes:
        if max_bytes is not None and index(max_bytes) < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while not self.receive_closed:
                if not self._chunks or not self._network.joined(*self._places):
                    await self._changed.park()
                elif (wait := self._chunks[0][0] - trio.current_time()) > 0:
                    with trio.move_on_after(wait):
                        await self._changed.park()
                else:
                    return self._take(max_bytes)
            raise trio.ClosedResourceError("this end was closed")
        finally:
            self._receiving = False

    def _take(self, max_bytes: int | None) -> bytes:
        arrival, chunk = self._chunks[0]
        if chunk is None:
            return b""
        if max_bytes is not None and len(chunk) > max_bytes:
            self._chunks[0] = arrival, chunk[max_bytes:]
            chunk = chunk[:max_bytes]
        else:
            self._chunks.popleft()
        self._bytes -= len(chunk)
        self._changed.unpark_all()
        return chunk

    def send_eof(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending")
        if self.send_closed:
            raise trio.ClosedResourceError("this end was closed")
        if not self._ended:
            self._ended = True
            self._put(None)

    def close_send(self) -> None:
        if not self.send_closed:
            self.send_closed = True
            if not self._ended:
                self._ended = True
                self._put(None)
            self._changed.unpark_all()

    def close_receive(self) -> None:
        self.receive_closed = True
        self._chunks.clear()
        self._bytes = 0
        self._changed.unpark_all()


class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a memory connection."""

    def __init__(self, sending: _Pipe, receiving: _Pipe, local_addr: Multiaddr, remote_addr: Multiaddr) -> None:
        self._sending = sending
        self._receiving = receiving
        self.local_addr = local_addr
        self.remote_addr = remote_addr

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Waits while the buffer is full."""
        await self._sending.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Waits while the buffer is full."""
        await self._sending.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """One chunk as it was sent, or as much of it as is wanted."""
        return await self._receiving.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Ends our direction."""
        self._sending.send_eof()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Closes both directions at once, without a checkpoint."""
        self._sending.close_send()
        self._receiving.close_receive()

    async def aclose(self) -> None:
        """Closes both directions; the other end reads what was sent and then the end."""
        self.close()
        await trio.lowlevel.checkpoint()


class MemoryListener:
    """A `ByteListener` inside the process."""

    def __init__(self, network: MemoryNetwork, number: int, place: str) -> None:
        self.addr = _addr(number)
        self.place = place
        self._network = network
        self._number = number
        self._send, self._receive = trio.open_memory_channel[MemoryStream](network.config.backlog)
        network.add(self, number)

    def offer(self, stream: MemoryStream) -> None:
        """Queues a dialled stream for `accept`; DialError when the backlog is full."""
        try:
            self._send.send_nowait(stream)
        except trio.WouldBlock:
            raise DialError(f"{self.addr}: connection refused, the backlog is full") from None

    async def accept(self) -> tuple[MemoryStream, Multiaddr]:
        """The next stream and the address of whoever dialled; ClosedResourceError after `aclose`."""
        stream = await self._receive.receive()
        return stream, stream.remote_addr

    async def aclose(self) -> None:
        """Stops listening; what was not yet accepted is closed."""
        self._network.remove(self, self._number)
        try:
            while True:
                self._receive.receive_nowait().close()
        except (trio.WouldBlock, trio.ClosedResourceError):
            pass
        self._receive.close()
        self._send.close()
        await trio.lowlevel.checkpoint()


class Memory(ByteTransport):
    """Dials and listens inside the process; `/memory/0` listens on a free number.

    Without a `network` it is the process's own, on which all such transports meet. `place` is where this end
    stands, for `MemoryNetwork.partition`.
    """

    def __init__(self, network: MemoryNetwork | None = None, place: str = "") -> None:
        self._network = network or _PROCESS
        self._place = place

    def matches(self, addr: Multiaddr) -> bool:
        """Whether it is a memory address and nothing else."""
        return is_exactly(addr, "memory")

    async def dial(self, addr: Multiaddr) -> MemoryStream:
        """Connects within one round trip; waits for ever across a partition."""
        network, number = self._network, _number(addr)
        await trio.sleep(network.delay_seconds() + network.delay_seconds())
        if (listener := network.find(number)) is not None:
            await network.wait_joined(self._place, listener.place)
            listener = network.find(number)
        if listener is None:
            raise DialError(f"{addr}: connection refused")
        here = _addr(network.free_number())
        there = network.connect(self._place, listener.place)
        back = network.connect(listener.place, self._place)
        listener.offer(MemoryStream(back, there, listener.addr, here))
        return MemoryStream(there, back, here, listener.addr)

    async def listen(self, addr: Multiaddr) -> MemoryListener:
        """Listens under that number; ListenError when somebody does already."""
        await trio.lowlevel.checkpoint()
        return MemoryListener(self._network, _number(addr) or self._network.free_number(), self._place)


def _addr(number: int) -> Multiaddr:
    return Multiaddr(f"/memory/{number}")


def _number(addr: Multiaddr) -> int:
    return int(str(addr).rpartition("/")[2])
