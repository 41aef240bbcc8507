"""Messages between homes that find each other by the DHT alone: the commands that people type, as processes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.e2e.test_network_commands import LISTEN, NOBODY, SECONDS, Peer, checked, running, up

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ESCAPES = "\x1b]0;owned\x07\x1b[2Jhello\n12:00:00  bank → me\n\u202etxt.exe"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Peer, Peer, Peer]]:
    """A server that both know, and alice and bob, who have never heard of each other's addresses."""
    base = tmp_path_factory.mktemp("messages")
    with (
        running(base / "server", "server", *LISTEN) as server,
        up(base / "alice", "alice", server) as alice,
        up(base / "bob", "bob", server) as bob,
    ):
        for peer in (alice, bob):
            assert peer.run("wait", "--peers", "1").returncode == 0
        yield server, alice, bob


Network = tuple[Peer, Peer, Peer]


def texts(peer: Peer, *words: str) -> list[tuple[str, str | None]]:
    return [(row["direction"], row["text"]) for row in peer.rows("history", "--messages", *words)]


def test_a_message_and_its_answer(network: Network) -> None:
    _, alice, bob = network
    (named,) = alice.rows("contacts", "add", "bob", bob.peer_id)
    assert (named["alias"], named["peer_id"], named["addrs"]) == ("bob", bob.peer_id, [])
    listening = bob.start("listen", "--json")
    assert listening.stdout is not None
    assert checked(listening.stdout.readline())["kind"] == "status"

    (sent,) = alice.rows("send", "Bob", "I am online.")
    assert (sent["state"], sent["peer_id"], len(sent["receipt"])) == ("delivered", bob.peer_id, 128)
    heard = next(row for line in listening.stdout if (row := checked(line))["kind"] == "message")
    assert (heard["id"], heard["text"], heard["peer_id"]) == (sent["id"], "I am online.", alice.peer_id)
    listening.terminate()
    listening.communicate(timeout=SECONDS)

    done = bob.run("send", alice.peer_id, "-", "--reply-to", sent["id"], stdin=b"So am I.")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().startswith("✓ delivered to 12D3KooW")
    assert texts(alice, "bob") == [("out", "I am online."), ("in", "So am I.")]
    assert texts(bob, "--search", "ONLINE") == [("in", "I am online.")]
    answer = alice.rows("history", "--search", "so am")[0]
    assert (answer["reply_to"], answer["state"]) == (sent["id"], "received")


def test_what_is_said_to_all_is_heard_by_all(network: Network) -> None:
    _, alice, bob = network
    listening = bob.start("listen", "--json")
    assert listening.stdout is not None
    assert checked(listening.stdout.readline())["kind"] == "status"
    (sent,) = alice.rows("send", "*", "Tea is ready.")
    assert (sent["state"], sent["peer_id"], sent["receipt"]) == ("sent", None, None)
    heard = next(row for line in listening.stdout if (row := checked(line))["kind"] == "message")
    assert (heard["id"], heard["text"], heard["peer_id"]) == (sent["id"], "Tea is ready.", alice.peer_id)
    assert (heard["to_all"], heard["direction"]) == (True, "in")
    listening.terminate()
    listening.communicate(timeout=SECONDS)
    for peer in (alice, bob):
        (row,) = peer.rows("history", "--search", "tea is")
        assert (row["id"], row["to_all"], bool(row["entry"])) == (sent["id"], True, True)
    again = alice.run("send", "*", "-", stdin=b"Still ready.")
    assert again.stdout.decode().startswith("✓ sent to all")


def test_a_channel_is_for_those_who_listen_to_it(network: Network) -> None:
    _, alice, _ = network
    waits = alice.run("send", "#ops", "Anybody on duty?", "--wait", "0")
    assert waits.returncode == 75
    assert b"no neighbour hears it" in waits.stderr
    (row,) = alice.rows("history", "#ops")
    assert (row["text"], row["channel"], row["to_all"], row["state"]) == ("Anybody on duty?", "ops", True, "queued")
    assert all(row["channel"] is None for row in alice.rows("history", "*"))


def test_history_names_the_blocks_and_is_exported(network: Network, tmp_path: Path) -> None:
    _, alice, _ = network
    deadline = time.monotonic() + SECONDS
    while any(row["block"] is None for row in alice.rows("history", "--messages")):
        assert time.monotonic() < deadline, "messages come into blocks"
    file = tmp_path / "history.jsonl"
    assert alice.run("history", "--export", str(file)).returncode == 0
    rows = [checked(line) for line in file.read_bytes().splitlines()]
    assert {row["kind"] for row in rows} == {"message"}, "what the store tells is not told again by the chain"
    assert alice.run("chain", "verify").returncode == 0


def test_both_sides_read_the_same_words_aloud(network: Network) -> None:
    _, alice, bob = network
    (ours,), (theirs,) = alice.rows("verify", "bob"), bob.rows("verify", alice.peer_id)
    assert ours["words"] == theirs["words"]
    assert alice.error("verify", alice.peer_id)["code"] == "usage"


def test_what_a_peer_writes_drives_no_terminal(network: Network) -> None:
    _, alice, bob = network
    alice.rows("send", "bob", "-", "--subject", "\x1b[31mred", stdin=ESCAPES.encode())
    shown = bob.run("history", "--search", "owned")
    lines = shown.stdout.decode().splitlines()
    assert not set(shown.stdout.decode()) & set("\x1b\x07\u202e")
    assert "\\x1b]0;owned\\x07" in lines[1]
    assert [line.startswith("          ") for line in lines] == [False, True, True, True]


def test_files_arrive_whole_and_under_safe_names(network: Network, tmp_path: Path) -> None:
    _, alice, bob = network
    folder = tmp_path / "notes"
    folder.mkdir()
    data = bytes(range(256)) * 4000
    (folder / "a.bin").write_bytes(data)
    (folder / "link").symlink_to("/etc/passwd")
    done = alice.run("send-file", "bob", str(folder / "a.bin"), "--name", "../\x1b[31mred.bin")
    assert done.returncode == 0, done.stderr
    assert "verified by bob" in done.stdout.decode()
    offered, arrived = alice.rows("send-file", "bob", str(folder))
    assert (offered["state"], arrived["state"]) == ("offered", "complete")
    assert offered["skipped"] == ["link"]
    found = {path.name: path.read_bytes() for path in (bob.home / "downloads").rglob("*.bin")}
    assert found.pop("a.bin") == data
    ((name, content),) = found.items()
    assert content == data
    assert name.isprintable()
    assert [row["name"] for row in bob.rows("history", "--files") if row["kind"] == "message"][-1] == "notes"
    assert alice.error("send-file", "bob", str(tmp_path / "nothing"))["code"] == "file_unusable"


def test_a_pipe_arrives_under_its_name(network: Network) -> None:
    _, alice, bob = network
    data = bytes(range(256)) * 3000
    offered, arrived = alice.rows("send-file", "bob", "-", "--name", "dump.bin", stdin=data)
    assert (offered["name"], arrived["state"], arrived["total"]) == ("dump.bin", "complete", len(data))
    assert (bob.home / "downloads" / "dump.bin").read_bytes() == data
    assert list((alice.home / "outgoing").iterdir()) == [], "nothing is kept of what has arrived"
    assert alice.error("send-file", "bob", "-")["hint"] == "- --name NAME"
    assert alice.error("send-file", "bob", "-", "x", "--name", "y")["code"] == "usage"


def test_who_is_blocked_is_told_no(network: Network) -> None:
    _, alice, bob = network
    assert bob.run("contacts", "block", alice.peer_id).returncode == 0
    error = alice.error("send", "bob", "let me in")
    assert (error["code"], error["exit"]) == ("refused", 3)
    assert bob.run("contacts", "unblock", alice.peer_id).returncode == 0
    assert alice.rows("send", "bob", "thank you")[0]["state"] == "delivered"
    assert ("in", "let me in") not in texts(bob)


def test_a_message_waits_for_somebody_who_is_not_there(network: Network, tmp_path: Path) -> None:
    """It is in the outbox of a home that nobody runs, and goes when both are up again."""
    server, _, _ = network
    homes = {name: tmp_path / name for name in ("carol", "dave")}
    with up(homes["carol"], "carol", server) as carol:
        assert carol.run("wait", "--peers", "1").returncode == 0
    assert Peer(homes["dave"]).run("init", "--name", "dave").returncode == 0
    dave = Peer(homes["dave"])
    (homes["dave"] / "config.toml").write_text(f'[node]\nbootstrap = ["{server.addr}"]\n')
    (homes["dave"] / "config.toml").chmod(0o600)
    done = dave.run("send", carol.peer_id, "are you there?", "--wait", "1", "--json")
    assert done.returncode == 75
    assert checked(done.stdout)["state"] == "queued"
    assert checked(done.stderr.splitlines()[-1])["code"] == "queued"
    (waiting,) = dave.rows("outbox", "list")
    assert (waiting["peer_id"], waiting["state"]) == (carol.peer_id, "queued")

    (homes["carol"] / "config.toml").write_text('[messages]\nstrangers = "ask"\n')
    (homes["carol"] / "config.toml").chmod(0o600)
    with running(homes["carol"], "up", "--no-mdns", *LISTEN, "--bootstrap", server.addr) as carol:
        assert carol.run("wait", "--peers", "1").returncode == 0
        (kept,) = dave.rows("send", carol.peer_id, "hello again", "--until", "stored")
        assert (kept["state"], kept["receipt"]) == ("stored", None)
        assert texts(carol) == [], "whom carol has not let in says nothing to her"
        (stranger,) = carol.rows("contacts", "pending")
        assert stranger["messages"] == 2
        (let_in,) = carol.rows("contacts", "accept", stranger["peer_id"], "--name", "dave")
        assert (let_in["alias"], let_in["blocked"]) == ("dave", False)
        assert texts(carol, "dave") == [("in", "are you there?"), ("in", "hello again")]
        assert carol.rows("contacts", "pending") == []
        assert dave.rows("send", carol.peer_id, "thank you")[0]["state"] == "delivered"


def test_mistakes_are_told(network: Network) -> None:
    _, alice, _ = network
    assert alice.error("send", "bbo", "x")["hint"] == "did you mean bob?"
    assert alice.error("contacts", "add", "BOB", NOBODY)["code"] == "name_taken"
    assert alice.error("contacts", "add", "talos1x", NOBODY)["code"] == "usage"
    assert alice.error("outbox", "cancel", "00" * 16)["code"] == "failed"
