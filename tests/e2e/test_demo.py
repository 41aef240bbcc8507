"""The demonstration: as it is told, and that each of its claims can fail."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

import talos.cli
from talos.cli.demo import world as worlds
from talos.cli.demo.client import with_standard_library
from talos.cli.demo.story import STEPS, Step, Story
from talos.cli.demo.world import Agent, Lent, World
from talos.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = "12D3KooWCwdoLSZCfEzmdTgo4hNDvbF7NwoCW8AQ6BEsmz5T1Mjs"
STEPS_TAKEN: list[Step] = []
"""Those of the story that the tests share."""
TOLD = """\
talos demo: agents on one machine, no registry, no account
 1 identities  ✓ alice PEER   bob PEER   toolhost PEER   mallory PEER   TIME
 2 network     ✓ bob is up; the others were given his address, and no other one   TIME
 3 lend        ✓ toolhost lends the example MCP server of this project, in Python to alice's key alone   TIME
 4 found       ✓ alice found toolhost by its key, through the DHT   TIME
 5 gossip      ✓ 2 published on "fleet", 2 of 2 subscribers have them, none twice   TIME
 6 call        ✓ alice called toolhost's read_note(hello.txt): 'good morning, this is note ID of toolhost'; \
3 tools listed, byte for byte as without a tunnel (client: mcp VERSION)   TIME
 7 refusal     ✓ mallory, not authorised, tried the same: exit 3, and no server was started   TIME
 8 audit       ✓ N lines in the log of each side, hash for hash; mallory's attempt in toolhost's   TIME
 9 tampering   ✓ one byte of a copied log flipped: verify names entry N, exit 8   TIME
10 after       ✓ all ended, no process left, no port open   TIME
all of it held, in TIME
Try it:  talos init --name YOU    ·    talos mcp-serve --help    ·    talos mcp-config --help
"""


def run_demo(tmp_path: Path, *words: str, path: str = "/nowhere") -> subprocess.CompletedProcess[str]:
    """`talos demo` in a temporary directory of its own; without npx unless the path has it."""
    environment = {**os.environ, "PATH": path, "TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-m", "talos", "demo", *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("words", [(), ("--json",)])
def test_the_whole_of_it_as_a_process(tmp_path: Path, words: tuple[str, ...]) -> None:
    """The gate does this with the wheel, and tells the story once in the tests below."""
    done = run_demo(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == (len(STEPS) if words else len(TOLD.splitlines()))
    assert not list(tmp_path.glob("talos-demo-*")), "everything is removed"


@pytest.mark.interop
def test_where_node_is_the_official_server_is_lent(tmp_path: Path) -> None:
    if shutil.which("npx") is None:
        pytest.skip("npx is absent")
    done = run_demo(tmp_path, path=os.environ["PATH"])
    assert done.returncode == 0, done.stderr
    assert "the official MCP file server (@modelcontextprotocol/server-filesystem)" in done.stdout


def test_it_runs_without_the_mcp_package(story: Story) -> None:
    """The other client: bare lines."""
    answer = with_standard_library(list(story.lent.command), list(story.lent.calls))
    assert answer == {key: story.world.client(story.lent.command, story.lent)[key] for key in answer}
    with pytest.raises(SystemExit, match="nothing"):
        with_standard_library(list(story.lent.command), [("nothing", {})])


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    """A story told up to its last step but one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "which", lambda name: None)
        with World() as world:
            told = Story(world)
            for name in STEPS[:-1]:
                step = told.take(name)
                assert step.ok, step.failed
                STEPS_TAKEN.append(step)
            yield told
    world.forget()
    STEPS_TAKEN.clear()


def claimed(story: Story, name: str) -> dict[str, bool]:
    """All claims of a step, and whether they hold."""
    return {claim.text: claim.holds for claim in story.take(name).claims}


def failing(story: Story, name: str) -> str:
    step = story.take(name)
    assert not step.ok
    return step.failed


def test_another_file_or_answer_fails_the_call(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies on the disk, what the server says to a client and to a pipe: each has a claim of its own."""
    client = World.client

    def altered(self: World, command: tuple[str, ...], lent: Lent) -> dict[str, Any]:
        return {"results": [], "tools": []} if command == lent.command else client(self, command, lent)

    monkeypatch.setattr(World, "note", property(lambda self: "what nobody read"))
    monkeypatch.setattr(World, "direct", lambda self, lent: b'{"jsonrpc":"2.0"}\n')
    monkeypatch.setattr(World, "client", altered)
    claims = claimed(story, "call")
    assert len(claims) == 4
    assert not any(claims.values())


@pytest.mark.long
def test_a_peer_that_nobody_knows_fails_the_call(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(story.agents, "toolhost", Agent("toolhost", story.world.home("toolhost"), NOBODY))
    assert "the MCP client failed" in failing(story, "call")


def test_another_address_fails_the_finding(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "address", "/ip4/127.0.0.1/tcp/1/p2p/x")
    assert failing(story, "found") == "the DHT told alice where toolhost listens"


def test_a_message_that_is_lost_or_doubled_fails_the_gossip(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    heard = World.heard
    monkeypatch.setattr(World, "heard", lambda self, subscriber: [*heard(self, subscriber)[:1]] * 2)
    assert failing(story, "gossip") == "bob heard what alice said, once each"


def test_an_authorised_mallory_fails_the_refusal(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it holds: she ends well, a server was started for her, and it answers her."""
    command = World.command
    monkeypatch.setattr(World, "command", lambda self, name: command(self, "alice"))
    assert claimed(story, "refusal") == {
        "mallory's mcp-connect ended with exit 3, not 0": False,
        "no server was started for mallory": False,
        "mallory got no line of the server": False,
    }


def test_a_missing_line_fails_the_audit(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = Story._entries
    monkeypatch.setattr(Story, "_entries", lambda self, name: entries(self, name)[: -2 if name == "alice" else None])
    assert failing(story, "audit") == "both sides recorded each line, with equal hashes"


def test_an_untouched_copy_fails_the_tampering(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "tamper", lambda self, log: 2)
    assert failing(story, "tampering") == "one flipped byte in a copied log is found (exit 0)"


def test_a_process_or_port_that_is_left_fails_the_end(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worlds, "END_SECONDS", 0.2)
    monkeypatch.setattr(World, "stop", lambda self, process: None)
    claims = claimed(story, "after")
    assert len(claims) == 4
    assert not any(claims.values())
    assert any(text.startswith("no process is left (process ") for text in claims)


def test_it_is_told_in_these_words(
    story: Story, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last of the story's tests: it ends toolhost and bob."""
    steps = [*STEPS_TAKEN, story.take("after")]
    assert story.world.left() == []
    monkeypatch.setattr(Story, "steps", lambda self: iter(steps))
    assert main(["demo"]) == 0
    told = re.sub(r"12D3KooW\w{4}…\w{4}", "PEER", capsys.readouterr().out)
    told = re.sub(r"\d+\.\d s$", "TIME", told, flags=re.MULTILINE)
    told = re.sub(r"note [0-9a-f]{8}", "note ID", told)
    told = re.sub(r"mcp \d+\.\d+\.\d+", "mcp VERSION", told)
    told = re.sub(r"\d+ lines in|(?<=entry )\d+", lambda found: "N lines in" if " " in found[0] else "N", told)
    assert told == TOLD
    assert main(["demo", "--json"]) == 0
    schema = json.loads((Path(talos.cli.__file__).parent / "schema" / "step.json").read_text())
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    for number, step in enumerate(objects, 1):
        Draft202012Validator(schema).validate(step)
        assert (step["n"], step["ok"]) == (number, True)
        assert step["claims"]
    assert [step["name"] for step in objects] == list(STEPS)


def test_a_failure_names_the_claim_and_keeps_the_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = World.make

    def careless(self: World, name: str) -> Any:
        agent = make(self, name)
        (agent.home / "wallet").chmod(0o644)
        return agent

    monkeypatch.setattr(World, "make", careless)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["demo"]) == 1
    told = capsys.readouterr()
    assert " 1 identities  ✗ the files of alice are readable by their owner alone" in told.out
    assert "talos: error: the demonstration failed at identities: the files of alice" in told.err
    (kept,) = tmp_path.glob("talos-demo-*")
    assert f"kept in {kept}" in told.err
    assert (kept / "alice" / "wallet").is_file()


def test_homes_are_kept_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Story, "steps", lambda self: iter(()))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert main(["demo", "--keep"]) == 0
    (kept,) = tmp_path.glob("talos-demo-*")
    assert f"the agents' homes are in {kept}" in capsys.readouterr().out
