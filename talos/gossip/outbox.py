"""What waits to be sent to one peer: bounded, in the order of its worth, control given up first.

In this order: what the mesh hangs on (subscriptions, GRAFT, PRUNE: one state a topic, the newest), short-lived
control (IDONTWANT, IWANT), messages, announcements (IHAVE). Over its limits an outbox drops its oldest
announcement, then its oldest other control, then its oldest message; never the first kind.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from talos.gossip import wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.gossip.config import GossipLimits
    from talos.gossip.stats import RouterStats

__all__ = ["Outbox"]

_BATCH_BYTES = 60 * 1024
"""An RPC is closed at this size, so that its reader can begin; and 64 KiB are the most that rust-libp2p reads."""
_FRAME_BYTES = 16
"""Tags and lengths around the control part and the RPC."""


class Outbox:
    """Fragments of RPCs for one peer, put together when it can take them."""

    __slots__ = (
        "_announcements",
        "_first",
        "_limits",
        "_mesh",
        "_messages",
        "_prompt",
        "_stats",
        "_subscriptions",
        "_unwanted",
        "size",
    )  # fmt: skip

    def __init__(self, limits: GossipLimits, stats: RouterStats, unwanted: Callable[[bytes], bool]) -> None:
        """`unwanted` says of a message's id, at the last moment, that the peer has it."""
        self._limits = limits
        self._stats = stats
        self._unwanted = unwanted
        self._first: bytes | None = None
        self._subscriptions: dict[str, bool] = {}
        self._mesh: dict[str, bytes] = {}
        self._prompt: deque[bytes] = deque()
        self._messages: deque[tuple[bytes, bytes]] = deque()
        self._announcements: deque[bytes] = deque()
        self.size = 0
        """Bytes of what may be dropped."""

    def __len__(self) -> int:
        return len(self._prompt) + len(self._messages) + len(self._announcements)

    @property
    def has_messages(self) -> bool:
        """Whether messages wait."""
        return bool(self._messages)

    def hello(self, control: bytes | None) -> None:
        """`control` goes with the first RPC, and only with it."""
        self._first = control

    def subscribe(self, topic: str, *, wanted: bool) -> None:
        """Our subscription as it now is."""
        self._subscriptions[topic] = wanted

    def put_mesh(self, topic: str, control: bytes) -> None:
        """GRAFT or PRUNE; replaces what waits for the topic."""
        self._mesh[topic] = control

    def put_prompt(self, control: bytes) -> None:
        """IDONTWANT or IWANT."""
        self._prompt.append(control)
        self._added(len(control))

    def put_announcement(self, control: bytes) -> None:
        """IHAVE."""
        self._announcements.append(control)
        self._added(len(control))

    def put_message(self, message_id: bytes, fragment: bytes) -> None:
        """A message, as a field of an RPC."""
        self._messages.append((message_id, fragment))
        self._added(len(fragment))

    def _added(self, size: int) -> None:
        self.size += size
        while self.size > self._limits.outbox_bytes or len(self) > self._limits.outbox_messages:
            if self._announcements or self._prompt:
                self.size -= len((self._announcements or self._prompt).popleft())
                self._stats.dropped_control += 1
            else:
                self.size -= len(self._messages.popleft()[1])
                self._stats.dropped_messages += 1

    def take(self, max_bytes: int) -> bytes:
        """Whole RPCs behind their lengths, in all about `max_bytes`; nothing when nothing waits."""
        rpcs: list[bytes] = []
        size = 0
        while size < max_bytes and self._waiting() and (rpc := self._rpc()):
            rpcs.append(rpc)
            size += len(rpc)
        return rpcs[0] if len(rpcs) == 1 else b"".join(rpcs)

    def _waiting(self) -> bool:
        return bool(
            self._messages
            or self._prompt
            or self._announcements
            or self._mesh
            or self._subscriptions
            or self._first is not None
        )

    def _rpc(self) -> bytes:
        outer: list[bytes] = []
        control: list[bytes] = []
        if self._first is not None:
            control.append(self._first)
            self._first = None
        while self._subscriptions and len(outer) < self._limits.subscriptions:
            topic = next(iter(self._subscriptions))
            outer.append(wire.subscription(topic, wanted=self._subscriptions.pop(topic)))
        room = min(_BATCH_BYTES, self._limits.rpc_bytes) - self._take_control(control) - sum(map(len, outer))
        self._take_messages(outer, room, alone=not (outer or control))
        return wire.assemble(outer, control) if outer or control else b""

    def _take_control(self, control: list[bytes]) -> int:
        """Moves what fits the control part of an RPC; its size."""
        size, limit = _FRAME_BYTES, self._limits.control_bytes
        while self._mesh:
            topic = next(iter(self._mesh))
            size += len(self._mesh[topic])
            if size > limit and control:
                return size
            control.append(self._mesh.pop(topic))
        for queue in (self._prompt, self._announcements):
            while queue and (size + len(queue[0]) <= limit or not control):
                control.append(queue.popleft())
                size += len(control[-1])
                self.size -= len(control[-1])
        return size

    def _take_messages(self, outer: list[bytes], room: int, *, alone: bool) -> None:
        """Moves messages up to `room` bytes; `alone`: the first one in any case, for the RPC is empty."""
        limit = self._limits.messages
        while self._messages and limit:
            message_id, fragment = self._messages[0]
            if self._unwanted(message_id):
                self._stats.unwanted += 1
            elif len(fragment) <= room or alone:
                alone = False
                outer.append(fragment)
                room -= len(fragment)
                limit -= 1
            else:
                return
            self._messages.popleft()
            self.size -= len(fragment)
