"""Holds the public API still: every package's `__all__` against docs/public_names.txt.

A change of that file is a change for users: `--write` it, and say so in a fragment under changes/.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

import talos

RECORD = Path(__file__).resolve().parent.parent / "docs" / "public_names.txt"


def public_names() -> list[str]:
    """`module.name` of everything that a package or a seam module promises."""
    names = [f"talos.{name}" for name in talos.__all__]
    for found in pkgutil.walk_packages(talos.__path__, "talos."):
        if found.name.startswith(("talos.wire.pb", "talos.__main__")):
            continue
        if not (found.ispkg or found.name.count(".") == 1):
            continue
        module = importlib.import_module(found.name)
        names += [f"{found.name}.{name}" for name in getattr(module, "__all__", ())]
    return sorted(names)


def main() -> int:
    names = public_names()
    if "--write" in sys.argv[1:]:
        RECORD.write_text("".join(f"{name}\n" for name in names))
        return 0
    recorded = RECORD.read_text().split() if RECORD.exists() else []
    for name in sorted(set(names) - set(recorded)):
        print(f"new public name: {name}", file=sys.stderr)
    for name in sorted(set(recorded) - set(names)):
        print(f"public name gone: {name}", file=sys.stderr)
    if names != recorded:
        print("python scripts/public_names.py --write, and tell users in changes/", file=sys.stderr)
    return int(names != recorded)


if __name__ == "__main__":
    sys.exit(main())
