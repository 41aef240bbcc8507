"""What is piped in and sent as a file: over restarts, refusals, and pipes that never end."""

from __future__ import annotations

import stat
from typing import TYPE_CHECKING

import pytest
import trio

from talos.errors import LimitExceeded, TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.config import FileConfig
from tests.messaging.file_harness import Sender, noise, tree

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.conftest import MakeConfig


@pytest.fixture
def alice(memory_config: MakeConfig, tmp_path: Path) -> Sender:
    return Sender("Alice", tmp_path / "a", memory_config())


@pytest.fixture
def bob(memory_config: MakeConfig, tmp_path: Path) -> Sender:
    return Sender("Bob", tmp_path / "b", memory_config())


async def pieces(data: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        await trio.lowlevel.checkpoint()
        yield data[start : start + size]


async def endless(begun: trio.Event) -> AsyncIterator[bytes]:
    yield b"something"
    begun.set()
    await trio.sleep_forever()


def kept(person: Sender) -> list[str]:
    return sorted(path.name for path in (person.directory / "outgoing").iterdir())


async def test_what_is_piped_is_kept_until_it_has_arrived(alice: Sender, bob: Sender) -> None:
    """Also over a restart, when there is no pipe any more."""
    data = noise(50_000)
    async with alice.files_open() as from_alice:
        sent = await from_alice.send_piped(bob.peer, pieces(data), name="dump.bin")
        (name,) = kept(alice)
        file = alice.directory / "outgoing" / name
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    (file.parent / "of a run that was killed").write_bytes(data)
    async with alice.files_open() as from_alice, bob.files_open():
        assert kept(alice) == [name]
        alice.knows(bob)
        again = from_alice.transfer(sent.id)
        assert again is not None
        with trio.fail_after(60):
            await again.wait()
        assert kept(alice) == []
    assert tree(bob.downloads) == {"dump.bin": data}


async def test_nothing_is_kept_of_what_is_not_sent(alice: Sender, bob: Sender) -> None:
    small = FileConfig(total_bytes=10_000, transfers_per_peer=1)
    async with alice.files_open(small) as from_alice:
        with pytest.raises(TransferFailed, match="more than 10000 bytes") as caught:
            await from_alice.send_piped(bob.peer, pieces(bytes(10_001)), name="much")
        assert caught.value.code == FileCode.TOO_LARGE
        assert kept(alice) == []
        begun = trio.Event()
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                await from_alice.send_piped(bob.peer, endless(begun), name="endless")

            nursery.start_soon(send)
            await begun.wait()
            nursery.cancel_scope.cancel()
        assert kept(alice) == []
        await from_alice.send_piped(bob.peer, pieces(b"the one"), name="one")
        with pytest.raises(LimitExceeded):
            await from_alice.send_piped(bob.peer, endless(begun), name="two")
        assert len(kept(alice)) == 1


async def test_what_is_given_up_is_not_kept(alice: Sender, bob: Sender) -> None:
    async with alice.files_open() as from_alice:
        sent = await from_alice.send_piped(bob.peer, pieces(b"never mind"), name="never mind")
        assert len(kept(alice)) == 1
        await from_alice.cancel(sent.id)
        assert kept(alice) == []
