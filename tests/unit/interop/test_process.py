"""Peers as processes, with small programs that keep or break the contract."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import pytest
import trio

from interop import process
from interop.process import Adapter, PeerFailed, cpu_seconds, dial, listener, open_files, private_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

STACK = "tcp/noise/yamux"
ADDR = "/ip4/127.0.0.1/tcp/1/p2p/QmPeer"


def program(*lines: str) -> Adapter:
    """A peer that is the Python program of `lines`; it finds its arguments in sys.argv."""
    return Adapter(name="fake", command=(sys.executable, "-S", "-c", "\n".join(("import sys", *lines))))


def listening(*lines: str) -> Adapter:
    return program(f"print('{ADDR}', flush=True)", *lines, "print('ready', flush=True)", "sys.stdin.read()")


async def test_a_listener_runs_until_its_stdin_closes() -> None:
    async with listener(listening("print('hello', file=sys.stderr, flush=True)"), STACK) as peer:
        assert peer.addr == ADDR
        assert peer.said() == ["hello"]
        assert cpu_seconds(peer.pid) >= 0
        assert private_bytes(peer.pid) > 1 << 20
        assert open_files(peer.pid) >= 3
    with pytest.raises(LookupError):
        cpu_seconds(peer.pid)


def test_the_time_that_a_process_used() -> None:
    sum(range(1_000_000))
    assert abs(cpu_seconds(os.getpid()) - time.process_time()) < 0.1


async def test_a_listener_takes_stack_and_address() -> None:
    adapter = listening("print(sys.argv[1:], file=sys.stderr, flush=True)")
    async with listener(adapter, STACK, "/unix/a") as peer:
        assert peer.said() == [str(["listen", "--stack", STACK, "--listen", "/unix/a"])]


async def test_a_listener_that_does_not_go_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.05)
    async with listener(
        listening("import atexit, threading", "atexit.register(threading.Event().wait)"), STACK
    ) as peer:
        pass
    with pytest.raises(LookupError):
        cpu_seconds(peer.pid)


async def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    with pytest.raises(KeyError):
        async with listener(listening(), STACK):
            raise KeyError


@pytest.mark.parametrize(
    "lines",
    [
        ["print('ready')"],
        [f"print('{ADDR}')"],
        ["sys.exit('no such stack')"],
        ["print('/ip4/127.0.0.1/tcp/1')", "print('ready')"],
    ],
)
async def test_a_listener_that_ends_before_it_is_ready(lines: Sequence[str]) -> None:
    with pytest.raises(PeerFailed, match="before it was ready"):
        async with listener(program(*lines), STACK):
            pytest.fail("it is not ready")


async def test_the_reason_of_a_listener_is_told() -> None:
    with pytest.raises(PeerFailed, match="no such stack"):
        async with listener(program("sys.exit('no such stack')"), STACK):
            pytest.fail("it is not ready")


async def test_a_listener_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "READY_SECONDS", 0.05)
    with pytest.raises(PeerFailed, match="not ready within"):
        async with listener(program("sys.stdin.read()"), STACK):
            pytest.fail("it is not ready")


async def test_a_line_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "STOP_SECONDS", 0.05)
    with pytest.raises(PeerFailed, match="a line over"):
        async with listener(program("sys.stdout.write('x' * 200_000)", "sys.stdin.read()"), STACK):
            pytest.fail("it is not ready")


async def test_dialing_gives_the_json_object() -> None:
    result = await dial(
        program("import json", "print(json.dumps({'seen': sys.argv[1:]}))"), ADDR, STACK, "echo", {"bytes": 7}
    )
    assert result == {"seen": ["dial", ADDR, "echo", "--stack", STACK, "--bytes", "7"]}


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        (["sys.exit('stream was reset')"], "exited with 1: stream was reset"),
        (["print('{}')", "sys.exit(3)"], "exited with 3"),
        (["print('all went well')"], "no JSON: "),
        (["print('[1]')"], "no JSON object"),
        (["sys.stdout.write('1' * 5_000_000)"], "printed over"),
    ],
)
async def test_a_dialer_that_fails(lines: Sequence[str], match: str) -> None:
    with pytest.raises(PeerFailed, match=match):
        await dial(program(*lines), ADDR, STACK, "ping")


async def test_cancelling_kills_the_dialer(tmp_path: os.PathLike[str]) -> None:
    path = f"{os.fspath(tmp_path)}/pid"
    adapter = program(
        "import os, threading",
        f"os.mkfifo({path!r} + '.go')",
        f"open({path!r}, 'w').write(str(os.getpid()))",
        f"open({path!r} + '.go')",
        "threading.Event().wait()",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dial, adapter, ADDR, STACK, "ping")
        while not os.path.exists(path + ".go"):  # noqa: ASYNC110, ASYNC240, PTH110 - another process makes it
            await trio.sleep(0.005)
        async with await trio.open_file(path + ".go", "w"):
            pass
        nursery.cancel_scope.cancel()
    with open(path) as file:  # noqa: ASYNC230, PTH123
        pid = int(file.read())
    with pytest.raises(LookupError):
        cpu_seconds(pid)


async def test_a_program_that_is_not_there() -> None:
    with pytest.raises(PeerFailed, match="cannot start"):
        await dial(Adapter(name="fake", command=("/no/such/program",)), ADDR, STACK, "ping")
