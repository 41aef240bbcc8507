"""The watch process: what it is told, and whom it ends. (As a process it is tested with the children.)"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from talos.mcp import reaper

if TYPE_CHECKING:
    from collections.abc import Iterator

DEAF = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process deaf to SIGTERM, in a group of its own, with a tag."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", DEAF],
        stdout=subprocess.PIPE,
        start_new_session=True,
        env={reaper.TAG_VARIABLE: "the-tag"},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_what_is_not_taken_back_is_stopped(victim: subprocess.Popen[bytes]) -> None:
    start = reaper.start_time(victim.pid)
    assert start is not None
    watch = reaper.Watch(0.2)
    for line in ("+a\n", "+b\n", f"=a {victim.pid} {start}\n", "-b\n", "-unknown\n"):
        watch.told(line)
    assert watch.children == {"a": (victim.pid, start)}
    watch.stop_all()
    assert victim.wait(5) == -signal.SIGKILL


def test_a_tag_alone_is_enough(victim: subprocess.Popen[bytes]) -> None:
    watch = reaper.Watch(0.2)
    watch.told("+the-tag\n")
    watch.stop_all()
    assert victim.wait(5) == -signal.SIGKILL
    assert reaper.sweep("the-tag") == 0


def test_a_number_that_is_anothers_by_now_is_left_alone(victim: subprocess.Popen[bytes]) -> None:
    assert reaper.group_alive(victim.pid, reaper.start_time(victim.pid) or "")
    assert not reaper.group_alive(victim.pid, "1")
    reaper.signal_group(victim.pid, "1", signal.SIGKILL)
    assert victim.poll() is None


def test_a_group_that_is_gone() -> None:
    done = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""], start_new_session=True)
    start = reaper.start_time(done.pid) or ""
    done.wait()
    assert reaper.start_time(done.pid) is None
    assert not reaper.group_alive(done.pid, start)
    reaper.signal_group(done.pid, start, signal.SIGTERM)


def test_a_zombie_is_not_alive() -> None:
    done = subprocess.Popen([sys.executable, "-I", "-S", "-c", ""], start_new_session=True)
    start = reaper.start_time(done.pid) or ""
    os.waitid(os.P_PID, done.pid, os.WEXITED | os.WNOWAIT)
    assert not reaper.group_alive(done.pid, start)
    done.wait()


def test_without_proc_the_start_comes_from_ps(monkeypatch: pytest.MonkeyPatch, victim: subprocess.Popen[bytes]) -> None:
    monkeypatch.setattr(reaper, "_HAS_PROC", False)
    asked: list[tuple[str, ...]] = []

    def run(command: tuple[str, ...], **_: object) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        return subprocess.CompletedProcess(command, 0, "Mon Nov 23 05:00:00 2026\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    start = reaper.start_time(victim.pid)
    assert start == "Mon_Nov_23_05:00:00_2026"
    assert asked[0][-1] == str(victim.pid)
    assert reaper.group_alive(victim.pid, start)
    assert reaper.sweep("the-tag") == 0


def test_the_program_listens_until_its_stdin_ends(
    monkeypatch: pytest.MonkeyPatch, victim: subprocess.Popen[bytes]
) -> None:
    ignored: list[int] = []
    start = reaper.start_time(victim.pid)
    monkeypatch.setattr(signal, "signal", lambda number, _: ignored.append(number))
    monkeypatch.setattr(sys, "argv", ["reaper.py", "0.1"])
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"=a {victim.pid} {start}\n-a"))
    reaper.main()
    assert ignored == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    assert victim.wait(5) == -signal.SIGKILL
