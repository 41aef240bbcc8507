"""Ctrl-C ends a program of ours at once and quietly, wherever it is."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from talos.program import INTERRUPTED, run

WAITING = """
import trio
from talos.program import run

async def wait():
    print("ready", flush=True)
    await trio.sleep_forever()

async def in_nursery():
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as inner:
            inner.start_soon(wait)
            nursery.start_soon(trio.sleep_forever)

run({main})
"""
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("main", ["wait", "in_nursery"])
def test_interrupted(main: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING.format(main=main)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        program.send_signal(signal.SIGINT)
        _, stderr = program.communicate(timeout=10)
    assert program.returncode == INTERRUPTED
    assert not stderr


def test_results_and_errors_pass() -> None:
    async def answer(value: int) -> int:
        return value

    async def fail() -> None:
        raise ValueError("a bug")

    async def fail_in_group() -> None:
        raise ExceptionGroup("several", [ValueError("a"), KeyError("b")])

    async def fail_while_interrupted() -> None:
        raise BaseExceptionGroup("both", [KeyboardInterrupt(), ValueError("a")])

    async def interrupted_in_group() -> None:
        raise BaseExceptionGroup("one", [KeyboardInterrupt()])

    assert run(answer, 42) == 42
    with pytest.raises(ValueError, match="a bug"):
        run(fail)
    with pytest.raises(ExceptionGroup):
        run(fail_in_group)
    with pytest.raises(BaseExceptionGroup, match="both"):
        run(fail_while_interrupted)
    with pytest.raises(SystemExit) as exit_code:
        run(interrupted_in_group)
    assert exit_code.value.code == INTERRUPTED
