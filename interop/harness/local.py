"""The official harnesses without Docker: `python -m interop.harness.local transport|perf|kad_dht [--legacy]`.

Starts a redis server in this process, and the image's entry point on 127.0.0.1, once for each of its roles, with the
environment that a harness of that generation sets.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interop.harness.resp_server import open_resp_server
from interop.harness.settings import KAD_ROLES
from talos.program import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["Run", "kad_environment", "legacy_environment", "modern_environment", "run_kad", "run_pair"]

ROOT = Path(__file__).resolve().parent.parent.parent
HOST = "127.0.0.1"
TIMEOUT_SECONDS = 60
KAD_DHT = "kad_dht"


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
    transport, *layers = stack.split("/")
    return {
        "IS_DIALER": str(dialer).lower(),
        "REDIS_ADDR": redis,
        "TEST_KEY": key_of(f"talos x talos ({stack})"),
        "TRANSPORT": transport,
        **dict(zip(("SECURE_CHANNEL", "MUXER"), layers, strict=False)),
        "LISTENER_IP": HOST,
        "DEBUG": "false",
        "TEST_TIMEOUT_SECS": str(TIMEOUT_SECONDS),
    }


def legacy_environment(stack: str, redis: str, *, dialer: bool) -> dict[str, str]:
    """test-plans."""
    transport, *layers = stack.split("/")
    return {
        "version": "local",
        "transport": transport,
        **dict(zip(("security", "muxer"), layers, strict=False)),
        "is_dialer": str(dialer).lower(),
        "ip": HOST,
        "redis_addr": redis,
        "test_timeout_seconds": str(TIMEOUT_SECONDS),
    }


def kad_environment(role: str, redis: str, name: str) -> dict[str, str]:
    """unified-testing's kad-dht, which hashes the name without a newline."""
    return {
        "ROLE": role,
        "REDIS_ADDR": redis,
        "TEST_KEY": hashlib.sha256(name.encode()).hexdigest()[:8],
        "LISTENER_IP": HOST,
        "TEST_TIMEOUT_SECS": str(TIMEOUT_SECONDS),
    }


async def run_kad() -> Run:
    """Talos in all three roles; what the querier did. The others are killed when it has ended."""
    async with open_resp_server() as redis, AsyncExitStack() as stack:
        environments = {role: kad_environment(role, redis, "talos x talos x talos") for role in KAD_ROLES}
        for role in ("bootstrap", "provider"):
            await stack.enter_async_context(_running(KAD_DHT, environments[role]))
        return await _finished(KAD_DHT, environments["querier"])


def _started(image: str, environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    # The harness's variables alone and what Python itself needs: nothing of ours may slip in.
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return [sys.executable, "-m", f"interop.{image}"], kept | dict(environment)


@asynccontextmanager
async def _running(image: str, environment: Mapping[str, str]) -> AsyncIterator[None]:
    command, variables = _started(image, environment)
    process = await trio.lowlevel.open_process(
        command, env=variables, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def _finished(image: str, environment: Mapping[str, str]) -> Run:
    command, variables = _started(image, environment)
    done = await trio.run_process(
        command, env=variables, cwd=ROOT, capture_stdout=True, capture_stderr=True, check=False
    )
    return Run(code=done.returncode, stdout=done.stdout.decode(), stderr=done.stderr.decode())


async def run_pair(image: str, stack: str, *, legacy: bool = False, more: Mapping[str, str] | None = None) -> Run:
    """Runs listener and dialer of `interop.<image>`; the listener is killed when the dialer has ended."""
    environment = legacy_environment if legacy else modern_environment
    async with open_resp_server() as redis:
        ends = [environment(stack, redis, dialer=dialer) | dict(more or {}) for dialer in (False, True)]
        async with _running(image, ends[0]):
            return await _finished(image, ends[1])
    raise AssertionError("the contexts swallow nothing")


async def main(options: argparse.Namespace) -> int:
    if options.image == KAD_DHT:
        run = await run_kad()
    else:
        run = await run_pair(options.image, options.stack, legacy=options.legacy)
    sys.stderr.write(run.stderr)
    sys.stdout.write(run.stdout)
    return run.code


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m interop.harness.local", description="Run an image against itself.")
    parser.add_argument("image", choices=("transport", "perf", KAD_DHT))
    parser.add_argument("--stack", default="tcp/noise/yamux")
    parser.add_argument("--legacy", action="store_true", help="as test-plans does (transport only)")
    sys.exit(run(main, parser.parse_args()))
