"""Which program speaks for which implementation, and which of them this machine cannot run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interop.peers.build import BuildFailed, ToolchainAbsent, command
from interop.process import Adapter
from talos import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ROOT", "Adapters", "prepare", "talos_adapter"]

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """What became of each peer: it runs, its toolchain is absent, or it should have been built and was not."""

    ready: dict[str, Adapter]
    absent: dict[str, str]
    failed: dict[str, str]


def talos_adapter() -> Adapter:
    """Talos itself, from this tree."""
    return Adapter(name="talos", command=(sys.executable, "-m", "interop.peer"), version=__version__, cwd=ROOT)


async def prepare(peers: Sequence[str]) -> Adapters:
    """Builds those of `peers` that need it, one after the other: compilers fill the machine by themselves."""
    found = Adapters(ready={}, absent={}, failed={})
    for name in peers:
        if name == "talos":
            found.ready[name] = talos_adapter()
            continue
        try:
            built = await trio.to_thread.run_sync(command, name)
        except ToolchainAbsent as absent:
            found.absent[name] = str(absent)
        except BuildFailed as failed:
            found.failed[name] = str(failed)
        else:
            found.ready[name] = Adapter(name=name, command=built.argv, version=built.version)
    return found
