"""A program of its own: an MCP client that starts a server command, lists its tools and calls some.

`python client.py JSON`, JSON = {"command": [...], "calls": [[tool, arguments], ...]}; prints one JSON object. It is the
`mcp` package where that is installed, else the standard library. It knows nothing of Talos.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PROTOCOL = "2025-11-25"


def main() -> None:
    request = json.loads(sys.argv[1])
    try:
        name = f"mcp {version('mcp')}"
    except PackageNotFoundError:
        name, answer = "standard library", with_standard_library(request["command"], request["calls"])
    else:
        answer = with_package(request["command"], request["calls"])
    print(json.dumps({"client": name, **answer}))


def with_package(command: list[str], calls: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The tools and results as the `mcp` package gives them."""
    import trio
    from mcp import Client, StdioServerParameters

    async def run() -> dict[str, Any]:
        async with Client(StdioServerParameters(command=command[0], args=command[1:])) as client:
            tools = [tool.name for tool in (await client.list_tools()).tools]
            results = [await client.call_tool(tool, arguments) for tool, arguments in calls]
        return {"tools": tools, "results": [_plain(result.model_dump(mode="json")) for result in results]}

    return trio.run(run)


def with_standard_library(command: list[str], calls: list[tuple[str, dict[str, Any]]]) -> dict[str, Any]:
    """The same over bare lines."""
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:  # noqa: S603 - its purpose
        hello = {"protocolVersion": PROTOCOL, "capabilities": {}, "clientInfo": {"name": "demo", "version": "1"}}
        ask(server, 1, "initialize", hello)
        send(server, {"jsonrpc": "2.0", "method": "notifications/initialized"})
        tools = [tool["name"] for tool in ask(server, 2, "tools/list", {})["tools"]]
        results = [
            _plain(ask(server, number, "tools/call", {"name": tool, "arguments": arguments}))
            for number, (tool, arguments) in enumerate(calls, 3)
        ]
    return {"tools": tools, "results": results}


def send(server: subprocess.Popen[bytes], message: dict[str, Any]) -> None:
    assert server.stdin is not None
    server.stdin.write(json.dumps(message).encode() + b"\n")
    server.stdin.flush()


def ask(server: subprocess.Popen[bytes], number: int, method: str, params: dict[str, Any]) -> Any:
    """The result of one request; what the server says in between is passed over."""
    send(server, {"jsonrpc": "2.0", "id": number, "method": method, "params": params})
    assert server.stdout is not None
    for line in server.stdout:
        message = json.loads(line)
        if message.get("id") == number and "method" not in message:
            if "result" not in message:
                raise SystemExit(f"{method}: {message.get('error')}")
            return message["result"]
    raise SystemExit(f"{method}: the server ended without an answer")


def _plain(result: dict[str, Any]) -> dict[str, Any]:
    """What both kinds of client agree on."""
    failed = bool(result.get("isError", result.get("is_error", False)))
    return {"text": [part["text"] for part in result["content"] if part["type"] == "text"], "failed": failed}


if __name__ == "__main__":
    main()
