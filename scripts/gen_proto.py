"""Generates `talos/wire/pb` from `proto/`: Python code and its types.

    python scripts/gen_proto.py            write the generated files
    python scripts/gen_proto.py --check    fail when the committed files are not what `proto/` gives

The generated code runs on the protobuf runtime it names and on any later one, so the pinned version of
grpcio-tools sets the floor of `protobuf` in pyproject.toml.
"""

from __future__ import annotations

import argparse
import difflib
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = Path("talos/wire/pb")
INIT = '"""Generated from `proto/` by `scripts/gen_proto.py`; only a package\'s wire code imports it."""\n'


def generate(target: Path) -> None:
    """Runs the compiler over every schema; files land below `target` at their place in the tree."""
    schemas = sorted(path.name for path in (ROOT / "proto").glob("*.proto"))
    if not schemas:
        raise SystemExit("gen_proto: no schema in proto/")
    arguments = [
        "protoc",
        f"-I{PACKAGE.as_posix()}={ROOT / 'proto'}",  # as the Python package, so that imports work
        f"--plugin=protoc-gen-mypy={Path(sys.executable).parent / 'protoc-gen-mypy'}",
        f"--python_out={target}",
        f"--mypy_out=quiet:{target}",
        *(f"{PACKAGE.as_posix()}/{name}" for name in schemas),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("gen_proto: protoc failed")
    (target / PACKAGE / "__init__.py").write_text(INIT)


def texts(directory: Path) -> dict[str, str]:
    """The generated files in `directory` by name; nothing when it does not exist."""
    return {path.name: path.read_text() for path in sorted(directory.glob("*.py*")) if path.is_file()}


def drift(committed: dict[str, str], fresh: dict[str, str]) -> list[str]:
    """One line for each file that differs, with the number of lines added and removed."""
    report = []
    for name in sorted(committed.keys() | fresh.keys()):
        old, new = committed.get(name), fresh.get(name)
        if old is None:
            report.append(f"{name}: missing")
        elif new is None:
            report.append(f"{name}: has no schema")
        elif old != new:
            lines = [
                line
                for line in difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=0)
                if not line.startswith(("---", "+++", "@@"))
            ]
            added = sum(line.startswith("+") for line in lines)
            report.append(f"{name}: +{added} -{len(lines) - added} lines; first: {lines[0]}")
    return report


def write(fresh: dict[str, str]) -> None:
    """Replaces the committed files by `fresh` and removes those without a schema."""
    directory = ROOT / PACKAGE
    directory.mkdir(parents=True, exist_ok=True)
    for name in texts(directory).keys() - fresh.keys():
        (directory / name).unlink()
    for name, text in fresh.items():
        (directory / name).write_text(text)


def main(arguments: list[str] | None = None) -> int:
    """Generates or checks; the exit code is 1 on drift."""
    parser = argparse.ArgumentParser(description="generate talos/wire/pb from proto/")
    parser.add_argument("--check", action="store_true", help="compare only, fail on drift")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch)
        generate(target)
        fresh = texts(target / PACKAGE)
    if not options.check:
        write(fresh)
        return 0
    report = drift(texts(ROOT / PACKAGE), fresh)
    for line in report:
        print(f"gen_proto: {line}", file=sys.stderr)
    if report:
        print("gen_proto: run `python scripts/gen_proto.py` and commit the result", file=sys.stderr)
    return 1 if report else 0


if __name__ == "__main__":
    raise SystemExit(main())
