"""The example server speaks both eras, to a real client and to bare lines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client, StdioServerParameters

SERVER = Path(__file__).resolve().parents[2] / "examples" / "mcp_server.py"
MODERN = {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "hello.txt").write_text("good morning")
    (tmp_path / "secret.txt").write_text("not lent")
    (tmp_path / "notes" / "link.txt").symlink_to(tmp_path / "secret.txt")
    return tmp_path / "notes"


def answers(root: Path, *lines: str | dict[str, Any], options: tuple[str, ...] = ()) -> list[Any]:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    command = [sys.executable, "-I", str(SERVER), "--root", str(root), *options]
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=True)
    assert not done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def call(name: object, arguments: object, number: int = 1) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {"name": name, "arguments": arguments},
    }


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_real_client_uses_it(mode: Any, root: Path) -> None:
    parameters = StdioServerParameters(command=sys.executable, args=[str(SERVER), "--root", str(root)])
    async with Client(parameters, mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["add", "list_notes", "read_note"]
        assert client.protocol_version == ("2026-07-28" if mode == "auto" else "2025-11-25")
        for name, arguments, expected in (
            ("add", {"a": 2, "b": 40}, "42"),
            ("list_notes", {}, "hello.txt\nlink.txt"),
            ("read_note", {"name": "hello.txt"}, "good morning"),
        ):
            result = await client.call_tool(name, arguments)
            assert not result.is_error
            assert result.content[0].model_dump()["text"] == expected


@pytest.mark.parametrize("name", ["../secret.txt", "link.txt", "/etc/passwd", "nothing", "", ".", "..", 5])
def test_only_the_files_of_the_directory_are_lent(name: object, root: Path) -> None:
    (answer,) = answers(root, call("read_note", {"name": name}))
    assert answer["result"]["isError"]
    assert "not lent" not in json.dumps(answer)


@pytest.mark.parametrize(
    "arguments", [{}, {"a": 1}, {"a": "1", "b": 2}, {"a": True, "b": 2}, [1, 2], {"a": 1, "b": 2, "c": 3}]
)
def test_wrong_arguments_are_told_to_the_model(arguments: object, root: Path) -> None:
    (answer,) = answers(root, call("add", arguments))
    assert answer["result"]["isError"]


def test_errors_are_those_of_json_rpc(root: Path) -> None:
    found = answers(
        root,
        "{",
        "[]",
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "no/such"},
        call("nix", {}),
        call(7, {}),
        {"jsonrpc": "2.0", "id": 2, "method": "ping"},
        {"jsonrpc": "2.0", "id": 3, "method": "ping", "params": {"_meta": MODERN}},
        {"jsonrpc": "2.0", "id": 4, "method": "tools/list", "params": {"_meta": {next(iter(MODERN)): "2031-01-01"}}},
    )
    assert [answer.get("error", {}).get("code") for answer in found] == [
        -32700, -32600, -32601, -32602, -32602, None, -32601, -32022,
    ]  # fmt: skip
    assert found[-1]["error"]["data"]["supported"][0] == "2026-07-28"
    assert found[5]["result"] == {}


def test_a_start_leaves_a_mark(root: Path, tmp_path: Path) -> None:
    for _ in range(2):
        answers(root, options=("--marks", str(tmp_path / "marks")))
    assert len((tmp_path / "marks").read_text().splitlines()) == 2
