"""A home whose chain is lost gets it back from a peer who keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.test_network_commands import LISTEN, running, up

if TYPE_CHECKING:
    from pathlib import Path


def test_the_chain_comes_back_from_a_replica(tmp_path: Path) -> None:
    with running(tmp_path / "server", "server", *LISTEN) as server, up(tmp_path / "bob", "bob", server) as bob:
        (tmp_path / "alice").mkdir(mode=0o700)
        settings = f'[chain]\nreplicas = ["{bob.peer_id}"]\n[node]\nbootstrap = ["{server.addr}"]\n'
        config = tmp_path / "alice" / "config.toml"
        config.touch(mode=0o600)
        config.write_text(settings)
        with up(tmp_path / "alice", "alice", server) as alice:
            alice.rows("send", bob.peer_id, "remember this")
            (copied,) = bob.rows("chain", "sync", alice.addr)
            while copied["log_size"] < alice.rows("chain", "status")[0]["log_size"]:
                (copied,) = bob.rows("chain", "sync", alice.addr)
        database = tmp_path / "alice" / "chain" / "chain.db"
        size = database.stat().st_size
        with database.open("r+b") as file:  # the newer half is gone
            file.seek(size // 2)
            file.write(bytes(size - size // 2))
        assert alice.run("chain", "verify", "--full").returncode != 0
        assert alice.error("chain", "recover", "--from", server.addr)["exit"] != 0
        (saved,) = alice.rows("chain", "recover", "--from", bob.peer_id)
        assert (saved["reached"], saved["missing"]) == (True, [])
        assert saved["log_size"] >= copied["log_size"]
        assert alice.run("chain", "verify", "--full").returncode == 0
        assert alice.run("chain", "prove", "1").returncode == 0
