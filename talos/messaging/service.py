"""Messages between identities: sealed end to end, kept before they are sent, acknowledged by signed receipts."""

from __future__ import annotations

import logging
import math
import random as random_module
import time
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final, Literal

import trio

from talos.errors import EnvelopeRejected, LimitExceeded, LocalProtocolError, NotSupported, RecipientUnknown
from talos.host import log
from talos.host.block import background
from talos.messaging.broadcast import MAX_BODY_BYTES, Broadcasts
from talos.messaging.channel import check_channel
from talos.messaging.code import AckState, MessageType
from talos.messaging.composer import Composer
from talos.messaging.config import MessagingConfig
from talos.messaging.content import Ack, AckItem, Text
from talos.messaging.courier import Courier
from talos.messaging.database import open_database
from talos.messaging.frames import PROTOCOL_ID
from talos.messaging.guests import Guests
from talos.messaging.intake import Intake
from talos.messaging.keybook import KeyBook
from talos.messaging.lane import Express
from talos.messaging.letters import HistoryQuery, Incoming, Outgoing, incoming_of, matches
from talos.messaging.live.service import Live
from talos.messaging.people import Everybody
from talos.messaging.receiver import Receiver
from talos.messaging.rows import RowCipher
from talos.messaging.schedule import Priority
from talos.messaging.state import State
from talos.messaging.store import SCHEMA, MessageState, Store
from talos.messaging.turns import Turns
from talos.messaging.upkeep import Upkeep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from talos.abc import AuditLog, Host, PubSub, RecordStore
    from talos.identity.peer_id import PeerId
    from talos.messaging.handling import Handler
    from talos.messaging.live.receiving import IncomingStream
    from talos.messaging.live.sending import LiveStream
    from talos.messaging.payload import ChunkInfo
    from talos.messaging.people import Acquaintances, Keyring
    from talos.messaging.store import OutboxRow, StoredMessage, WaitingLetter

__all__ = ["HistoryQuery", "Incoming", "Messaging", "Outgoing", "open_messaging"]

_log = logging.getLogger(__name__)

PAGE = 256
EVERYBODY: Final = "*"


@asynccontextmanager
async def open_messaging(
    host: Host,
    keyring: Keyring,
    config: MessagingConfig | None = None,
    *,
    directory: Path,
    audit: AuditLog,
    records: RecordStore | None = None,
    pubsub: PubSub | None = None,
    people: Acquaintances | None = None,
    now_ms: Callable[[], int] | None = None,
    random: random_module.Random | None = None,
) -> AsyncIterator[Messaging]:
    """Messages of the host's identity for the length of the block; what waits in the outbox is tried at once.

    The store is `messages.db` in `directory`, which one process at a time may open: the caller holds its lock.
    A copy of it that is put back is noticed by the file `messages.run` beside it. StoreFailed when it cannot be opened.
    Later the store or the audit log may refuse to write: then nothing is sent or acknowledged until they do again.
    """
    log.install()
    if keyring.identity.public_key != host.key.public_key:
        raise LocalProtocolError("messages are sent under the identity of their host")
    clock = now_ms or (lambda: time.time_ns() // 1_000_000)
    with open_database(directory / "messages.db", SCHEMA) as database:
        store = Store(database, RowCipher(keyring.store_key))
        state = State(
            host=host,
            keyring=keyring,
            config=config or MessagingConfig(),
            audit=audit,
            store=store,
            book=KeyBook(host, keyring, store, records, clock),
            people=people or Everybody(),
            now_ms=clock,
            random=random or random_module.Random(),  # noqa: S311 - spreads retries
        )
        async with background() as nursery:
            messaging = Messaging(state, pubsub)
            nursery.start_soon(database.run)
            try:
                with ExitStack() as mounted:
                    await messaging.upkeep.begin(directory)
                    messaging.mount(mounted)
                    await messaging.start(nursery)
                    yield messaging
            finally:
                await messaging.leave()


class Messaging:
    """Made by `open_messaging`. Calls may come from several tasks."""

    _nursery: trio.Nursery

    def __init__(self, state: State, pubsub: PubSub | None) -> None:
        self._state = state
        self._received: trio.MemoryReceiveChannel[Incoming] | None = None
        self._taken = state.store.cursor()
        self._composer = Composer(state)
        self._turns = Turns(state)
        self._intake = Intake(state, self._composer, self._turns)
        self._courier = Courier(state, self._composer, self._intake.acks.take)
        self._receiver = Receiver(state, self._intake)
        self.upkeep = Upkeep(state, self._composer, self._intake)
        self._guests = Guests("messages")
        self._live = Live(self, state)
        self._broadcasts = None if pubsub is None else Broadcasts(state, self._composer, self._intake, pubsub)

        self._composer.written = self._courier.wake
        state.book.learned = self._courier.hear_of

    def mount(self, stack: ExitStack) -> None:
        """Serves for the length of the stack; `open_messaging` does."""
        host = self._state.host
        serve = partial(self._guests.inside, self._receiver.serve)
        stack.enter_context(host.mounted(PROTOCOL_ID, serve, limited=True))
        self._live.mount(stack)
        stack.enter_context(self._state.book.serving())
        stack.enter_context(host.observe(self._courier.observe))

    async def leave(self) -> None:
        """Ends what peers have begun; `open_messaging` does."""
        self._live.leave()
        await self._guests.leave()

    async def start(self, nursery: trio.Nursery) -> None:
        """Begins what runs in the background; `open_messaging` does."""
        self._nursery = nursery
        self._live.start(nursery)
        nursery.start_soon(self._turns.run)
        nursery.start_soon(self._courier.run)
        nursery.start_soon(self._state.patiently, self._courier.expire)
        nursery.start_soon(self._state.patiently, self.upkeep.run)
        if self._broadcasts is not None:
            nursery.start_soon(self._state.patiently, self._broadcasts.run)
            await nursery.start(self._broadcasts.listen)

    # ------------------------------------------------------------------------------- sending

    async def send(
        self,
        to: PeerId | Literal["*"],
        body: str | bytes,
        *,
        media_type: str = "text/plain",
        ttl_s: int = 0,
        reply_to: bytes = b"",
        subject: str = "",
        channel: str = "",
    ) -> Outgoing:
        """A text that is durable and recorded on return; it is delivered when that can be, within 14 days or `ttl_s`.

        To everybody (`*`) it is open to all, published when a neighbour listens, within ten minutes, and acknowledged
        by nobody; NotSupported without gossip. With `channel` it is for all who listen under that name.

        LocalProtocolError for a body over 64 KiB (32 KiB to everybody) or what else is too long, RecipientUnknown for a
        peer that cannot have messages, LimitExceeded where the outbox is full, AuditError where nothing is recorded:
        then nothing is sent. Cancelled, it may have been written already, and is sent then.
        """
        data = body.encode() if isinstance(body, str) else body
        content = Text(body=data, media_type=media_type, reply_to=reply_to, subject=subject).encode()
        try:
            Text.decode(content)
        except EnvelopeRejected as error:
            raise LocalProtocolError(f"not a letter: {error}; files are for more") from error
        if to != EVERYBODY:
            if channel:
                raise LocalProtocolError("a channel is for everybody who listens to it, not for one peer")
            return await self.post(to, MessageType.TEXT, content, ttl_s=ttl_s)
        if len(data) > MAX_BODY_BYTES:
            raise LocalProtocolError(f"a broadcast of {len(data)} bytes; {MAX_BODY_BYTES} fit")
        return await self.announce(MessageType.TEXT, content, ttl_s=ttl_s, channel=channel)

    async def announce(self, message_type: int, content: bytes, *, ttl_s: int = 0, channel: str = "") -> Outgoing:
        """As `send` to everybody, for content of any type but those of streams. NotSupported without gossip."""
        if self._broadcasts is None:
            raise NotSupported("messages to everybody go over gossip, which is off")
        if channel:
            check_channel(channel)
        sent = await self._broadcasts.send(message_type, content, ttl_s=ttl_s, channel=channel)
        return Outgoing(self._state, sent)

    async def post(self, to: PeerId, message_type: int, content: bytes, *, ttl_s: int = 0) -> Outgoing:
        """As `send`, for content of any counted type."""
        message = await self._composer.post(to, message_type, content, ttl_s=ttl_s)
        return Outgoing(self._state, message)

    async def post_now(
        self,
        to: PeerId,
        message_type: int,
        content: bytes,
        *,
        chunk_info: ChunkInfo | None = None,
        priority: Priority = Priority.CONTROL,
        deadline: float = math.inf,
        answered: Callable[[int | None], None] | None = None,
    ) -> None:
        """Sends what is neither counted nor kept, once: a chunk of a live stream, an acknowledgement.

        RecipientUnknown while no key of `to` is known, LimitExceeded when too many of its priority wait: REALTIME drops
        the oldest instead. Past `deadline`, on trio's clock, it is not sent. `answered` is told what the peer says of
        it, or None.
        """
        record = self._state.book.known(to) or await self._state.book.find(to)
        if record is None:
            raise RecipientUnknown(f"no encryption key of {to} is known")
        envelope = self._composer.sealed_now(to, record, message_type, content, chunk_info)
        self._courier.express(to, Express(envelope, answered), priority, deadline=deadline)

    async def open_live(
        self,
        to: PeerId,
        *,
        codec: str = "identity",
        media_type: str = "application/octet-stream",
        deadline_seconds: float | None = None,
        name: str = "",
    ) -> LiveStream:
        """A live stream to `to`, once its reader has accepted it; chunks are sealed like letters and kept by nobody.

        With `deadline_seconds` chunks that wait longer are dropped, as of speech or pictures; without, all arrive, in
        order, and the sender waits for the reader. Cancel it to stop waiting for the answer. TransferFailed when it is
        declined; ConfigError or NotSupported for a codec that is not there, and what `post` raises.
        """
        return await self._live.open(
            to, codec=codec, media_type=media_type, deadline_seconds=deadline_seconds, name=name
        )

    def streams(self) -> trio.MemoryReceiveChannel[IncomingStream]:
        """Live streams that peers open to us, accepted already; without a reader all are declined.

        The same channel at each call until it is closed.
        """
        return self._live.streams()

    async def pace(self, to: PeerId, size: int) -> None:
        """Waits until so many bytes of a file may go to `to` beside the messages, by their priorities."""
        await self._courier.pace(to, size)

    def outgoing(self, message_id: bytes) -> Outgoing | None:
        """A message of ours, to wait for what becomes of it; None where there is none."""
        message = self._state.store.message(self._state.me, message_id)
        return None if message is None else Outgoing(self._state, message)

    def outbox(self) -> list[OutboxRow]:
        """The first thousand of what waits."""
        return self._state.store.outbox(limit=1000)

    def at(self, number: int) -> StoredMessage | None:
        """The message of an outbox row."""
        return self._state.store.message_at(number)

    def retry(self, to: PeerId) -> None:
        """Tries now what waits for this peer, also what was to wait longer."""
        store, now = self._state.store, self._state.now_ms()
        store.database.write_soon(lambda c: store.set_due(c, to, now), then=partial(self._courier.wake, to))

    async def cancel(self, message_id: bytes) -> bool:
        """Gives up a message that is not delivered; False when it is, or there is none."""
        message = self._state.store.message(self._state.me, message_id)
        if message is None or not message.state.may_become(MessageState.EXPIRED):
            return False
        if message.payload.to_all and message.state is MessageState.SENT:
            return False
        return await self._state.settle(message, MessageState.EXPIRED)

    # ------------------------------------------------------------------------------- receiving

    @contextmanager
    def handling(self, message_type: int, handler: Handler) -> Iterator[None]:
        """Asks `handler` what becomes of messages of this type, for the length of the block.

        It is asked when the message is durable and recorded, until it has given a verdict, which is kept. What it
        raises is contained, and it is asked again when the peer tries again. Types of streams may have several
        handlers, as files and live ones share them: None says that it is about something of another one.
        """
        with self._intake.handlers.handling(message_type, handler):
            yield

    def received(self) -> trio.MemoryReceiveChannel[Incoming]:
        """Texts in their turn, from where the last reader stopped; nothing is dropped, what is not taken waits.

        The same channel at each call until it is closed. After a crash the last ones taken may come again.
        """
        if self._received is None:
            incoming, self._received = trio.open_memory_channel[Incoming](0)
            self._nursery.start_soon(self._feed, incoming)
        return self._received

    async def _feed(self, incoming: trio.MemorySendChannel[Incoming]) -> None:
        store = self._state.store
        while True:
            arrival = self._state.watch.arrival
            for turn, message in store.shown(self._taken, PAGE):
                if message.payload.type == MessageType.TEXT and not message.wiped:
                    try:
                        await incoming.send(incoming_of(message))
                    except trio.BrokenResourceError:
                        self._received = None
                        return
                self._taken = turn
                store.database.write_soon(partial(store.set_cursor, turn=turn))
            if not store.shown(self._taken, 1):
                await arrival.wait()

    async def mark_read(self, sender: PeerId, message_id: bytes) -> None:
        """The owner has seen it; its sender is told where the configuration says so."""
        state = self._state
        key = sender.public_key()
        message = None if key is None else state.store.message(key.data, message_id)
        if message is None or not message.incoming or message.read_ms:
            return
        now = state.now_ms()
        await state.store.database.write(lambda c: state.store.change(c, message.number, read_ms=now))
        if state.config.read_receipts and not message.payload.to_all:
            item = AckItem(id=message.id, digest=message.digest, state=AckState.READ)
            try:
                await self.post_now(sender, MessageType.ACK, Ack((item,)).encode())
            except (RecipientUnknown, LimitExceeded) as error:
                _log.debug("%s is not told of the reading: %s", sender, error)

    def waiting(self) -> list[WaitingLetter]:
        """Letters of strangers who have not been let in."""
        return self._state.store.waiting()

    async def admit(self, peer: PeerId) -> int:
        """Takes in what waits of a stranger, who is told; returns how many letters. Make it a contact first."""
        acks = await self._intake.admit(peer)
        for ack in acks:
            self._courier.express(peer, Express(ack))
        return len(acks)

    async def decline(self, peer: PeerId) -> None:
        """Throws away what waits of a stranger, who may try again: only blocking ends that."""
        store = self._state.store
        for letter in store.waiting(peer):
            await store.database.write(partial(store.remove_waiting, number=letter.number))

    # ------------------------------------------------------------------------------- looking

    def history(self, query: HistoryQuery | None = None) -> Iterator[StoredMessage]:
        """Messages both ways; read page by page, so that it may be stopped at any time."""
        query = query or HistoryQuery()
        after, before = 0, None if query.oldest_first else 2**62
        while page := self._state.store.messages(after=after, before=before, peer=query.peer, limit=PAGE):
            yield from (message for message in page if matches(message, query))
            if query.oldest_first:
                after = page[-1].number
            else:
                before = page[-1].number

    def message(self, message_id: bytes, *, sender: PeerId | None = None) -> StoredMessage | None:
        """One of ours, or of `sender`."""
        key = None if sender is None else sender.public_key()
        return self._state.store.message(self._state.me if key is None else key.data, message_id)

    def status(self) -> dict[str, object]:
        """Where things stand, in plain values."""
        return {"outbox": self._state.store.outbox_size(), "waiting": len(self._state.store.waiting())}
