"""The oracle: a Go program on golang.org/x/mod/sumdb, which checks exports, checkpoints and proofs of ours.

Built once into the user's cache, outside the tree. `OracleAbsent` where there is no Go.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["OracleAbsent", "check_export"]

SOURCE = Path(__file__).resolve().parent
BUILD_SECONDS = 600
RUN_SECONDS = 120


class OracleAbsent(Exception):
    """There is no Go on PATH: absent, not broken."""


def check_export(directory: Path, claims: dict[str, Any] | None = None) -> dict[str, int]:
    """What the oracle counted. AssertionError with its words when something is wrong.

    `claims` has `records` (index, size, path), `trees` (old, new, path), paths in base64, and `files`, names of
    .tlog-proof files.
    """
    command = [_build(), str(directory)]
    if claims is not None:
        name = directory.with_name(directory.name + ".claims.json")
        name.write_text(json.dumps(claims))
        command.append(str(name))
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    if done.returncode:
        raise AssertionError(done.stderr)
    counted: dict[str, int] = json.loads(done.stdout)
    return counted


def _build() -> str:
    go = shutil.which("go")
    if go is None:
        raise OracleAbsent("go is not on PATH")
    sources = sorted(path for path in SOURCE.iterdir() if path.name in {"go.mod", "go.sum", "main.go"})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "talos-interop"
    program = cache / f"oracle-{digest}"
    if not program.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        scratch = cache / f".oracle-{digest}-{os.getpid()}"
        command = [go, "build", "-trimpath", "-p", "2", "-o", str(scratch), "."]
        subprocess.run(command, cwd=SOURCE, check=True, timeout=BUILD_SECONDS)
        scratch.rename(program)
    return str(program)
