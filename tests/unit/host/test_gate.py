"""Gates and the block list."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from multiaddr import Multiaddr

from talos.abc import GateStep
from talos.errors import ConfigError, RefusedByGate
from talos.host import gate as gates
from talos.host.gate import BlockList
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from pathlib import Path

    from talos.abc import Event

PEER = PeerId.from_key(PrivateKey.from_seed(bytes(32)).public_key)
OTHER = PeerId.from_key(PrivateKey.from_seed(bytes(31) + b"1").public_key)
ADDR = Multiaddr("/ip4/5.6.7.8/tcp/1")


class Fixed:
    def __init__(self, answer: object) -> None:
        self.answer = answer

    def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer  # type: ignore[return-value]


def allows(gate: Fixed | BlockList, peer: PeerId | None = None, addr: Multiaddr = ADDR) -> bool:
    return gate.allow(GateStep.ACCEPT, peer, addr)


@pytest.mark.parametrize("answer", [False, None, 1, "yes", ValueError("broken")])
def test_anything_but_true_is_no(answer: object) -> None:
    told: list[Event] = []
    with pytest.raises(RefusedByGate, match="at accept"):
        gates.check(Fixed(answer), GateStep.ACCEPT, None, ADDR, told.append)
    with pytest.raises(RefusedByGate, match=str(PEER)):
        gates.check(gates.join(Fixed(True), Fixed(answer)), GateStep.SECURED_IN, PEER, ADDR, told.append)
    assert len(told) == (2 if isinstance(answer, Exception) else 0)


def test_no_gate_and_willing_gates_let_in() -> None:
    gates.check(None, GateStep.ACCEPT, None, ADDR, lambda _: None)
    gates.check(gates.join(Fixed(True), Fixed(True)), GateStep.ACCEPT, None, ADDR, lambda _: None)
    gates.check(gates.join(), GateStep.ACCEPT, None, ADDR, lambda _: None)


def test_peers_are_blocked_and_unblocked() -> None:
    block = BlockList()
    assert allows(block, PEER)
    block.block_peer(PEER)
    assert not allows(block, PEER)
    assert allows(block, OTHER)
    assert allows(block, None)
    block.unblock_peer(PEER)
    assert allows(block, PEER)


@pytest.mark.parametrize(
    ("prefix", "addr", "allowed"),
    [
        ("5.6.0.0/16", "/ip4/5.6.7.8/tcp/1", False),
        ("5.6.7.8", "/ip4/5.6.7.8/udp/1", False),
        ("5.7.0.0/16", "/ip4/5.6.7.8/tcp/1", True),
        ("5.6.0.0/16", "/ip6/::ffff:5.6.7.8/tcp/1", False),
        ("2001:db8::/32", "/ip6/2001:db8::1/tcp/1", False),
        ("2001:db8::/32", "/ip6zone/eth0/ip6/2001:db8::1/tcp/1", False),
        ("2001:db8::/32", "/memory/1", True),
        ("5.6.0.0/16", f"/ip4/5.6.7.8/tcp/1/p2p/{OTHER}/p2p-circuit", True),
    ],
)
def test_prefixes(prefix: str, addr: str, *, allowed: bool) -> None:
    block = BlockList()
    block.block_prefix(prefix)
    assert allows(block, None, Multiaddr(addr)) is allowed
    block.unblock_prefix(prefix)
    assert allows(block, None, Multiaddr(addr))


def test_a_block_list_is_kept_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "blocked"
    block = BlockList(path)
    assert not path.exists()
    block.block_peer(PEER)
    block.block_prefix("10.0.0.0/8")
    block.block_prefix("2001:db8::/32")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
    again = BlockList(path)
    assert again.peers == {PEER}
    assert again.prefixes == {"10.0.0.0/8", "2001:db8::/32"}
    again.unblock_peer(PEER)
    assert BlockList(path).peers == frozenset()


def test_a_change_that_cannot_be_written_is_not_in_force(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    block = BlockList(folder / "blocked")
    folder.rmdir()
    with pytest.raises(OSError, match="No such file"):
        block.block_peer(PEER)
    assert allows(block, PEER)


def test_a_failed_rename_leaves_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "blocked"
    block = BlockList(path)
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        block.block_peer(PEER)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["peer nobody\n", "prefix 10.0.0.1/8\n", "friend x\n", "peer a b\n", "peer \udcff\n"])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "blocked"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError):
        BlockList(path)


def test_blank_lines_are_nothing_and_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "blocked"
    path.write_bytes(b"\n  \n")
    assert BlockList(path).peers == frozenset()
    path.write_bytes(b"\n" * (gates.MAX_FILE_BYTES + 1))
    with pytest.raises(ConfigError, match="larger"):
        BlockList(path)


def test_a_wrong_prefix_is_refused() -> None:
    with pytest.raises(ConfigError, match="not an IP prefix"):
        BlockList().block_prefix("everybody")
