"""The public tools from npm get through the tunnel exactly what they get without it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.mcp.proof.conftest import HERE, PYTHON_SERVERS, Tunnel, lend, talos
from tests.mcp.proof.toolbox import Toolbox, toolbox

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.interop

ERAS = ("legacy", "modern")
CONFORMANCE_SECONDS = 110
# Scenarios of the suite that the fixture behind the front passes; equal or better is required of the tunnel anyway.
PASSED_AT_LEAST = {"2025-11-25": 20, "2026-07-28": 20}


@dataclass(frozen=True)
class Room:
    """Where the tools are, what is lent, and how it is started directly."""

    tools: Toolbox
    direct: dict[str, list[str]]
    tunnel: Tunnel
    files: Path
    path: Path


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    tools = toolbox()
    path = tmp_path_factory.mktemp("npm")
    files = path / "files"
    files.mkdir()
    (files / "hello.txt").write_text("good morning, ü\u2028")
    direct = {
        **PYTHON_SERVERS,
        "everything": list(tools.program("server-everything")),
        "filesystem": [*tools.program("server-filesystem"), str(files)],
    }
    for tunnel in lend(path, direct):
        yield Room(tools, direct, tunnel, files, path)


@dataclass(frozen=True)
class Answer:
    code: int
    out: str


def inspect(room: Room, config: Path, server: str, *words: str) -> Answer:
    """One run of the inspector's command line."""
    done = subprocess.run(
        [
            *room.tools.program("inspector"),
            "--cli",
            "--config",
            str(config),
            "--server",
            server,
            "--format",
            "json",
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(room.path), "MCP_INSPECTOR_SECRET_STORE": "memory"},
        cwd=room.path,
    )
    return Answer(done.returncode, done.stdout)


def config(room: Room, name: str, era: str, command: list[str]) -> Path:
    file = room.path / f"{name}-{era}.json"
    entry = {"command": command[0], "args": command[1:], "protocolEra": era}
    file.write_text(json.dumps({"mcpServers": {"it": entry}}))
    return file


METHODS = [
    ("tools/list",),
    ("resources/list",),
    ("prompts/list",),
    ("tools/call", "--tool-name", "add", "--tool-arg", "a=2", "b=40"),
    ("tools/call", "--tool-name", "test_error_handling"),
    ("tools/call", "--tool-name", "no_such_tool"),
    ("resources/read", "--uri", "test://static-text"),
    ("resources/read", "--uri", "test://nothing"),
    ("prompts/get", "--prompt-name", "test_prompt_with_arguments", "--prompt-args", "arg1=a", "arg2=b"),
]


@pytest.mark.parametrize("era", ERAS)
@pytest.mark.parametrize("method", METHODS, ids=" ".join)
def test_inspector(method: tuple[str, ...], era: str, room: Room) -> None:
    words = ("--method", *method)
    direct = inspect(room, config(room, "direct", era, room.direct["fixture"]), "it", *words)
    through = inspect(room, config(room, "through", era, room.tunnel.connect("fixture")), "it", *words)
    assert through == direct
    good = not any(word in {"test_error_handling", "no_such_tool", "test://nothing"} for word in method)
    assert (direct.code == 0) == good, direct.out


def test_inspector_with_the_entry_that_we_print(room: Room) -> None:
    """What `talos mcp-config` prints is a client's whole configuration."""
    done = subprocess.run(
        [*talos(room.tunnel.home), "mcp-config", room.tunnel.address, "--server", "everything", "--name", "it"],
        capture_output=True,
        text=True,
        check=True,
    )
    printed = room.path / "printed.json"
    printed.write_text(done.stdout)
    words = ("--method", "tools/call", "--tool-name", "echo", "--tool-arg", "message=through and through")
    direct = inspect(room, config(room, "direct", "legacy", room.direct["everything"]), "it", *words)
    assert inspect(room, printed, "it", *words) == direct
    assert "through and through" in direct.out


def talk(command: list[str], lines: list[dict[str, Any]], answers: dict[str, Any]) -> list[str]:
    """What a server says to the lines, its own requests answered by method; sorted, for it may say them in any order."""
    said: list[str] = []
    left = {line["id"] for line in lines if "id" in line}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdin is not None
        assert server.stdout is not None

        def send(message: dict[str, Any]) -> None:
            assert server.stdin is not None
            server.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")
            server.stdin.flush()

        for line in lines:
            send(line)
            while "id" in line and line["id"] in left:
                raw = server.stdout.readline()
                assert raw, said
                message = json.loads(raw)
                said.append(raw.decode())
                if "method" in message and "id" in message:
                    send({"id": message["id"], "result": answers[message["method"]]})
                elif "method" not in message:
                    left.discard(message.get("id"))
        server.stdin.close()
    return sorted(re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", line) for line in said)


HELLO: list[dict[str, Any]] = [
    {"id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "clientInfo": {"name": "c", "version": "1"},
        "capabilities": {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}}}},
    {"method": "notifications/initialized"},
]  # fmt: skip
ANSWERS = {
    "roots/list": {"roots": [{"uri": "file:///tmp", "name": "tmp"}]},
    "sampling/createMessage": {"role": "assistant", "content": {"type": "text", "text": "sampled"}, "model": "none"},
    "elicitation/create": {"action": "decline"},
    "ping": {},
}


def calls(*named: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "id": number,
            "method": "tools/call",
            "params": {"name": name, "arguments": arguments, "_meta": {"progressToken": number}},
        }
        for number, (name, arguments) in enumerate(named, 10)
    ]


def test_server_everything(room: Room) -> None:
    asked = [
        *HELLO,
        {"id": 1, "method": "tools/list"},
        *calls(
            ("echo", {"message": "hello"}),
            ("get-sum", {"a": 2, "b": 40}),
            ("trigger-long-running-operation", {"duration": 1, "steps": 4}),
            ("get-tiny-image", {}),
            ("trigger-sampling-request", {"prompt": "p", "maxTokens": 5}),
            ("trigger-elicitation-request", {}),
            ("get-roots-list", {}),
            ("get-structured-content", {"location": "Chicago"}),
            ("no-such-tool", {}),
        ),
        {"id": 2, "method": "resources/list"},
        {"id": 3, "method": "resources/templates/list"},
        {"id": 4, "method": "prompts/get", "params": {"name": "simple-prompt"}},
        {"id": 5, "method": "resources/subscribe", "params": {"uri": "demo://resource/static/document/features.md"}},
        {"id": 6, "method": "logging/setLevel", "params": {"level": "error"}},
    ]
    direct = talk(room.direct["everything"], asked, ANSWERS)
    assert talk(room.tunnel.connect("everything"), asked, ANSWERS) == direct
    methods = {json.loads(line).get("method") for line in direct}
    assert {"notifications/progress", "sampling/createMessage", "elicitation/create", "roots/list"} <= methods


def test_server_filesystem(room: Room) -> None:
    def asked(written: Path) -> list[dict[str, Any]]:
        return [
            *HELLO,
            {"id": 1, "method": "tools/list"},
            *calls(
                ("list_directory", {"path": str(room.files)}),
                ("read_text_file", {"path": str(room.files / "hello.txt")}),
                ("read_text_file", {"path": "/etc/passwd"}),
                ("write_file", {"path": str(written), "content": "written \u2028 through"}),
                ("read_text_file", {"path": str(written)}),
            ),
        ]

    answers = {"roots/list": {"roots": [{"uri": room.files.as_uri()}]}}
    written = room.files / "written.txt"
    direct = talk(room.direct["filesystem"], asked(written), answers)
    assert written.read_text() == "written \u2028 through"
    written.unlink()
    # The directory is listed before the file is written: both runs see the same.
    assert talk(room.tunnel.connect("filesystem"), asked(written), answers) == direct
    assert written.read_text() == "written \u2028 through"


@contextmanager
def front(command: list[str]) -> Iterator[str]:
    """The URL of a front before a server command."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "front.py"), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()


def conformance(room: Room, command: list[str], revision: str) -> tuple[int, list[str]]:
    """Exit code and table of the official suite."""
    with front(command) as url:
        done = subprocess.run(
            [
                *room.tools.program("conformance"),
                "server",
                "--url",
                url,
                "--requirements",
                revision,
                "--timeout",
                "10000",
            ],
            capture_output=True,
            text=True,
            timeout=CONFORMANCE_SECONDS,
            check=False,
            cwd=room.path,
        )
    table = [line for line in done.stdout.splitlines() if line.startswith(("✓", "✗", "Total:"))]
    return done.returncode, table


@pytest.mark.parametrize("revision", list(PASSED_AT_LEAST))
def test_conformance(revision: str, room: Room) -> None:
    direct = conformance(room, room.direct["fixture"], revision)
    assert conformance(room, room.tunnel.connect("fixture"), revision) == direct
    assert sum(line.startswith("✓") for line in direct[1]) >= PASSED_AT_LEAST[revision], direct[1]
