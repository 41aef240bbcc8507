"""One open chain: its store, its writer, its machine and what drives it. What own chains and replicas share."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from talos.chain.driver import Driver
from talos.chain.effects import Effect
from talos.chain.machine import ChainMachine, MachineConfig
from talos.chain.reading import Reading
from talos.chain.recording import Recorder
from talos.chain.writer import Writer

if TYPE_CHECKING:
    from talos.chain.config import ChainConfig
    from talos.chain.messages import Response
    from talos.chain.opening import OpenChain

__all__ = ["Core"]

EVENTS = 256

_log = logging.getLogger(__name__)


class Core:
    """Runs one chain; `run` is its task, and `close` lets go of its files."""

    def __init__(
        self,
        opened: OpenChain,
        config: ChainConfig,
    ) -> None:
        self.params = opened.params
        self.store = opened.store
        self.reading = opened.store.reading
        self.k_priv = opened.boxes.k_priv if opened.boxes is not None else None
        self.writer = Writer(self.store.append)
        self.serving = Reading.open(self.store.path)
        """For what is read in threads."""
        self.damaged = trio.Event()
        """A row was found that is not what was written."""
        token = trio.lowlevel.current_trio_token()
        for reading in (self.reading, self.serving):
            reading.on_damage = lambda: token.run_sync_soon(self._found_damage)
        self.serving_limit = trio.CapacityLimiter(1)
        pending = self.reading.pending()
        self.boxes = {row.key: row.box for row in pending}
        """What opens the own entries that wait for a block."""
        frozen = self.reading.meta("frozen")
        self.machine = ChainMachine(
            opened.params,
            self.reading,
            MachineConfig(
                bits=config.bits,
                seal_seconds=config.seal_seconds,
                seal_items=config.seal_items,
                seal_bytes=config.seal_bytes,
                mempool_items=config.mempool_items,
                mempool_bytes=config.mempool_bytes,
                sync=config.sync,
            ),
            opened.key,
            frozen_at=None if frozen is None else int.from_bytes(frozen, "big"),
            pending=[(row.entry, row.sealed) for row in pending],
        )
        self.machine.min_height = self.reading.number("min_height")
        self.machine.min_index = self.reading.number("min_index")
        self.machine.checkpoint = self.reading.checkpoint() or b""
        self.driver = Driver(
            opened,
            self.machine,
            self.writer,
            boxes=self.boxes,
            retry_seconds=config.retry_seconds,
        )
        self.driver.hears = self.tell
        self.recorder = Recorder(self.driver, self.store, self.writer, boxes=self.boxes, config=config)
        self._listeners: set[trio.MemorySendChannel[Effect]] = set()
        self.responses: dict[int, Response] = {}

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.recorder.run)
            nursery.start_soon(self.driver.run)

    def _found_damage(self) -> None:
        self.damaged.set()

    def close(self) -> None:
        """Writes what was handed over. Idempotent."""
        self.recorder.close()
        self.writer.close()
        self.serving.close()
        self.store.close()

    def tell(self, effect: Effect) -> None:
        """To all who listen; who is slow misses some."""
        for listener in self._listeners:
            try:
                listener.send_nowait(effect)
            except (trio.WouldBlock, trio.BrokenResourceError):
                _log.debug("somebody does not read the chain's events")

    def listen(self) -> trio.MemoryReceiveChannel[Effect]:
        """What happens from now on, at most 256 at a time; close it."""
        send, receive = trio.open_memory_channel[Effect](EVENTS)
        self._listeners = {one for one in self._listeners if one.statistics().open_receive_channels} | {send}
        return receive

    def answered(self, response: Response) -> None:
        self.responses[response.id] = response
