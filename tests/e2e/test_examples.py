"""Every example runs, as its reader would run it; so does the program in the README."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A server says nothing by itself: it is run by the tests of the tunnel and of the demonstration.
SERVERS = {"mcp_server"}
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if path.stem not in SERVERS)


def run(program: Path | str, *options: str) -> str:
    arguments = [str(program)] if isinstance(program, Path) else ["-c", program]
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments, *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example: Path) -> None:
    assert run(example).strip()


def test_each_promised_example_is_there() -> None:
    assert {"echo", "ping", "yamux_only", "noise_only", "yamux_machine", "new_transport", "agent"} <= {
        path.stem for path in EXAMPLES
    }


def test_the_agent_is_twenty_lines() -> None:
    source = (ROOT / "examples" / "agent.py").read_text()
    agent = source[source.index("async def serve") : source.index("async def demonstration")]
    assert len([line for line in agent.splitlines() if line.strip()]) <= 20


def test_the_readme_program_is_short_and_runs() -> None:
    programs = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert programs
    for program in programs:
        assert len([line for line in program.splitlines() if line.strip()]) < 15
        assert run(program).strip()
