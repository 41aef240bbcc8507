"""Row P15: a file of 1 GiB to another process on this machine, beside magic-wormhole.

Talos's time is from the call that offers the file to the moment the sender knows that it is verified, in its place and
in both logs, hashing before the offer included; the texts go beside a transfer of their own. Wormhole's is that of its
processes from the start of the receiver to the end of both, less the same for a file of one byte: its key exchange and
its start are not counted.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from bench.measure import TALOS, Goal, Metric, Reading, Series
from interop.harness.statistics import percentile
from interop.peers.build import cache
from interop.process import cpu_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.report import Results

__all__ = ["METRICS", "run"]

SIZE = 1 << 30
MB = 1_000_000
WORMHOLE = "wormhole"
PACKAGES = ("magic-wormhole==0.24.0", "magic-wormhole-mailbox-server==0.8.0")
CODE = "7-talos-bench"
SECONDS = 600

WHOLE = Metric(
    row="P15",
    name="P15",
    title="a file of 1 GiB, sealed, verified and recorded",
    unit="MB/s",
    cpu_unit="CPU s/GB",
    goals=(Goal(bound=300, kind="at least"), Goal(bound=5, kind="at least", peer=WORMHOLE)),
)
PULLED = Metric(
    row="P15", name="P15 pulled", title="the same from the offer on, without hashing before it", unit="MB/s"
)
TEXT = Metric(
    row="P15",
    name="P15 text p99",
    title="a text beside it, from the call to its acknowledgement, p99",
    unit="ms",
    goals=(Goal(bound=50, kind="at most"),),
)
METRICS = (WHOLE, PULLED, TEXT)


async def run(rounds: int) -> Results:
    """Each side once a round."""
    series, pulled, texts = {TALOS: Series(), WORMHOLE: Series()}, Series(), Series()
    with tempfile.TemporaryDirectory(prefix="talos-bench-") as room, ExitStack() as stack:
        path = Path(room) / "data"
        await trio.to_thread.run_sync(_fill, path)
        try:
            wormhole = await trio.to_thread.run_sync(_install)
            relay = stack.enter_context(_mailbox(wormhole, Path(room)))
        except (subprocess.CalledProcessError, OSError) as error:
            series[WORMHOLE].failed = f"absent: {error}"
        for number in range(rounds):
            whole, rest, text = await trio.to_thread.run_sync(_talos, Path(room) / f"t{number}", path)
            series[TALOS].readings.append(whole)
            pulled.readings.append(rest)
            texts.readings.append(text)
            if series[WORMHOLE].failed is None:
                rate = await trio.to_thread.run_sync(_wormhole, wormhole, relay, Path(room) / f"w{number}", path)
                series[WORMHOLE].readings.append(rate)
    return {WHOLE.name: (WHOLE, series), PULLED.name: (PULLED, {TALOS: pulled}), TEXT.name: (TEXT, {TALOS: texts})}


def _fill(path: Path) -> None:
    with path.open("wb") as file:
        for _ in range(SIZE >> 20):
            file.write(os.urandom(1 << 20))


# ----------------------------------------------------------------------------------- Talos


def _talos(room: Path, path: Path) -> tuple[Reading, Reading, Reading]:
    """From the call on, from the offer on, and texts beside it."""
    command = [sys.executable, "-m", "bench.file_end"]
    for side in ("sender", "receiver"):
        (room / side).mkdir(parents=True, mode=0o700)
    with _process([*command, str(room / "receiver")]) as receiver:
        address = _line(receiver)
        before = cpu_seconds(receiver.pid)
        with _process([*command, str(room / "sender"), str(path), address]) as sender:
            _line(sender)
            seconds, pulled, cpu = map(float, _line(sender).split())
            listener = cpu_seconds(receiver.pid) - before
            waits = sorted(map(float, _line(sender).split()))
    for came in (room / "receiver" / "downloads").glob("data*"):
        came.unlink()
    gigabytes = SIZE / MB / 1000
    whole = Reading(value=SIZE / MB / seconds, dialer_cpu=cpu / gigabytes, listener_cpu=listener / gigabytes)
    return whole, Reading(value=SIZE / MB / pulled), Reading(value=percentile(waits, 0.99) * 1000)


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise RuntimeError(f"{process.args!r} said nothing")
    return line


# ----------------------------------------------------------------------------------- wormhole


def _install() -> Path:
    """The programs of its virtual environment, which is built once."""
    folder = cache().parent / "bench" / "wormhole"
    if not (folder / "done").exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *PACKAGES], check=True)
        (folder / "done").touch()
    return folder / "bin"


@contextmanager
def _mailbox(programs: Path, room: Path) -> Iterator[str]:
    """Its rendezvous server on this machine."""
    port = 41_000 + os.getpid() % 10_000
    command = [str(programs / "twist"), "wormhole-mailbox", f"--port=tcp:{port}:interface=127.0.0.1"]
    with _quiet(command, room) as server:
        try:
            time.sleep(3)
            yield f"ws://127.0.0.1:{port}/v1"
        finally:
            server.terminate()


def _wormhole(programs: Path, relay: str, room: Path, path: Path) -> Reading:
    room.mkdir()
    (room / "byte").write_bytes(b"x")
    start = _exchange(programs, relay, room, room / "byte")
    seconds = _exchange(programs, relay, room, path)
    (room / path.name).unlink(missing_ok=True)
    return Reading(value=SIZE / MB / (seconds - start))


def _exchange(programs: Path, relay: str, room: Path, path: Path) -> float:
    """Seconds until both of its processes have ended."""
    common = [str(programs / "wormhole"), "--relay-url", relay, "--transit-helper", ""]
    into = room / f"got-{path.name}"
    sending = [*common, "send", "--hide-progress", "--code", CODE, str(path)]
    receiving = [*common, "receive", "--hide-progress", "--accept-file", "-o", str(into), CODE]
    started = time.perf_counter()
    with _quiet(sending, room) as sender, _quiet(receiving, room) as receiver:
        try:
            if sender.wait(SECONDS) or receiver.wait(SECONDS):
                raise RuntimeError("wormhole failed")
        finally:
            sender.kill()
            receiver.kill()
    seconds = time.perf_counter() - started
    into.unlink()
    return seconds


def _quiet(command: list[str], room: Path) -> subprocess.Popen[bytes]:
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=room, stdin=silent, stdout=silent, stderr=silent)
