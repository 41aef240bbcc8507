"""Checks that the hashed lists under requirements/ say what uv.lock says; plain Python, for machines without uv."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINNED = re.compile(r"^([a-z0-9._-]+)==([^ \\;]+)", re.MULTILINE)
HASH = re.compile(r"--hash=(sha256:[0-9a-f]{64})")


def locked_packages() -> dict[str, tuple[str, set[str]]]:
    """Name -> version and hashes of each package of uv.lock."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    packages = {}
    for package in lock["package"]:
        files = [*package.get("wheels", []), *([package["sdist"]] if "sdist" in package else [])]
        packages[package["name"]] = (package.get("version", ""), {file["hash"] for file in files})
    return packages


def faults(path: Path, locked: dict[str, tuple[str, set[str]]]) -> list[str]:
    """What one list has that the lock does not."""
    text = path.read_text()
    found = []
    for match in PINNED.finditer(text):
        name, version = match.groups()
        end = re.search(r"^\S", text[match.end() :], re.MULTILINE)
        block = text[match.end() : match.end() + end.start()] if end else text[match.end() :]
        locked_version, hashes = locked.get(name, ("absent", set()))
        if version != locked_version:
            found.append(f"{path.name}: {name} {version}, but uv.lock has {locked_version}")
        elif not set(HASH.findall(block)) <= hashes:
            found.append(f"{path.name}: {name} {version} has a hash that uv.lock does not know")
    return found or ([] if PINNED.search(text) else [f"{path.name}: pins nothing"])


def main() -> int:
    locked = locked_packages()
    found = [fault for path in sorted((ROOT / "requirements").glob("*.txt")) for fault in faults(path, locked)]
    if "trio-typing" in locked:
        found.append("uv.lock holds trio-typing, whose stubs shadow trio's own types")
    for fault in found:
        print(fault, file=sys.stderr)
    if found:
        print("run scripts/lock", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
