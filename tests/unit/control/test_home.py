"""Where the socket is, and who may have put something there."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from talos.control.client import Client, NoAgent
from talos.control.home import MAX_SOCKET_PATH, bound, find_socket, read_agent_file, run_directory, socket_path
from talos.errors import WalletError
from talos.identity import private_file
from talos.identity.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def long_home(tmp_path: Path) -> Home:
    made = Home(tmp_path / ("x" * 100) / ("y" * 100))
    private_file.make_directory(made.path)
    return made


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A short runtime directory: pytest's own may be too long for a socket."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="t") as short:
        monkeypatch.setenv("XDG_RUNTIME_DIR", short)
        yield Path(short)


def test_a_socket_in_the_home_is_private_and_goes_with_its_owner(home: Home) -> None:
    private_file.make_directory(run_directory(home))
    socket_path(home).touch()  # what a killed owner left
    with bound(home, started=1.5, version="0") as listener:
        path = find_socket(home)
        assert path is not None
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert not os.get_inheritable(listener.fileno())
        found = read_agent_file(home)
        assert found is not None
        assert (found.pid, found.started, found.socket) == (os.getpid(), 1.5, str(path))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()
    assert read_agent_file(home) is None


def test_a_long_path_moves_to_the_runtime_directory(
    long_home: Home, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = socket_path(long_home)
    assert path.parent == runtime / "talos"
    assert len(os.fsencode(path)) <= MAX_SOCKET_PATH
    with bound(long_home, started=0, version="0"):
        monkeypatch.delenv("XDG_RUNTIME_DIR")  # a client of another environment
        assert find_socket(long_home) == path
        assert path.exists()
    assert not path.exists()


def test_nobody_serves_a_long_path_that_no_file_tells_of(long_home: Home, runtime: Path) -> None:
    assert find_socket(long_home) is None
    with pytest.raises(NoAgent):
        Client(long_home).get("version")


def test_a_directory_of_somebody_else_is_refused(long_home: Home, runtime: Path) -> None:
    (runtime / "talos").mkdir(0o777)
    (runtime / "talos").chmod(0o777)
    with pytest.raises(WalletError, match="others may use it"), bound(long_home, started=0, version="0"):
        pytest.fail("bound where others can be")


def test_without_a_runtime_directory_it_is_among_temporary_files(
    long_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    assert socket_path(long_home).parent.name == f"talos-{os.geteuid()}"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/" + "x" * 100)
    assert socket_path(long_home).parent.name == f"talos-{os.geteuid()}"


@pytest.mark.parametrize("text", ["", "[]", '{"pid": 1}', '{"pid": "x", "started": 0, "version": "", "socket": ""}'])
def test_an_agent_file_that_is_damaged_is_none(home: Home, text: str) -> None:
    private_file.make_directory(run_directory(home))
    private_file.write(run_directory(home) / "agent.json", text.encode())
    assert read_agent_file(home) is None


def test_who_holds_the_home(home: Home) -> None:
    assert not home.is_owned()
    assert home.holder() is None
    with home.lock():
        assert home.is_owned()
        assert (home.holder() or (0, 0))[0] == os.getpid()
    assert not home.is_owned()
