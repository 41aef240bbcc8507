"""Runs one target for a while: atheris where it is installed (coverage guides it), else seeded mutation of the corpus.

The corpus and every crasher ever found are replayed first, so a crasher that is committed is a regression test.
"""

from __future__ import annotations

import importlib
import random
import secrets
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
MAX_INPUT = 64 * 1024
UNGUIDED = {"mcp_lines"}
"""atheris 3.0 changes what the line scanner's code does on Python 3.11: instrumented, it refuses a batch that it takes
otherwise. These are mutated without it."""
INTERESTING = (
    b"\x00",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff",
    b"\x80\x80\x01",
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
)


def seeds(name: str) -> list[bytes]:
    """The committed inputs of a target: corpus first, then what once crashed it."""
    return [
        path.read_bytes()
        for folder in ("corpus", "crashers")
        for path in sorted((HERE / folder / name).glob("*"))
        if path.is_file()
    ]


def mutated(source: bytes, other: bytes, rng: random.Random) -> bytes:
    """A few random edits of `source`: flips, cuts, repeats, splices, interesting numbers."""
    data = bytearray(source)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                del data[at : at + rng.randint(1, 16)]
            case 2:
                data[at:at] = rng.randbytes(rng.randint(1, 16))
            case 3:
                data[at:at] = data[at : at + rng.randint(1, 64)]
            case 4:
                data[at:at] = rng.choice(INTERESTING)
            case _:
                cut = rng.randrange(len(other) + 1)
                data[at:] = other[cut:]
    return bytes(data[:MAX_INPUT])


def mutate_for(
    target: Callable[[bytes], None], pool: list[bytes], seconds: float, rng: random.Random
) -> tuple[int, bytes | None]:
    """Executions done, and the input that crashed the target, if one did."""
    pool = pool or [b""]
    deadline = time.monotonic() + seconds
    executions = 0
    while time.monotonic() < deadline:
        data = mutated(rng.choice(pool), rng.choice(pool), rng)
        executions += 1
        try:
            target(data)
        except BaseException:  # noqa: BLE001  # whatever escapes a target is the finding
            traceback.print_exc()
            return executions, data
        if len(pool) < 2000 and rng.random() < 0.02:
            pool.append(data)
    return executions, None


def keep_crasher(name: str, data: bytes) -> Path:
    path = HERE / "crashers" / name / secrets.token_hex(8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def run_guided(name: str, seconds: float) -> int:
    """atheris over the same entry; does not return when libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["talos"]):
        target = importlib.import_module(f"fuzz.{name}").target
    folders = [HERE / "corpus" / name, HERE / "crashers" / name]
    crashers = HERE / "crashers" / name
    crashers.mkdir(parents=True, exist_ok=True)
    found: list[str] = []

    def entry(data: bytes) -> None:
        try:
            target(data)
        except BaseException:
            found.append(str(keep_crasher(name, data)))
            raise

    flags = [
        f"-max_total_time={int(seconds)}",
        f"-max_len={MAX_INPUT}",
        "-rss_limit_mb=1024",
        "-timeout=10",
        "-print_final_stats=1",
    ]
    grown = tempfile.mkdtemp()  # libFuzzer writes what it finds into the first folder: not into the tree
    atheris.Setup(
        [name, *flags, f"-artifact_prefix={crashers}/", grown, *(str(f) for f in folders if f.is_dir())], entry
    )
    atheris.Fuzz()
    return 1 if found else 0


def main() -> int:
    name, seconds = sys.argv[1], float(sys.argv[2])
    if seconds >= 30 and name not in UNGUIDED:
        try:
            import atheris  # noqa: F401
        except ImportError:
            print(f"{name}: atheris is not installed; mutating blindly")
        else:
            return run_guided(name, seconds)
    target: Callable[[bytes], None] = importlib.import_module(f"fuzz.{name}").target
    pool = seeds(name)
    for data in pool:
        target(data)
    seed = secrets.randbits(32)
    executions, crasher = mutate_for(target, pool, seconds, random.Random(seed))
    if crasher is not None:
        print(f"{name}: CRASHED, kept as {keep_crasher(name, crasher)}")
        return 1
    print(f"{name}: {executions} executions in {seconds:.0f} s, seed {seed}, {len(pool)} inputs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
