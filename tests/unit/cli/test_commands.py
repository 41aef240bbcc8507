"""init, id, wallet and mcp-config: their answers, their exits, their files."""

from __future__ import annotations

import json
import os
import shlex
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from talos.cli import passphrase
from talos.cli.exits import Failure
from talos.cli.session import Session
from talos.identity import private_file, wallet, words
from talos.identity.home import Home
from talos.identity.sealed import Kdf, Passphrase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.cli.conftest import Talos

PEER = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"
ROOT_WORDS = " ".join(words.encode(bytes(range(32))))


@pytest.fixture
def passphrase_file(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    private_file.write(path, b"correct horse\n")
    return path


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Somebody is there, and types these lines."""
    typed: list[str] = []
    monkeypatch.setattr(Session, "interactive", property(lambda session: not session.no_input))
    monkeypatch.setattr("getpass.getpass", lambda prompt: typed.pop(0))
    yield typed
    assert not typed


def modes(home: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in home.iterdir()}


# -- init -----------------------------------------------------------------------------------------------


def test_init_makes_an_identity_once(talos_: Talos, home: Path) -> None:
    made = talos_("init", "--name", "Alice")
    assert made.code == 0
    assert made.out.startswith('Created "Alice"  12D3KooW')
    assert made.out.endswith(f"   in {home}\n")
    assert "only file permissions protect the wallet" in made.err
    assert "talos wallet words" in made.err
    again = talos_("--json", "init", "--name", "Eve")
    assert again.error()["code"] == "identity_exists"
    assert again.code == 9
    assert "--data-dir DIR" in again.error()["hint"]
    assert modes(home) == {0o600}


def test_init_never_shows_the_words_on_a_pipe(talos_: Talos, home: Path) -> None:
    made = talos_("init", "--name", "Alice")
    shown = " ".join(wallet.unlock(Home(home), pytest.fail).words())
    assert shown not in made.out + made.err


def test_init_as_json(talos_: Talos) -> None:
    made = talos_("init", "--name", "Alice", "--json").object()
    assert (made["name"], made["addrs"]) == ("Alice", [])
    assert made == talos_("id", "--json").object()


def test_init_under_umask_000_is_private(talos_: Talos, home: Path, passphrase_file: Path) -> None:
    before = os.umask(0)
    try:
        assert talos_("init", "--name", "A", "--passphrase-file", str(passphrase_file)).code == 0
    finally:
        os.umask(before)
    assert modes(home) == {0o600}
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


def test_init_recovers_the_identity_from_words(talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(ROOT_WORDS.upper()))
    made = talos_("init", "--name", "Alice", "--recover")
    assert "12D3KooWJgUWt5wZCBtN6cyNqDDBTuN8SqnzX4LgHe8YAv6BugXZ" in made.out
    assert made.out.startswith("Recovered")


@pytest.mark.parametrize("text", ["", "abandon " * 24, ROOT_WORDS.replace("liar", "talos"), "x" * 2000])
def test_init_refuses_wrong_words_and_makes_nothing(
    talos_: Talos, home: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    import io

    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert talos_("--json", "init", "--name", "A", "--recover").error()["exit"] == 5
    assert not Home(home).wallet.exists()


def test_init_asks_for_words_on_a_terminal(talos_: Talos, terminal: list[str]) -> None:
    terminal.append(ROOT_WORDS)
    assert "12D3KooWJgUWt5w" in talos_("init", "--name", "A", "--recover").out


@pytest.mark.parametrize("name", ["", "a\x1b[31m", "é" * 33, " a"])
def test_init_refuses_names(talos_: Talos, home: Path, name: str) -> None:
    assert talos_("--json", "init", "--name", name).error()["code"] == "config_invalid"
    assert not home.exists()


def test_init_needs_a_name(talos_: Talos) -> None:
    refused = talos_("init")
    assert refused.code == 2
    assert refused.err == "talos: error: missing option '--name'\ntalos: hint: talos init --help\n"


def test_init_with_a_passphrase_that_is_asked(talos_: Talos, home: Path, terminal: list[str]) -> None:
    terminal += ["one", "one"]
    assert talos_("init", "--name", "A", "--passphrase").code == 0
    assert wallet.kdf(Home(home)) is Kdf.PASSPHRASE
    terminal += ["one"]
    assert talos_("wallet", "words").code == 2  # not on a terminal: asked for nothing
    terminal.clear()


def test_init_with_two_different_passphrases(talos_: Talos, home: Path, terminal: list[str]) -> None:
    terminal += ["one", "two"]
    assert "differ" in talos_("init", "--name", "A", "--passphrase").err
    assert not Home(home).wallet.exists()


def test_init_with_a_passphrase_and_nobody_to_ask(talos_: Talos) -> None:
    assert talos_("init", "--name", "A", "--passphrase", "--json").error()["code"] == "wallet_locked"


def test_there_is_no_way_to_write_a_passphrase_on_the_command_line(talos_: Talos) -> None:
    assert talos_("init", "--name", "A", "--passphrase", "secret").code == 2
    assert talos_("init", "--name", "A", "--passphrase=secret").code == 2


@pytest.mark.parametrize("name", ["wallet", "wallet.key", "identity.json", "."])
def test_open_files_are_refused_with_the_chmod_to_run(talos_: Talos, home: Path, name: str) -> None:
    talos_("init", "--name", "A")
    (home / name).chmod(0o755)
    command = "id" if name in ("identity.json", ".") else "mcp-serve"
    options = ("--command", "cat", "--authorized-peer", PEER) if command == "mcp-serve" else ()
    refused = talos_("--json", command, *options).error()
    assert (refused["code"], refused["exit"]) == ("wallet_open", 5)
    assert shlex.split(refused["hint"])[::2] == ["chmod", str(home / name) if name != "." else str(home)]


# -- id -------------------------------------------------------------------------------------------------


def test_id_without_an_identity(talos_: Talos, home: Path) -> None:
    refused = talos_("id", "--json").error()
    assert (refused["code"], refused["hint"]) == ("no_identity", "talos init --name YOU")
    home.mkdir(0o700)
    assert talos_("id", "--json").error()["code"] == "no_identity"


def test_id_in_every_form(talos_: Talos) -> None:
    talos_("init", "--name", "Alice")
    me = talos_("id", "--json").object()
    assert {form: talos_("id", f"--{form}").out.strip() for form in ("ticket", "key", "did")} == {
        "ticket": me["ticket"],
        "key": me["key_hex"],
        "did": me["did"],
    }
    text = talos_("id").out
    assert all(me[field] in text for field in ("name", "peer_id", "did", "key_hex", "ticket"))


def test_id_of_somebody(talos_: Talos) -> None:
    other = talos_("id", f"/ip4/192.0.2.1/tcp/1/p2p/{PEER}", "--json").object()
    assert (other["name"], other["peer_id"], other["addrs"]) == (None, PEER, ["/ip4/192.0.2.1/tcp/1"])
    assert talos_("id", other["ticket"], "--json").object() == other
    assert "/ip4/192.0.2.1/tcp/1" in talos_("id", other["ticket"]).out
    rsa = talos_("id", "QmVMT29id3TUASyfZZ6k9hmNyc2nYabCo4uMSpDw4zrgDk", "--json").object()
    assert rsa["did"] is rsa["key_hex"] is rsa["ticket"] is None
    assert talos_("id", rsa["peer_id"], "--did").code == 1


def test_id_of_myself_in_short(talos_: Talos) -> None:
    talos_("init", "--name", "Alice")
    me = talos_("id", "--json").object()
    assert talos_("id", f"{me['peer_id'][:12]}…{me['peer_id'][-4:]}", "--json").object() == me


def test_id_of_nobody(talos_: Talos) -> None:
    refused = talos_("--json", "id", "bbo").error()
    assert (refused["code"], refused["exit"]) == ("peer_unknown", 2)


def test_id_brings_a_lost_public_copy_back(talos_: Talos, home: Path) -> None:
    talos_("init", "--name", "Alice")
    me = talos_("id", "--json").object()
    (home / "identity.json").unlink()
    assert talos_("id", "--json").object() == me
    assert (home / "identity.json").exists()


def test_the_code_to_scan_is_the_ticket(talos_: Talos) -> None:
    import qrcode

    talos_("init", "--name", "Alice")
    expected = qrcode.QRCode(border=2)
    expected.add_data(talos_("id", "--ticket").out.strip().upper())
    expected.make()
    rows = []
    for line in talos_("id", "--qr").out.splitlines():
        rows.append([character in "▄ " for character in line])
        rows.append([character in "▀ " for character in line])
    assert rows[: len(expected.get_matrix())] == expected.get_matrix()


# -- wallet ---------------------------------------------------------------------------------------------


def test_words_are_shown_on_a_terminal_only(talos_: Talos, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    talos_("init", "--name", "Alice")
    assert talos_("wallet", "words").code == 2
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = talos_("wallet", "words").out.split()
    assert shown[::2] == [str(number) for number in range(1, 25)]
    assert tuple(shown[1::2]) == wallet.unlock(Home(home), pytest.fail).words()


def test_init_shows_the_words_on_a_terminal(talos_: Talos, monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    shown = talos_("init", "--name", "Alice").out
    assert " ".join(wallet.unlock(Home(home), pytest.fail).words()) in shown


def test_a_new_passphrase(talos_: Talos, home: Path, terminal: list[str], passphrase_file: Path) -> None:
    talos_("init", "--name", "Alice")
    terminal += ["correct horse", "correct horse"]
    assert talos_("wallet", "passphrase").code == 0
    assert not (home / "wallet.key").exists()
    assert wallet.unlock(Home(home), lambda: Passphrase.of("correct horse")).name == "Alice"
    terminal += ["new", "new"]
    assert talos_("wallet", "passphrase", "--passphrase-file", str(passphrase_file)).code == 0
    terminal += ["wrong"]
    assert talos_("wallet", "passphrase", "--json").error()["code"] == "wallet_locked"
    assert talos_("wallet", "passphrase", "--no-input", "--json").error()["code"] == "wallet_locked"


def test_a_new_passphrase_needs_somebody_to_ask(talos_: Talos, home: Path) -> None:
    talos_("init", "--name", "Alice")
    assert talos_("wallet", "passphrase", "--json").error()["exit"] == 5
    assert (home / "wallet.key").exists()


# -- where passphrases come from ------------------------------------------------------------------------


def test_the_descriptor_goes_before_the_file_and_the_file_before_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passphrase_file: Path
) -> None:
    other = tmp_path / "other"
    private_file.write(other, b"of the variable")
    monkeypatch.setenv("TALOS_PASSPHRASE_FILE", str(other))
    assert passphrase.given(Session()) == Passphrase.of("of the variable")
    assert passphrase.given(Session(passphrase_file=str(passphrase_file))) == Passphrase.of("correct horse")
    reader, writer = os.pipe()
    os.write(writer, b"of the descriptor\r\n")
    os.close(writer)
    given = passphrase.given(Session(passphrase_file=str(passphrase_file), passphrase_fd=reader))
    os.close(reader)
    assert given == Passphrase.of("of the descriptor")


def test_a_pipe_gives_a_passphrase(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"piped\n")
    os.close(writer)
    assert passphrase.given(Session(passphrase_file=f"/dev/fd/{reader}")) == Passphrase.of("piped")
    os.close(reader)


@pytest.mark.parametrize("content", [b"", b"\n", b"one\ntwo", b"x" * 5000, b"\xff\xfe"])
def test_what_is_no_passphrase(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "p"
    private_file.write(path, content)
    with pytest.raises((Failure, Exception)) as caught:
        passphrase.given(Session(passphrase_file=str(path)))
    assert "passphrase" in str(caught.value)
    assert repr(content[:20])[2:-1] not in str(caught.value) or not content.strip()


def test_an_open_or_missing_passphrase_file(talos_: Talos, passphrase_file: Path) -> None:
    passphrase_file.chmod(0o644)
    refused = talos_("--json", "init", "--name", "A", "--passphrase-file", str(passphrase_file)).error()
    assert refused["code"] == "wallet_open"
    refused = talos_("--json", "init", "--name", "A", "--passphrase-file", "/none").error()
    assert (refused["code"], refused["exit"]) == ("file_unusable", 5)
    assert talos_("--json", "init", "--name", "A", "--passphrase-fd", "999").error()["code"] == "usage"


# -- mcp-config -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("client", ["generic", "claude-desktop", "claude-code", "cursor", "vscode"])
def test_the_entry_for_each_client(talos_: Talos, home: Path, client: str) -> None:
    made = talos_("mcp-config", PEER, "--client", client, "--server", "files")
    assert made.code == 0
    entry = json.loads(made.out)
    servers = entry["servers" if client == "vscode" else "mcpServers"]
    assert list(entry) == ["servers" if client == "vscode" else "mcpServers"]
    server = servers.pop("files")
    assert not servers
    assert Path(server["command"]).is_absolute()
    assert os.access(server["command"], os.X_OK)
    assert server["args"] == ["mcp-connect", PEER, "--server", "files", "--data-dir", str(home)]
    assert server.get("type") == ("stdio" if client in ("claude-code", "vscode") else None)
    assert server.get("env", "absent") == ("absent" if client == "vscode" else {})
    assert ("claude mcp add files -- " in made.err) == (client == "claude-code")


def test_the_default_home_is_not_named(talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TALOS_DIR")
    entry = json.loads(talos_("mcp-config", PEER, "--name", "x").out)
    assert entry["mcpServers"]["x"]["args"] == ["mcp-connect", PEER]


def test_a_mistyped_peer_is_found_here(talos_: Talos) -> None:
    assert talos_("mcp-config", PEER[:-1], "--json").error()["exit"] == 2
    assert talos_("mcp-config", PEER, "--client", "emacs").code == 2


def test_a_program_that_cannot_be_named(talos_: Talos, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(sys, "argv", ["-c"])
    monkeypatch.setenv("PATH", "/nowhere")
    assert talos_("mcp-config", PEER).code == 1
