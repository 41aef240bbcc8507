"""The data directory and its lock."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from talos.errors import HomeInUse, WalletError
from talos.identity.home import Home

HOLDER = """
import sys, time
from pathlib import Path
from talos.identity.home import Home
with Home(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    return made


def test_a_relative_path_is_made_absolute_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = Home(Path("here"))
    monkeypatch.chdir("/")
    assert home.path == tmp_path / "here"


def test_no_home_is_no_identity(tmp_path: Path) -> None:
    with pytest.raises(WalletError, match="no identity in") as caught:
        Home(tmp_path / "none").check()
    assert caught.value.reason == "missing"


def test_an_open_home_is_refused(home: Home) -> None:
    home.path.chmod(0o755)
    with pytest.raises(WalletError, match="chmod 700"):
        home.check()


def test_one_process_holds_the_lock_and_the_other_names_it(home: Home) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(home.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(HomeInUse, match=rf"is in use by pid {holder.pid} since \d\d:\d\d"), home.lock():
        pass
    holder.kill()  # however it ends, the lock goes with it
    holder.communicate()
    with home.lock():
        pass


def test_the_lock_outlives_other_descriptors_of_its_file(home: Home) -> None:
    with home.lock():
        os.close(os.open(home.lock_file, os.O_RDONLY))  # by which a POSIX record lock would be lost
        with pytest.raises(HomeInUse), home.lock():
            pass


def test_the_lock_is_not_inherited_and_its_file_stays(home: Home) -> None:
    with home.lock():
        child = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    with home.lock():
        pass
    child.communicate()
    assert home.lock_file.exists()


@pytest.mark.parametrize("text", [b"", b"x", b"[]", b'{"pid": "x", "since": 1}', b'{"pid": 1, "since": 1e300}'])
def test_a_strange_lock_file_still_holds(home: Home, text: bytes) -> None:
    with home.lock():
        home.lock_file.write_bytes(text)
        with pytest.raises(HomeInUse, match=r"is in use$"), home.lock():
            pass


def test_a_lock_file_of_others_is_refused(home: Home) -> None:
    home.lock_file.touch(0o666)
    home.lock_file.chmod(0o666)
    with pytest.raises(WalletError, match=r"lock file .* chmod 600"), home.lock():
        pass
