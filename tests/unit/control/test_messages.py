"""Operations over messages and files: two agents of two homes in one process."""

from __future__ import annotations

import base64
import time
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from talos import agent as agents
from talos.agent import Agent, AgentConfig, open_agent
from talos.control.arguments import Arguments
from talos.control.failure import Failure
from talos.control.operations import Emit
from talos.control.ops import files, messages
from talos.control.ops import wallet as wallets
from talos.errors import DeliveryFailed, MessageExpired, NotSupported, TransferFailed, WalletError
from talos.gossip import GossipConfig
from talos.identity import contacts, sealed, wallet
from talos.identity.contacts import AddressBook, Contact
from talos.identity.home import Home
from talos.identity.key_record import DAY_MS
from talos.identity.keyring import HomeKeys
from talos.identity.wallet import Wallet
from talos.messaging.code import MessageType
from talos.messaging.config import MessagingConfig, Strangers
from talos.messaging.files.config import Accept, FileConfig
from talos.messaging.store import MessageState
from tests.messaging.harness import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path


class Told(Emit):
    """An operation's events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [fields for told, fields in self.events if told == kind]


@pytest.fixture
def opened(tmp_path: Path, memory_config: Any) -> Callable[..., Any]:
    """Opens the agent of a home that is made first, for the length of a block."""

    @asynccontextmanager
    async def opened(name: str, told: Told, *, days: int = 0, **config: Any) -> AsyncIterator[Agent]:
        home = Home(tmp_path / name)
        home.prepare()
        now = time.time_ns() // 1_000_000 - days * DAY_MS
        wallet.create(home, Wallet.new(name, now_ms=now), None)
        keys = HomeKeys(home, *wallet.unlock_to_keep(home, pytest.fail))
        node = memory_config(key=keys.identity)
        settings = AgentConfig(
            node=node, wallet=keys.wallet, home=home, keys=keys, people=AddressBook(home.contacts), **config
        )
        with home.lock():
            async with open_agent(settings, told) as agent:
                yield agent

    return opened


BOTH: dict[str, Any] = {"messages": MessagingConfig(), "files": FileConfig()}
ASKS: dict[str, Any] = {
    "messages": MessagingConfig(strangers=Strangers.ASK),
    "files": FileConfig(accept=Accept.CONTACTS, ask=True),
}


def to(agent: Agent, **more: object) -> Arguments:
    addrs = [str(addr).rpartition("/p2p/")[0] or str(addr) for addr in agent.node.addrs]
    return Arguments({"peer": str(agent.peer_id), "addrs": addrs, **more})


def text(body: str) -> str:
    return base64.b64encode(body.encode()).decode()


@contextmanager
def refused(code: str) -> Iterator[None]:
    with pytest.raises(Failure) as caught:
        yield
    assert caught.value.code == code


async def test_a_message_to_all(opened: Callable[..., Any]) -> None:
    both: dict[str, Any] = {**BOTH, "gossip": GossipConfig()}
    bob_told = Told()
    all_of_us = Arguments({"peer": "*", "body_b64": text("hear"), "wait": 0})
    async with opened("alice", Told(), **both) as alice, opened("bob", bob_told, **both) as bob:
        with trio.fail_after(60):
            waiting = await messages.send(alice, all_of_us, Told())
            assert (waiting["state"], waiting["reached"], waiting["peer_id"]) == ("queued", False, None)
            await alice.node.connect(bob.peer_id, bob.node.addrs)
            sent = await messages.send(alice, Arguments({"peer": "*", "body_b64": text("hear")}), Told())
            assert (sent["state"], sent["reached"], sent["receipt"]) == ("sent", True, None)
            await until(lambda: len(bob_told.of("message")) == 2, 60)
        assert {(row["to_all"], row["peer_id"]) for row in bob_told.of("message")} == {(True, str(alice.peer_id))}
        assert alice.messaging is not None
        refusing = alice.messaging.outgoing(bytes.fromhex(str(sent["id"])))
        assert refusing is not None
        with pytest.raises(DeliveryFailed, match="size"):
            messages._check(replace(refusing.message, state=MessageState.FAILED, code=17))
    async with opened("carol", Told(), **BOTH) as carol:
        with pytest.raises(NotSupported):
            await messages.send(carol, all_of_us, Told())


async def test_a_message_and_a_file(opened: Callable[..., Any], tmp_path: Path) -> None:
    alice_told, bob_told = Told(), Told()
    (tmp_path / "a.txt").write_text("hello\n" * 1000)
    async with opened("alice", alice_told, **BOTH) as alice, opened("bob", bob_told, **BOTH) as bob:
        with trio.fail_after(20):
            told = Told()
            sent = await messages.send(alice, to(bob, body_b64=text("hello"), subject="greeting"), told)
            assert (sent["state"], sent["reached"], sent["peer_id"]) == ("delivered", True, str(bob.peer_id))
            asked = to(bob, paths=[str(tmp_path / "a.txt")])
            arrived = await files.send_file(alice, asked, told)
            assert (arrived["state"], arrived["reached"], arrived["done"]) == ("complete", True, 6000)
            assert told.of("transfer")[0]["state"] == "offered"
            assert told.of("progress")[-1] == {"done": 6000, "total": 6000}
        assert isinstance(alice.status()["outbox"], int)
        assert bob.status()["transfers"] == 0
        rows: Any = files.transfers(bob, {})["rows"]
        (row,) = rows
        assert (row["state"], row["direction"]) == ("complete", "in")
        assert files.transfers(bob, {"after": row["stream_id"]})["rows"] == []
        assert (bob.home.path / "downloads" / "a.txt").read_text() == "hello\n" * 1000
    (heard,) = bob_told.of("message")
    assert (heard["text"], heard["subject"], heard["direction"]) == ("hello", "greeting", "in")
    states = [fields["state"] for fields in bob_told.of("transfer")]
    assert states[-1] == "complete"
    assert len(states) == len(set(states)), "each state is told once"


async def test_strangers_wait_until_they_are_let_in(opened: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    async with opened("alice", Told(), **BOTH) as alice, opened("bob", Told(), **ASKS) as bob:
        with trio.fail_after(20):
            kept = await messages.send(alice, to(bob, body_b64=text("hello"), until="stored"), Told())
            assert (kept["state"], kept["receipt"]) == ("stored", None)
            waiting = await messages.send(alice, to(bob, body_b64=text("hello?"), wait=0), Told())
            assert waiting["reached"] is False
            contacts.change(bob.home.contacts, lambda known: known.adding(Contact(name="al", peer=str(alice.peer_id))))
            assert alice.messaging is not None
            await alice.messaging.post(bob.peer_id, MessageType.TEXT, b"")
            assert (await messages.admit(bob, to(alice), Told()))["messages"] in {1, 2}
            done = await messages.send(alice, to(bob, body_b64=text("thanks")), Told())
            assert done["state"] == "delivered"
            assert await files.answer_offers(bob, to(alice, accept=True), Told()) == {"offers": 0}


async def test_who_is_blocked_learns_it(opened: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    closed = {"messages": MessagingConfig(), "files": FileConfig(accept=Accept.NOBODY)}
    async with opened("alice", Told(), **BOTH) as alice, opened("bob", Told(), **closed) as bob:
        with trio.fail_after(20):
            with pytest.raises(TransferFailed, match=r"did not take a\.txt: policy"):
                await files.send_file(alice, to(bob, paths=[str(tmp_path / "a.txt")]), Told())
            contacts.change(bob.home.contacts, lambda known: known.blocking(str(alice.peer_id)))
            with pytest.raises(DeliveryFailed, match="takes none of this identity"):
                await messages.send(alice, to(bob, body_b64=text("hello")), Told())


async def test_what_waits_is_given_up(opened: Callable[..., Any]) -> None:
    nobody = Wallet.new("nobody", now_ms=0).peer_id
    async with opened("alice", Told(), **BOTH) as alice:
        asked = Arguments({"peer": str(nobody), "body_b64": text("hello"), "wait": 0})
        sent = await messages.send(alice, asked, Told())
        assert (sent["state"], sent["reached"]) == ("queued", False)
        assert await messages.retry(alice, Arguments({}), Told()) == {"peers": 1}
        assert await messages.retry(alice, Arguments({"peer": str(alice.peer_id)}), Told()) == {"peers": 0}
        assert await messages.cancel(alice, Arguments({"id": sent["id"]}), Told()) == {"id": sent["id"]}
        with refused("failed"):
            await messages.cancel(alice, Arguments({"id": sent["id"]}), Told())
        assert await messages.decline(alice, Arguments({"peer": str(nobody)}), Told()) == {}
        with pytest.raises(MessageExpired):
            messages._check(_only(alice))
        for wrong in ({"until": "forever"}, {"reply_to": "x"}, {"ttl": -1}, {"wait": -1}):
            with refused("usage"):
                asked = Arguments({"peer": str(nobody), "body_b64": text("hello"), **wrong})
                await messages.send(alice, asked, Told())
        for paths in ([], ["relative"]):
            with refused("usage"):
                await files.send_file(alice, to(alice, paths=paths), Told())


def _only(agent: Agent) -> Any:
    assert agent.messaging is not None
    (message,) = agent.messaging.history()
    assert message.state is MessageState.EXPIRED
    return message


async def test_without_a_record_there_are_no_messages(opened: Callable[..., Any]) -> None:
    async with opened("alice", Told(), audit=False, **BOTH) as alice:
        assert alice.messaging is None
        with pytest.raises(NotSupported, match="need a record"):
            messages.messaging_of(alice)
        with pytest.raises(NotSupported, match="need a record"):
            files.files_of(alice)


async def test_keys_turn_while_the_agent_runs(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begin = time.time_ns() // 1_000_000
    async with opened("alice", Told()) as alice:
        await trio.testing.wait_all_tasks_blocked()  # the agent's own turn, with nothing due
        first = alice.x25519_public
        await agents._turn_keys_once(alice)
        assert alice.x25519_public == first
        monkeypatch.setattr(agents, "_now_ms", lambda: begin + 31 * DAY_MS)
        await agents._turn_keys_once(alice)
        second = alice.x25519_public
        assert second != first
        assert wallet.unlock(alice.home, pytest.fail).encryption[0].public() == second
        monkeypatch.setattr(agents, "_now_ms", lambda: begin + 62 * DAY_MS)
        alice.home.unlock_key.write_bytes(bytes(32))
        monkeypatch.setattr(HomeKeys, "save", _full)
        await agents._turn_keys_once(alice)
        assert alice.x25519_public == second
        assert "the wallet cannot be written" in caplog.text


async def test_keys_turn_after_the_passphrase_was_changed(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sealed, "_MEMORY_KIB", 19 * 1024)
    monkeypatch.setattr(sealed, "_PASSES", 2)
    new = sealed.Passphrase.of("correct horse")
    begin = time.time_ns() // 1_000_000
    async with opened("alice", Told()) as alice:
        wallet.reseal(alice.home, wallet.unlock_to_keep(alice.home, pytest.fail)[1], new)
        with pytest.raises(WalletError):
            await wallets.reread(alice, Arguments({"passphrase_b64": text("wrong")}), Told())
        assert await wallets.reread(alice, Arguments({"passphrase_b64": text("correct horse")}), Told()) == {}
        monkeypatch.setattr(agents, "_now_ms", lambda: begin + 31 * DAY_MS)
        await agents._turn_keys_once(alice)
        assert wallet.unlock(alice.home, lambda: new).encryption[0].public() == alice.x25519_public


def _full(*_: object) -> None:
    raise OSError(28, "no space left")
