"""`talos config` and `talos completion`."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from talos.identity import private_file
from talos.identity.home import Home
from tests.unit.cli.conftest import checked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.cli.conftest import Talos


@pytest.fixture
def settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    Home(home).prepare()
    private_file.write(
        home / "config.toml", b'[node]\nport = 1\nlisten = ["/ip4/1.2.3.4/tcp/1"]\n[files]\nfrom = "ask"\n'
    )
    monkeypatch.setenv("TALOS_NODE_PORT", "2")
    return home


def test_each_setting_and_its_origin(talos_: Talos, settings: Path) -> None:
    rows = [checked(line) for line in talos_("config", "show", "--json").out.splitlines()]
    found = {row["key"]: (row["value"], row["origin"]) for row in rows}
    file = str(settings / "config.toml")
    assert found["node.port"] == (2, "TALOS_NODE_PORT")
    assert found["node.listen"] == (["/ip4/1.2.3.4/tcp/1"], file)
    assert found["files.from"] == ("ask", file)
    assert found["log.level"] == ("warning", "default")
    shown = talos_("config", "show", "--origin").out
    assert "node.port = 2    # TALOS_NODE_PORT\n" in shown
    assert 'node.listen = ["/ip4/1.2.3.4/tcp/1"]    # ' in shown
    assert "#" not in talos_("config", "show").out


def test_one_setting(talos_: Talos, settings: Path) -> None:
    assert talos_("config", "get", "files.from").out == "ask\n"
    assert talos_("config", "get", "node.mdns").out == "false\n"
    assert talos_("config", "get", "node.port", "--json").object()["value"] == 2
    wrong = talos_("config", "get", "node.prot", "--json").error()
    assert (wrong["exit"], wrong["hint"]) == (2, "did you mean node.port?")


def test_a_mistake_is_found_without_starting_anything(talos_: Talos, settings: Path) -> None:
    assert talos_("config", "check").code == 0
    assert talos_("config", "path").out == f"{settings / 'config.toml'}\n"
    private_file.write(settings / "config.toml", b"[node]\nprot = 1\n", replace=True)
    error = talos_("config", "check", "--json").error()
    assert error["exit"] == 5
    assert "config.toml line 2" in error["message"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(talos_: Talos, shell: str) -> None:
    assert "_TALOS_COMPLETE" in talos_("completion", shell).out
    assert talos_("completion", "tcsh").code == 2


def test_bash_reads_the_script(talos_: Talos) -> None:
    script = talos_("completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False, timeout=60).returncode == 0


def test_neither_loads_what_talks_to_others(home: Path) -> None:
    program = (
        "import sys, json; from talos.cli.main import main; "
        "codes = [main(['config', 'show', '-q']), main(['completion', 'bash'])]; "
        "print(json.dumps([codes, [name for name in ('trio', 'cryptography') if name in sys.modules]]))"
    )
    Home(home).prepare()
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(done.stdout.splitlines()[-1]) == [[0, 0], []]
