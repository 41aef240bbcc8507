"""The hole-punch harness without Docker: `python -m interop.hole_punch.local`, in namespaces with two real NATs."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import trio

from interop import natlab
from interop.harness.local import Run, key_of
from talos.program import run

__all__ = ["run_hole_punch"]

ROOT = Path(__file__).resolve().parent.parent.parent
REDIS_PORT = 6379
SECONDS = 60
REDIS = f"""
import trio
from interop.harness.resp_server import RespServer
trio.run(trio.serve_tcp, RespServer().serve, {REDIS_PORT})
"""


async def run_hole_punch(stack: str = "tcp/noise/yamux") -> Run:
    """What the dialer did; natlab.LabFailed where no network can be built."""
    with natlab.open_lab() as lab:
        redis = f"{natlab.HOSTS['public']}:{REDIS_PORT}"
        transport, *layers = stack.split("/")
        common = {
            **os.environ,
            "REDIS_ADDR": redis,
            "TEST_KEY": key_of(f"talos x talos ({stack})"),
            "TRANSPORT": transport,
            **dict(zip(("SECURE_CHANNEL", "MUXER"), layers, strict=False)),
            "TEST_TIMEOUT_SECS": str(SECONDS),
        }
        image = (sys.executable, "-m", "interop.hole_punch")
        async with trio.open_nursery() as nursery:
            start = partial(nursery.start, partial(_held, cwd=ROOT))
            await start((*lab.command("public"), sys.executable, "-c", REDIS), common)
            await start((*lab.command("relay"), *image, "relay"), {**common, "RELAY_IP": natlab.HOSTS["relay"]})
            listener = {**common, "IS_DIALER": "false", "LISTENER_IP": natlab.HOSTS["b"]}
            await start((*lab.command("b"), *image), listener)
            done = await trio.run_process(
                [*lab.command("a"), *image],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                cwd=ROOT,
                env={**common, "IS_DIALER": "true", "DIALER_IP": natlab.HOSTS["a"]},
            )
            nursery.cancel_scope.cancel()
    return Run(code=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())


async def _held(
    command: tuple[str, ...],
    env: dict[str, str],
    *,
    cwd: Path,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A process until it is cancelled; whoever needs it waits for what it tells."""
    task_status.started()
    await trio.run_process(list(command), env=env, cwd=cwd, check=False, stdout=subprocess.DEVNULL)


def main() -> int:
    if (reason := natlab.absent()) is not None:
        print(f"skipped: {reason}", file=sys.stderr)
        return 0
    found = run(run_hole_punch)
    print(found.stdout, end="")
    print(found.stderr, end="", file=sys.stderr)
    return found.code


if __name__ == "__main__":
    sys.exit(main())
