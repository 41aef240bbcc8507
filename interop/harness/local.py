"""The official harnesses without Docker: `python -m interop.harness.local transport|perf [--legacy]`.

Starts a redis server in this process, and the image's entry point twice on 127.0.0.1 with the environment that a
harness of that generation sets.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interop.harness.resp_server import open_resp_server
from talos.program import run

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Run", "legacy_environment", "modern_environment", "run_pair"]

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"
TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the dialer did. A harness takes its exit code and what it reads on stdout."""

    code: int
    stdout: str
    stderr: str


def key_of(name: str) -> str:
    """unified-testing's: the first 8 hex digits of SHA-256 over the name and a newline."""
    return hashlib.sha256(f"{name}\n".encode()).hexdigest()[:8]


def modern_environment(stack: str, redis: str, *, dialer: bool) -> dict[str, str]:
    """unified-testing."""
    transport, security, muxer = stack.split("/")
    return {
        "IS_DIALER": str(dialer).lower(),
        "REDIS_ADDR": redis,
        "TEST_KEY": key_of(f"talos x talos ({stack})"),
        "TRANSPORT": transport,
        "SECURE_CHANNEL": security,
        "MUXER": muxer,
        "LISTENER_IP": HOST,
        "DEBUG": "false",
        "TEST_TIMEOUT_SECS": str(TIMEOUT_SECONDS),
    }


def legacy_environment(stack: str, redis: str, *, dialer: bool) -> dict[str, str]:
    """test-plans."""
    transport, security, muxer = stack.split("/")
    return {
        "version": "local",
        "transport": transport,
        "security": security,
        "muxer": muxer,
        "is_dialer": str(dialer).lower(),
        "ip": HOST,
        "redis_addr": redis,
        "test_timeout_seconds": str(TIMEOUT_SECONDS),
    }


async def run_pair(image: str, stack: str, *, legacy: bool = False, more: Mapping[str, str] | None = None) -> Run:
    """Runs listener and dialer of `interop.<image>`; the listener is killed when the dialer has ended."""
    environment = legacy_environment if legacy else modern_environment
    async with open_resp_server() as redis:

        def started(*, dialer: bool) -> tuple[list[str], dict[str, str]]:
            # The harness's variables alone and what Python itself needs: nothing of ours may slip in.
            kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
            command = [sys.executable, "-m", f"interop.{image}"]
            return command, kept | environment(stack, redis, dialer=dialer) | dict(more or {})

        listener, listener_environment = started(dialer=False)
        dialer, dialer_environment = started(dialer=True)
        listening = await trio.lowlevel.open_process(
            listener, env=listener_environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            done = await trio.run_process(
                dialer, env=dialer_environment, cwd=ROOT, capture_stdout=True, capture_stderr=True, check=False
            )
        finally:
            listening.kill()
            with trio.CancelScope(shield=True):
                await listening.wait()
    return Run(code=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())


async def main(options: argparse.Namespace) -> int:
    run = await run_pair(options.image, options.stack, legacy=options.legacy)
    sys.stderr.write(run.stderr)
    sys.stdout.write(run.stdout)
    return run.code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m interop.harness.local", description="Run an image against itself.")
    parser.add_argument("image", choices=("transport", "perf"))
    parser.add_argument("--stack", default="tcp/noise/yamux")
    parser.add_argument("--legacy", action="store_true", help="as test-plans does (transport only)")
    sys.exit(run(main, parser.parse_args()))
