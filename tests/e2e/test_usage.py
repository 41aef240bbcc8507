"""The usage section of the requirement, line by line: ports, server, public keys; each line a process."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.e2e.test_network_commands import Peer, running

if TYPE_CHECKING:
    from pathlib import Path


def free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def ok(peer: Peer, *words: str) -> str:
    done = peer.run(*words)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout.decode()


def test_the_usage_section_line_by_line(tmp_path: Path) -> None:
    server_port, alice_port, bot_port, file_port = free_ports(4)
    alice, bot = Peer(tmp_path / "alice"), Peer(tmp_path / "bot")
    with running(tmp_path / "server", "server", "--port", server_port):
        ok(alice, "init", "--name", "Alice")
        ok(alice, "register", "--server", f"localhost:{server_port}")
        with running(alice.home, "listen", "--port", alice_port, "--no-mdns"):
            ok(bot, "init", "--name", "TalosBot")
            ok(bot, "register", "--server", f"localhost:{server_port}")
            key = ok(alice, "id", "--key").strip()
            assert "✓ delivered" in ok(bot, "send", "--port", bot_port, key, "I am online.")
            photo = tmp_path / "photo.jpg"
            photo.write_bytes(b"\xff\xd8\xff\xe0" + bytes(5000))
            assert "verified by" in ok(bot, "send-file", "--port", file_port, key, str(photo))
            assert (alice.home / "downloads" / "photo.jpg").read_bytes() == photo.read_bytes()
            assert "outbox 0" in ok(alice, "status")
            ok(alice, "peers")
    assert "I am online." in ok(alice, "history")
    assert "file photo.jpg" in ok(bot, "history")
