"""Snippets that a type checker must accept, or refuse where a line says `# error: …`."""

from __future__ import annotations

import re
from pathlib import Path

import mypy.api

HERE = Path(__file__).parent
EXPECTED = re.compile(r"# error: (.+)$")


def test_snippets() -> None:
    """One run for all of them: a checker's start costs more than the snippets."""
    snippets = sorted([*HERE.glob("accept_*.py"), *HERE.glob("reject_*.py")])
    output, errors, _ = mypy.api.run(["--strict", "--no-error-summary", "--follow-imports=silent", *map(str, snippets)])
    assert not errors
    found = {
        (Path(path).name, int(line)): text
        for path, line, text in re.findall(r"^(.+?):(\d+): error: (.+)$", output, re.MULTILINE)
    }
    for snippet in snippets:
        for number, line in enumerate(snippet.read_text().splitlines(), 1):
            if wanted := EXPECTED.search(line):
                reported = found.pop((snippet.name, number), "nothing")
                assert wanted.group(1) in reported, f"{snippet.name}:{number}: {reported}"
    assert not found
