"""Wallets that somebody else has been at: rows MW07 to MW10. The program runs as its owner would run it.

No node is under attack here, so there is no bystander; `tests/unit/identity` has every byte of the container.
"""

from __future__ import annotations

import os
import resource
import sqlite3
import stat
import struct
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from talos.identity import wallet
from talos.identity.home import Home
from talos.identity.sealed import Passphrase
from talos.messaging.store import SCHEMA

ROOT = Path(__file__).resolve().parents[2]
PASSPHRASE = "a marker that nobody else would choose"
HEADER = struct.Struct(">8sHBIIB16s12s")
SECONDS = 60


class Owner:
    """A home, and what its owner types."""

    def __init__(self, base: Path) -> None:
        self.home = base / "home"
        self.secret = base / "passphrase"
        self.secret.write_text(PASSPHRASE + "\n")
        self.secret.chmod(0o600)
        self.said = ""

    def run(self, *words: str, umask: int = 0o077) -> tuple[int, str]:
        """The exit code, and what was said on both outputs."""
        done = subprocess.run(
            [sys.executable, "-m", "talos", "--data-dir", str(self.home), "--no-input", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            umask=umask,
            env={**os.environ, "COVERAGE_PROCESS_START": ""},
        )
        self.said += done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done.returncode, done.stdout + done.stderr

    def unlock(self) -> tuple[int, str]:
        """Something that needs the keys."""
        return self.run("history", "--passphrase-file", str(self.secret))

    def init(self, **more: int) -> None:
        code, said = self.run("init", "--name", "Alice", "--passphrase-file", str(self.secret), **more)
        assert code == 0, said
        # Without messages there is nothing for history to unlock.
        store = self.home / "messages.db"
        with closing(sqlite3.connect(store)) as made:
            made.executescript(SCHEMA)
        store.chmod(0o600)


@pytest.fixture
def owner(tmp_path: Path) -> Owner:
    made = Owner(tmp_path)
    made.init()
    return made


def test_mw07_secrets_are_said_nowhere(owner: Owner) -> None:
    """Not by what works, what fails, what is debugged; and the words are not told to a pipe."""
    opened = wallet.unlock(Home(owner.home), lambda: Passphrase.of(PASSPHRASE))
    code, _ = owner.run("wallet", "words", "--passphrase-file", str(owner.secret), "--debug")
    assert code != 0
    for words in (("id", "--json"), ("status",), ("history", "--passphrase-file", str(owner.secret), "--debug")):
        owner.run(*words)
    file = owner.home / "wallet"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    owner.run("history", "--passphrase-file", str(owner.secret), "--debug")
    logs = b"".join(path.read_bytes() for path in owner.home.rglob("*") if path.is_file())
    markers = [PASSPHRASE.encode(), *(part for secret in (opened.root, opened.store_key) for part in both(secret))]
    for marker in markers:
        assert marker not in owner.said.encode()
        assert marker not in logs


def both(secret: bytes) -> tuple[bytes, bytes]:
    return secret, secret.hex().encode()


def test_mw08_files_that_others_can_read_or_have_put_there(owner: Owner, tmp_path: Path) -> None:
    file = owner.home / "wallet"
    for path, mode, remedy in ((file, 0o644, "chmod"), (owner.home, 0o777, "chmod"), (owner.home, 0o750, "chmod")):
        before = stat.S_IMODE(path.stat().st_mode)
        path.chmod(mode)
        code, said = owner.unlock()
        assert code != 0
        assert remedy in said
        path.chmod(before)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    code, said = owner.unlock()
    assert code != 0
    assert "symbolic link" in said
    file.unlink()
    elsewhere.rename(file)
    (tmp_path / "link").symlink_to(owner.home)
    real, owner.home = owner.home, tmp_path / "link"
    assert owner.unlock()[0] != 0
    owner.home = real
    assert owner.unlock()[0] == 0


def test_mw08_under_any_umask_all_is_private(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    owner.init(umask=0)
    for path in (owner.home, *owner.home.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_mw09_a_wrong_passphrase_and_an_altered_wallet_say_the_same(owner: Owner) -> None:
    file, whole = owner.home / "wallet", (owner.home / "wallet").read_bytes()
    owner.secret.write_text("another one\n")
    code, wrong = owner.unlock()
    assert code == 5
    owner.secret.write_text(PASSPHRASE + "\n")
    flipped = bytearray(whole)
    flipped[-20] ^= 4
    magic, version, kdf, _, passes, lanes, salt, nonce = HEADER.unpack_from(whole)
    weaker = HEADER.pack(magic, version, kdf, 19 * 1024, passes, lanes, salt, nonce) + whole[HEADER.size :]
    for altered in (bytes(flipped), weaker):
        file.write_bytes(altered)
        assert owner.unlock() == (5, wrong)
    for memory, times, wide in ((2**32 - 1, passes, lanes), (64 * 1024, 2**32 - 1, lanes), (64 * 1024, passes, 255)):
        file.write_bytes(HEADER.pack(magic, version, kdf, memory, times, wide, salt, nonce) + whole[HEADER.size :])
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        code, said = owner.unlock()
        assert code == 5
        assert "key derivation" in said
        worked = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        assert worked < 5, "what a header asks for is judged before it is done"
    file.write_bytes(whole)
    assert owner.unlock()[0] == 0


def test_mw10_no_option_takes_a_passphrase(owner: Owner) -> None:
    for words in (("init", "--name", "x"), ("history",), ("up",), ("wallet", "words")):
        for option in ("--passphrase=secret", "--password", "-p"):
            code, said = owner.run(*words, option)
            assert code == 2, said
    help_ = "".join(owner.run(name, "--help")[1] for name in ("init", "up", "send"))
    assert "--passphrase-fd" in help_
