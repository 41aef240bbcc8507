"""Nodes that write to each other: each with its wallet, store and a log that signs real receipts."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import TYPE_CHECKING

import trio

from talos.abc import AuditReceipt, EntryKind, SignedReceipt
from talos.addr import split_peer
from talos.agent import open_host
from talos.chain.receipt import Receipt, check_receipt, sign_receipt
from talos.errors import AuditError
from talos.identity.wallet import Wallet
from talos.messaging.people import WalletKeys
from talos.messaging.service import open_messaging

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from talos.abc import AuditEntry, RecordStore
    from talos.host.config import NodeConfig
    from talos.host.node import Node
    from talos.identity.peer_id import PeerId
    from talos.messaging.config import MessagingConfig
    from talos.messaging.people import Acquaintances
    from talos.messaging.service import Messaging

START_MS = 1_790_000_000_000
_STARTED = time.monotonic_ns() // 1_000_000


class ReceiptLog:
    """An AuditLog in memory, whose receipts hold; `refuse` makes it say no."""

    def __init__(self, wallet: Wallet) -> None:
        self._wallet = wallet
        self.entries: dict[tuple[EntryKind, bytes], AuditEntry] = {}
        self.refuse = False

    async def record(self, entry: AuditEntry) -> AuditReceipt:
        await trio.lowlevel.checkpoint()
        if self.refuse:
            raise AuditError("the disk is full")
        key = (entry.kind, entry.msg_id)
        duplicate = key in self.entries
        self.entries.setdefault(key, entry)
        promise = self._promise(entry) if entry.kind is EntryKind.RECEIVED else None
        return AuditReceipt(sha256(entry.msg_id).digest(), duplicate=duplicate, promise=promise)

    async def record_many(self, entries: Sequence[AuditEntry]) -> Sequence[AuditReceipt]:
        return [await self.record(entry) for entry in entries]

    def check_receipt(
        self, receipt: SignedReceipt, *, msg_id: bytes, sealed_hash: bytes, sender: PeerId, receiver: PeerId
    ) -> None:
        check_receipt(receipt, msg_id=msg_id, sealed_hash=sealed_hash, sender=sender, receiver=receiver)

    def of(self, kind: EntryKind) -> list[bytes]:
        """Message ids of this kind, in order."""
        return [msg_id for entry_kind, msg_id in self.entries if entry_kind is kind]

    def _promise(self, entry: AuditEntry) -> SignedReceipt:
        receipt = Receipt(
            msg_id=entry.msg_id,
            sealed_hash=entry.sealed_hash,
            sender=entry.sender,
            receiver=entry.recipient,
            origin=b"",
            log_size_hint=0,
            received_ms=entry.time_ms,
        )
        return sign_receipt(receipt, self._wallet.identity)


class Clock:
    """Unix milliseconds that go with trio's clock, and can be put wrong."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def __call__(self) -> int:
        return START_MS + self.offset_ms + time.monotonic_ns() // 1_000_000 - _STARTED


@dataclass
class Person:
    """Somebody who writes and reads; `open` starts a node of the same identity, again and again."""

    name: str
    directory: Path
    config: NodeConfig
    wallet: Wallet = field(init=False)
    log: ReceiptLog = field(init=False)
    clock: Clock = field(default_factory=Clock)
    node: Node = field(init=False)
    messaging: Messaging = field(init=False)

    def __post_init__(self) -> None:
        self.wallet = Wallet.new(self.name, now_ms=START_MS - 1000)
        self.log = ReceiptLog(self.wallet)
        self.directory.mkdir(mode=0o700, exist_ok=True)

    @property
    def peer(self) -> PeerId:
        return self.wallet.peer_id

    @asynccontextmanager
    async def open(
        self,
        messages: MessagingConfig | None = None,
        *,
        people: Acquaintances | None = None,
        records: RecordStore | None = None,
    ) -> AsyncIterator[Messaging]:
        async with (
            open_host(replace(self.config, key=self.wallet.identity)) as self.node,
            open_messaging(
                self.node,
                WalletKeys(self.wallet),
                messages,
                directory=self.directory,
                audit=self.log,
                people=people,
                records=records,
                now_ms=self.clock,
            ) as self.messaging,
        ):
            yield self.messaging

    def knows(self, other: Person) -> None:
        """Has an address of the other one."""
        self.node.peerstore.add_addrs(other.peer, [split_peer(addr)[0] for addr in other.node.addrs])


async def texts(messaging: Messaging, count: int) -> list[str]:
    """The next so many that come."""
    found = []
    received = messaging.received()
    for _ in range(count):
        incoming = await received.receive()
        found.append(incoming.body.decode() + (f" ({incoming.mark})" if incoming.mark else ""))
    return found


async def until(reached: Callable[[], bool], seconds: float = 20.0) -> None:
    """Returns when it is so; the store's thread goes by real time."""
    with trio.fail_after(seconds):
        while True:
            if reached():
                return
            await trio.sleep(0.01)
