"""Runs commands in this process, and checks what every command owes."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

import talos.cli
from talos.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Callable

    Talos = Callable[..., "Ran"]

SCHEMAS = Path(talos.cli.__file__).with_name("schema")


@dataclass(frozen=True)
class Ran:
    """What came of one command."""

    code: int
    out: str
    err: str

    def object(self) -> dict[str, Any]:
        """The one JSON object of the answer, checked."""
        (line,) = self.out.splitlines()
        return checked(line)

    def error(self) -> dict[str, Any]:
        """The JSON error, which is all that was said."""
        assert not self.out
        found = checked(self.err.splitlines()[-1])
        assert found["kind"] == "error"
        assert found["exit"] == self.code
        return found


def checked(line: str) -> dict[str, Any]:
    """A JSON line against its schema; ASCII only."""
    assert line.isascii()
    found: dict[str, Any] = json.loads(line)
    schema = json.loads((SCHEMAS / f"{found['kind']}.json").read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(found)
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory that commands without `--data-dir` use; not there yet."""
    for name in ("TALOS_PASSPHRASE_FILE", "TALOS_NODE_PORT", "TALOS_MCP_POLICY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TALOS_DIR", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def talos_(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Talos:
    """Runs `talos ARGUMENTS`."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # comes back at the end

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        code = main(arguments)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Ran(code, captured.out, captured.err)

    return run
