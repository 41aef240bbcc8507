"""A small MCP server on stdin and stdout, without dependencies, for both eras of the protocol.

It adds numbers and lends the text files of one directory, read-only:

    python examples/mcp_server.py --root ./notes
    talos mcp-serve --authorized-peer PEER --command "python /path/to/mcp_server.py --root /path/to/notes"

Clients before 2026-07-28 open with `initialize`; later ones ask `server/discover`, or nothing, and name the version in
each request.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
MODERN = ("2026-07-28",)
INFO = {"name": "talos-example", "version": "1"}
VERSION_KEY = "io.modelcontextprotocol/protocolVersion"
INFO_KEY = "io.modelcontextprotocol/serverInfo"
MAX_NOTE_BYTES = 1 << 20

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS = -32700, -32600, -32601, -32602
UNSUPPORTED_VERSION = -32022


class RpcError(Exception):
    """Becomes the error member of the answer."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code, self.data = code, data


class ToolError(Exception):
    """Becomes a result with `isError`: the model is to read it."""


def main() -> int:
    parser = argparse.ArgumentParser(description="A small MCP server: adds numbers, lends text files.")
    parser.add_argument("--root", type=Path, default=Path(), help="directory whose files are lent, read-only")
    parser.add_argument("--marks", type=Path, help="append one line here at each start")
    options = parser.parse_args()
    if options.marks is not None:
        with options.marks.open("a") as marks:
            marks.write(f"{os.getpid()}\n")
    server = Server(options.root.resolve())
    for line in sys.stdin.buffer:
        answer = server.answer(line)
        if answer is not None:
            sys.stdout.write(json.dumps(answer, separators=(",", ":")) + "\n")
            sys.stdout.flush()
    return 0


class Server:
    """Answers one line at a time; nothing is remembered between them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tools: dict[str, tuple[str, dict[str, str], Callable[[dict[str, Any]], str]]] = {
            "add": ("Adds two numbers", {"a": "number", "b": "number"}, self.add),
            "list_notes": ("Names the text files that can be read", {}, self.list_notes),
            "read_note": ("Reads one text file", {"name": "string"}, self.read_note),
        }

    def answer(self, line: bytes) -> dict[str, Any] | None:
        """The answer to a line, or None for a notification."""
        try:
            message = json.loads(line)
        except ValueError:
            return _error(None, RpcError(PARSE_ERROR, "not JSON"))
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            return _error(None, RpcError(INVALID_REQUEST, "not a request"))
        if "id" not in message:
            return None
        params = message.get("params")
        try:
            result = self.result(message["method"], params if isinstance(params, dict) else {})
        except RpcError as error:
            return _error(message["id"], error)
        return {"jsonrpc": "2.0", "id": message["id"], "result": result}

    def result(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        meta = params.get("_meta")
        version = meta.get(VERSION_KEY) if isinstance(meta, dict) else None
        if version is None:
            return self.legacy(method, params)
        if version not in MODERN:
            data = {"supported": [*MODERN, *LEGACY], "requested": version}
            raise RpcError(UNSUPPORTED_VERSION, "unsupported protocol version", data)
        result = self.modern(method, params)
        return {**result, "resultType": "complete", "_meta": {INFO_KEY: INFO}}

    def legacy(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "initialize":
            asked = params.get("protocolVersion")
            version = asked if asked in LEGACY else LEGACY[0]
            return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": INFO}
        if method == "ping":
            return {}
        return self.either(method, params)

    def modern(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        cached = {"ttlMs": 0, "cacheScope": "private"}
        if method == "server/discover":
            return {"supportedVersions": list(MODERN), "capabilities": {"tools": {}}, **cached}
        result = self.either(method, params)
        return {**result, **cached} if method == "tools/list" else result

    def either(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        if method == "tools/list":
            return {"tools": [_description(name, *spec[:2]) for name, spec in self.tools.items()]}
        if method != "tools/call":
            raise RpcError(METHOD_NOT_FOUND, "method not found", method)
        name, arguments = params.get("name"), params.get("arguments") or {}
        if not isinstance(name, str) or name not in self.tools:
            raise RpcError(INVALID_PARAMS, f"unknown tool: {name}")
        try:
            text, failed = self.call(name, arguments), False
        except ToolError as error:
            text, failed = str(error), True
        return {"content": [{"type": "text", "text": text}], "isError": failed}

    def call(self, name: str, arguments: object) -> str:
        _, expected, tool = self.tools[name]
        if not isinstance(arguments, dict) or set(arguments) != set(expected):
            raise ToolError(f"the arguments are: {', '.join(expected) or 'none'}")
        return tool(arguments)

    def add(self, arguments: dict[str, Any]) -> str:
        a, b = arguments["a"], arguments["b"]
        if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in (a, b)):
            raise ToolError("a and b must be numbers")
        return str(a + b)

    def list_notes(self, _: dict[str, Any]) -> str:
        return "\n".join(sorted(path.name for path in self.root.iterdir() if path.is_file()))

    def read_note(self, arguments: dict[str, Any]) -> str:
        path = self.root / str(arguments["name"])
        # A name that leads out of the directory names nothing in it.
        if path.parent != self.root or path.is_symlink() or not path.is_file():
            raise ToolError(f"there is no note {arguments['name']!r}")
        if path.stat().st_size > MAX_NOTE_BYTES:
            raise ToolError(f"the note is longer than {MAX_NOTE_BYTES} bytes")
        return path.read_text(encoding="utf-8", errors="replace")


def _description(name: str, text: str, arguments: dict[str, str]) -> dict[str, Any]:
    schema = {
        "type": "object",
        "properties": {argument: {"type": kind} for argument, kind in arguments.items()},
        "required": list(arguments),
    }
    return {"name": name, "description": text, "inputSchema": schema}


def _error(request: Any, error: RpcError) -> dict[str, Any]:
    body = {"code": error.code, "message": str(error)} | ({} if error.data is None else {"data": error.data})
    return {"jsonrpc": "2.0", "error": body} | ({} if request is None else {"id": request})


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
