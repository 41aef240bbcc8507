"""Every command block of README and guides does what it says; links lead somewhere; settings are settings."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import TYPE_CHECKING

import pytest

from talos.cli import config
from talos.identity import private_file
from talos.identity.home import Home
from tests.docs.console import ROOT, Desk, blocks, pattern, steps

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WITH_COMMANDS = [page for page in PAGES if steps(page.read_text())]
GATE = {"README.md", "first-agent.md"}
"""What everybody reads first; the other pages run in `make long`."""
ELSEWHERE = {
    "make": "its targets are the gate, the long run, interop and benchmarks themselves",
    "scripts/check": "the gate itself",
    "git": "needs the network",
    "cd": "after git",
    "pip": "installs; the gate installs the wheel into an empty environment",
}
"""What may stand in a `sh` block, and why no test types it."""


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def marked(page: Path) -> object:
    return pytest.param(page, id=ids(page), marks=() if page.name in GATE else pytest.mark.long)


@pytest.mark.parametrize("page", [marked(page) for page in WITH_COMMANDS])
def test_the_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    with Desk(tmp_path) as desk:
        for step in steps(page.read_text()):
            desk.do(step)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_no_command_stands_outside_of_the_blocks_that_are_run(page: Path) -> None:
    text = page.read_text()
    for block in blocks(text, "sh"):
        for line in filter(None, block.splitlines()):
            assert line.split()[0] in ELSEWHERE, line
    for block in blocks(text, "", "text", "bash", "shell"):
        assert not re.search(r"^(\$ )?talos[ -]", block, re.MULTILINE), block
    assert not re.search(r"^ {4}talos ", text, re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, _ = target.partition("#")
        if path and "://" not in path:
            assert (page.parent / path).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page.read_text(), "python"))], ids=ids)
def test_programs_run(page: Path, tmp_path: Path) -> None:
    for program in blocks(page.read_text(), "python"):
        command = [sys.executable, "-W", "error", "-c", program]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [page for page in PAGES if list(blocks(page.read_text(), "toml"))], ids=ids)
def test_settings_are_known(page: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    for block in blocks(page.read_text(), "toml"):
        if "servers" in tomllib.loads(block):
            continue  # a policy, which the commands of its page read
        private_file.write(home.config, block.encode(), replace=True)
        assert config.load(home, {}) != config.Config()


@pytest.mark.parametrize(
    ("expected", "shown", "fits"),
    [
        (["delivered in 12 ms"], "delivered in 7 ms\n", True),
        (["delivered in 12 ms"], "delivered in 7.5 ms\n", True),
        (["delivered in 12 ms"], "queued in 7 ms\n", False),
        (["136 B/s"], "1.2 KiB/s\n", True),
        (["12D3KooW…1Mjs  ok"], "12D3KooWabcdefgh ok\n", True),
        (["12D3KooW…1Mjs  ok"], "12D3KooWabcdefgh no\n", False),
        (["a", "…", "b"], "a\nx\ny\nb\n", True),
        (["a", "…"], "a\n", True),
        (["a"], "a\nb\n", False),
        ([], "", True),
        ([], "said\n", False),
        (["x … y"], "x 1 2 3 y\n", True),
    ],
)
def test_what_fits_a_page(expected: list[str], shown: str, fits: bool) -> None:
    assert bool(pattern(expected).fullmatch(shown)) is fits
