"""Somebody with a valid identity and no scruples: says what it likes to a node, byte by byte."""

from __future__ import annotations

import secrets
import uuid
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import trio

from talos.agent import open_host
from talos.messaging.code import Code, MessageType
from talos.messaging.content import Text
from talos.messaging.envelope import OuterBody, Outgoing, seal_message
from talos.messaging.frames import MAX_FRAME_BYTES, PROTOCOL_ID, Deliver, Frame, Result, decode, encode
from talos.messaging.payload import Payload
from talos.messaging.seal import seal
from talos.wire.message_stream import MessageStream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from talos.host.node import Node
    from talos.identity.peer_id import PeerId
    from talos.identity.wallet import Wallet
    from tests.messaging.harness import Person

MARK = b"\x01\x01"


class Target(Protocol):
    """Whom the letters are for."""

    @property
    def wallet(self) -> Wallet: ...
    @property
    def peer(self) -> PeerId: ...
    @property
    def clock(self) -> Callable[[], int]: ...


class Mallory:
    """Writes envelopes by hand; `ask` brings them and gives the answers."""

    def __init__(self, wallet: Wallet, node: Node, victim: Target) -> None:
        self.wallet = wallet
        self.node = node
        self.victim = victim
        self.frames: MessageStream[Frame, Frame]

    @property
    def key_record(self) -> bytes:
        return self.wallet.key_record(self.victim.clock())

    def draft(self, **changes: object) -> Payload:
        made = Payload(
            id=uuid.uuid4().bytes,
            type=MessageType.TEXT,
            sender=self.wallet.identity.public_key.data,
            recipient=self.victim.wallet.identity.public_key.data,
            timestamp_ms=self.victim.clock(),
            epoch=1,
            seq=1,
        )
        return replace(made, **changes)  # type: ignore[arg-type]

    def seal(self, content: bytes | None = None, *, key_record: bytes | None = None, **changes: object) -> Outgoing:
        """A message as it should be, but for `changes` of its draft."""
        content = Text(body=b"hello").encode() if content is None else content
        return seal_message(
            self.draft(**changes),
            content,
            self.wallet.identity,
            self.victim.wallet.encryption[0].public(),
            key_record=self.key_record if key_record is None else key_record,
        )

    def wrap(self, payload: bytes, *, key_record: bytes | None = None, pad: bytes = b"") -> bytes:
        """The outer layer around any bytes."""
        body = OuterBody(payload, self.key_record if key_record is None else key_record).encode()
        plain = len(body).to_bytes(4, "big") + body + pad
        size = 1024
        while size < len(plain):
            size *= 2
        nonce = secrets.token_bytes(12)
        sealed = seal(
            self.victim.wallet.encryption[0].public(),
            b"talos/envelope/v1\n",
            MARK + self.victim.wallet.identity.public_key.data,
            plain + bytes(size - len(plain)),
            ephemeral=secrets.token_bytes(32),
            nonce=nonce,
        )
        return MARK + sealed.ephemeral + nonce + sealed.ciphertext

    async def connect(self) -> None:
        stream = await self.node.open_stream(self.victim.peer, PROTOCOL_ID)
        self.frames = MessageStream(stream, decode=decode, encode=encode, max_size=MAX_FRAME_BYTES)

    async def ask(self, envelope: bytes) -> Result:
        """The answer to an envelope that nothing else is asked about."""
        await self.frames.send(Deliver(envelope))
        answer = await self.frames.receive()
        assert isinstance(answer, Result)
        return answer

    async def ask_until_done(self, envelope: bytes) -> Result:
        """As `ask`, again while the node is busy with it."""
        with trio.fail_after(10):
            while True:
                answer = await self.ask(envelope)
                if answer.code != Code.BUSY:
                    return answer
                await trio.sleep(0.01)


@asynccontextmanager
async def mallory(wallet: Wallet, victim: Person) -> AsyncIterator[Mallory]:
    """With a connection to `victim` and a stream of messages."""
    async with open_host(replace(victim.config, key=wallet.identity)) as node:
        attacker = Mallory(wallet, node, victim)
        node.peerstore.add_addrs(victim.peer, [addr.decapsulate("/p2p") for addr in victim.node.addrs])
        await attacker.connect()
        yield attacker
