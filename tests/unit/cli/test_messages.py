"""Contacts, outbox, history, verify, exports: the commands in this process, with nobody at the other end."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from talos.cli import telling
from talos.cli.commands.send import MAX_BODY_BYTES
from talos.cli.exits import problem_of
from talos.cli.output import Output, size_text
from talos.cli.session import Session
from talos.errors import DeliveryFailed, MessageExpired, TransferFailed
from talos.identity import words
from talos.identity.did import key_of_peer_id
from talos.messaging.code import Code
from talos.messaging.files.code import FileCode

from .conftest import checked

if TYPE_CHECKING:
    from pathlib import Path

    from .conftest import Talos

BOB = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"
CAROL = "12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5"


@pytest.fixture
def alice(talos_: Talos) -> Talos:
    """Runs commands in a home that has an identity."""
    assert talos_("init", "--name", "Alice").code == 0
    return talos_


def rows(ran: Any) -> list[dict[str, Any]]:
    assert ran.code == 0, ran.err
    return [checked(line) for line in ran.out.splitlines()]


def test_the_life_of_a_contact(alice: Talos) -> None:
    address = f"/ip4/192.0.2.1/tcp/1/p2p/{BOB}"
    (added,) = rows(alice("contacts", "add", "bob", address, "--json"))
    assert (added["alias"], added["peer_id"], added["addrs"]) == ("bob", BOB, ["/ip4/192.0.2.1/tcp/1"])
    assert rows(alice("contacts", "list", "--json")) == [added]
    assert "/ip4/192.0.2.1/tcp/1" in alice("contacts", "show", "BOB").out
    assert json.loads(alice("id", "bob", "--json").out)["peer_id"] == BOB
    (renamed,) = rows(alice("contacts", "rename", BOB, "robert", "--json"))
    assert renamed == {**added, "alias": "robert"}
    assert alice("contacts", "block", "robert").code == 0
    assert alice("contacts", "block", CAROL).code == 0
    found = {row["peer_id"]: row for row in rows(alice("contacts", "list", "--json"))}
    assert {peer: (row["alias"], row["blocked"]) for peer, row in found.items()} == {
        BOB: ("robert", True),
        CAROL: (None, True),
    }
    assert "blocked" in alice("contacts", "list").out
    assert alice("contacts", "unblock", "robert").code == 0
    assert alice("contacts", "remove", "robert").code == 0
    assert alice("contacts", "show", "robert", "--json").error()["code"] == "peer_unknown"
    assert rows(alice("contacts", "pending", "--json")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "exit"),
    [
        (("contacts", "add", "Bob", CAROL), "name_taken", 9),
        (("contacts", "add", "robert", BOB), "name_taken", 9),
        (("contacts", "rename", "bob", "carol"), "name_taken", 9),
        (("contacts", "add", "not a name", CAROL), "usage", 2),
        (("contacts", "add", "talos1x", CAROL), "usage", 2),
        (("contacts", "show", CAROL), "peer_unknown", 2),
        (("send", "bbo", "x"), "peer_unknown", 2),
        (("send", "*", "x" * 32_769), "usage", 2),
        (("send", "#ops", "x" * 32_769), "usage", 2),
        (("send", "#two words", "x"), "usage", 2),
        (("history", "#"), "usage", 2),
        (("ping", "#ops", "-c", "1"), "peer_unknown", 2),
        (("ping", "*", "-c", "1"), "peer_unknown", 2),
        (("send", "bob", "x" * (MAX_BODY_BYTES + 1)), "usage", 2),
        (("send-file", "bob", "/nowhere/at/all"), "file_unusable", 5),
        (("verify", "QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk"), "failed", 1),
        (("chain",), "usage", 2),
    ],
)
def test_mistakes(alice: Talos, arguments: tuple[str, ...], code: str, exit: int) -> None:  # noqa: A002
    assert alice("contacts", "add", "bob", BOB).code == 0
    assert alice("contacts", "add", "carol", CAROL).code in {0, 9}
    if arguments[-1] == CAROL:
        assert alice("contacts", "remove", "carol").code == 0
    error = alice(*arguments, "--json").error()
    assert (error["code"], error["exit"]) == (code, exit)


def test_damaged_contacts_are_told(alice: Talos, home: Path) -> None:
    (home / "contacts.toml").write_text("[contact")
    (home / "contacts.toml").chmod(0o600)
    error = alice("contacts", "list", "--json").error()
    assert error["code"] == "config_invalid"
    assert "contacts.toml is damaged" in error["message"]


def test_eight_words(alice: Talos) -> None:
    own = json.loads(alice("id", "--json").out)["key_hex"]
    (found,) = rows(alice("verify", BOB, "--json"))
    assert tuple(found["words"]) == words.spoken(bytes.fromhex(own), key_of_peer_id(BOB))
    assert alice("verify", BOB).out == " ".join(found["words"]) + "\n"
    assert alice("verify", own, "--json").error()["code"] == "usage"


def test_a_message_waits_in_the_outbox_until_it_is_given_up(alice: Talos, home: Path) -> None:
    assert alice("contacts", "add", "bob", BOB).code == 0
    assert rows(alice("outbox", "list", "--json")) == []
    ran = alice("send", "bob", "where are you?", "--wait", "0", "--ttl", "3600", "--port", "0", "--json")
    assert ran.code == 75
    delivery = checked(ran.out)
    assert (delivery["state"], delivery["receipt"], delivery["latency_ms"]) == ("queued", None, None)
    assert checked(ran.err.splitlines()[-1])["code"] == "queued"
    (waiting,) = rows(alice("outbox", "list", "--json"))
    assert (waiting["id"], waiting["alias"], waiting["why"]) == (delivery["id"], "bob", "no_key")
    assert "its encryption key is not found yet" in alice("outbox").out
    (told,) = rows(alice("history", "--json"))
    assert (told["kind"], told["text"], told["state"], told["block"]) == ("message", "where are you?", "queued", None)
    assert alice("history").out.splitlines()[1] == f"{telling.INDENT}where are you?"
    assert rows(alice("history", "--search", "nothing like it", "--json")) == []
    assert rows(alice("history", "bob", "--search", "WHERE", "--json")) == [told]
    assert rows(alice("history", CAROL, "--json")) == []
    assert rows(alice("history", "--files", "--json")) == []
    assert "trying 1 peer" in alice("outbox", "retry", "bob").err
    assert alice("outbox", "retry", CAROL).code == 0
    assert alice("outbox", "cancel", delivery["id"]).code == 0
    assert alice("outbox", "cancel", delivery["id"], "--json").error()["code"] == "failed"
    assert alice("outbox", "cancel", "nonsense", "--json").error()["code"] == "usage"
    assert alice("contacts", "decline", CAROL).code == 0
    assert rows(alice("outbox", "list", "--json")) == []
    assert rows(alice("history", "--json"))[0]["state"] == "expired"
    assert (home / "messages.db").stat().st_mode & 0o777 == 0o600


def test_an_export_is_restored(alice: Talos, home: Path, tmp_path: Path) -> None:
    assert alice("contacts", "add", "bob", BOB).code == 0
    assert alice("send", "bob", "remember me", "--wait", "0", "--port", "0").code == 75
    secret, file = tmp_path / "secret", tmp_path / "backup"
    secret.write_text("correct horse\n")
    secret.chmod(0o600)
    sealed = ("--seal-file", str(secret))
    assert alice("wallet", "export", str(file), "--json").error()["code"] == "wallet_locked"
    assert alice("wallet", "export", str(file), "--history", *sealed).code == 0
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"remember me" not in file.read_bytes()
    assert alice("wallet", "export", str(file), *sealed, "--json").error()["code"] == "file_exists"
    assert alice("wallet", "restore", str(file), *sealed, "--json").error()["code"] == "identity_exists"
    other = ("--data-dir", str(tmp_path / "other"))
    assert alice(*other, "wallet", "restore", str(file), *sealed).code == 0
    assert alice(*other, "id", "--key").out == alice("id", "--key").out
    assert alice(*other, "contacts", "list").out == alice("contacts", "list").out
    assert [row["text"] for row in rows(alice(*other, "history", "--json"))] == ["remember me"]
    secret.write_text("another\n")
    error = alice("--data-dir", str(tmp_path / "third"), "wallet", "restore", str(file), *sealed, "--json").error()
    assert error["code"] == "wallet_locked"
    data = file.read_bytes()
    file.write_bytes(data[:200])
    secret.write_text("correct horse\n")
    assert alice("--data-dir", str(tmp_path / "third"), "wallet", "restore", str(file), *sealed).code == 5
    assert not (tmp_path / "third" / "wallet").exists()


MESSAGE: dict[str, Any] = {
    "id": "00" * 16, "direction": "in", "peer_id": BOB, "sent": "t", "received": None, "state": "received", "code": None,
    "type": "text", "media_type": "text/plain", "subject": None, "text": "", "cut": False, "name": None,
    "to_all": False, "channel": None, "reply_to": None, "size": 0, "mark": None, "entry": None, "block": None,
}  # fmt: skip
TRANSFER: dict[str, Any] = {
    "stream_id": "00" * 16, "direction": "in", "peer_id": BOB, "state": "complete", "code": None, "name": "x", "files": [],
    "file_count": 1, "path": "/downloads/x", "skipped": [], "done": 3, "total": 3, "rate_bps": None, "id": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"text": "hello"}, ["12D3KooWCwdo…1Mjs → me", "hello"]),
        ({"text": "a\n\nb"}, ["12D3KooWCwdo…1Mjs → me", "a", "", "b"]),
        ({"text": "a\rb\x85c\u2028d"}, ["12D3KooWCwdo…1Mjs → me", "a", "b", "c", "d"]),
        ({"text": ""}, ["12D3KooWCwdo…1Mjs → me", ""]),
        ({"text": "x", "cut": True, "size": 9}, ["12D3KooWCwdo…1Mjs → me", "x", "… 9 bytes in all: talos history"]),
        ({"text": "x", "mark": "gap"}, ["12D3KooWCwdo…1Mjs → me  (something before it is missing)", "x"]),
        ({"text": "x", "subject": "\x1b[2J" * 40}, [r'12D3KooWCwdo…1Mjs → me  "(\\x1b\[2J)*.{0,8}…"', "x"]),
        ({"direction": "out", "state": "delivered", "text": "x"}, ["me → 12D3KooWCwdo…1Mjs  delivered", "x"]),
        ({"text": None, "media_type": "image/png", "size": 7}, ["12D3KooWCwdo…1Mjs → me  image/png, 7 B"]),
        ({"type": "stream_start", "text": None, "name": "a\x07.txt"}, [r"12D3KooWCwdo…1Mjs → me  file a\\x07\.txt"]),
        ({"type": "64", "text": None}, ["12D3KooWCwdo…1Mjs → me  64, 0 B"]),
        ({"to_all": True, "text": "x"}, ["12D3KooWCwdo…1Mjs → all", "x"]),
        (
            {"to_all": True, "peer_id": None, "direction": "out", "state": "sent", "text": "x"},
            ["me → all  sent", "x"],
        ),
        ({"to_all": True, "channel": "ops", "text": "x"}, ["12D3KooWCwdo…1Mjs → #ops", "x"]),
    ],
)
def test_a_text_is_indented_below_its_header(
    home: Path, capsys: pytest.CaptureFixture[str], fields: dict[str, Any], shown: list[str]
) -> None:
    telling.tell_event(Session(data_dir=str(home)), "message", {**MESSAGE, **fields})
    header, *lines = capsys.readouterr().out.split("\n")[:-1]
    assert re.fullmatch(r"\d\d:\d\d:\d\d  " + shown[0].replace("(something before it is missing)", r"\(.*\)"), header)
    assert lines == [f"{telling.INDENT}{line}" for line in shown[1:]]


def test_events_are_objects_for_machines(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(data_dir=str(home), json=True)
    telling.tell_event(session, "message", {**MESSAGE, "text": "\x1b"})
    telling.tell_event(session, "transfer", TRANSFER)
    lines = capsys.readouterr().out.splitlines()
    assert [checked(line)["kind"] for line in lines] == ["message", "transfer"]


def test_transfers_are_told_when_something_is_decided(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = Session(data_dir=str(home))
    for state in ("offered", "transferring", "paused", "verifying", "complete"):
        telling.tell_event(session, "transfer", {**TRANSFER, "state": state})
    telling.tell_event(session, "transfer", {**TRANSFER, "state": "failed", "code": "no_space", "path": None})
    lines = [line[10:] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "12D3KooWCwdo…1Mjs → me  file x  3 B  offered  /downloads/x",
        "12D3KooWCwdo…1Mjs → me  file x  3 B  complete  /downloads/x",
        "12D3KooWCwdo…1Mjs → me  file x  3 B  failed  no_space",
    ]


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3_355_443, "3.2 MiB"), (1 << 41, "2048.0 GiB")]
)
def test_sizes(size: int, text: str) -> None:
    assert size_text(size) == text


def test_progress_is_drawn_on_terminals_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Output().progress(1, 2)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Output(quiet=True).progress(1, 2)
    Output(as_json=True).progress(1, 2)
    Output().progress(0, 0)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    Output().progress(1, 2)
    Output().progress(2, 2)
    assert capsys.readouterr().err == (
        "\r[############............] 1 B of 2 B \r[########################] 2 B of 2 B \n"
    )


@pytest.mark.parametrize(
    ("error", "code", "exit"),
    [
        (DeliveryFailed("x", code=Code.REFUSED), "refused", 3),
        (DeliveryFailed("x", code=Code.TOO_LARGE), "remote_failed", 6),
        (DeliveryFailed("x", code=Code.UNSUPPORTED), "remote_failed", 6),
        (MessageExpired("x"), "timeout", 4),
        (TransferFailed("x", code=FileCode.POLICY), "declined", 3),
        (TransferFailed("x", code=FileCode.TOO_LARGE), "declined", 3),
        (TransferFailed("x", code=FileCode.NO_SPACE), "remote_failed", 6),
        (TransferFailed("x", code=FileCode.SOURCE_CHANGED), "file_unusable", 5),
        (TransferFailed("x", code=FileCode.HASH_MISMATCH), "verification_failed", 8),
        (TransferFailed("x", code=FileCode.EXPIRED), "timeout", 4),
    ],
)
def test_why_nothing_arrived_decides_the_exit(error: Exception, code: str, exit: int) -> None:  # noqa: A002
    problem = problem_of(error)
    assert problem is not None
    assert (problem.code, problem.exit) == (code, exit)
