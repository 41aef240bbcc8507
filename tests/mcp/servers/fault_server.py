"""An MCP server of the standard library that speaks both eras and misbehaves on request.

One line in, one line out; each tool is a fault or a probe. Options set what it does at its start and at its end.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

Json = dict[str, Any]

LEGACY = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN = "2026-07-28"
INFO = {"name": "fault-server", "version": "1"}
_writing = threading.Lock()


def write(line: bytes) -> None:
    """One line out, whole."""
    with _writing:
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()


def send(message: object) -> None:
    write(json.dumps(message, separators=(",", ":")).encode())


def text(value: str) -> dict[str, object]:
    return {"content": [{"type": "text", "text": value}], "isError": False, "resultType": "complete"}


# ----------------------------------------------------------------------------------- tools


def sleep(arguments: Json) -> str:
    time.sleep(arguments["seconds"])
    return "slept"


def crash(arguments: Json) -> str:
    if "signal" in arguments:
        os.kill(os.getpid(), arguments["signal"])
    os._exit(arguments.get("status", 3))


def big(arguments: Json) -> str:
    return "x" * int(arguments["bytes"])


def count(arguments: Json) -> str:
    return str(len(arguments["text"]))


def raw(arguments: Json) -> str:
    """Bytes on stdout as they are, before the answer."""
    write(base64.b64decode(arguments["base64"]))
    return "written"


def notify(arguments: Json) -> str:
    for number in range(arguments["count"]):
        send({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": number}})
    return "sent"


def stderr(arguments: Json) -> str:
    for number in range(arguments["lines"]):
        sys.stderr.write(f"stderr line {number}\n")
    sys.stderr.flush()
    return "said"


def grandchild(arguments: Json) -> str:
    """Starts a process that outlives us unless somebody ends it; `daemon`: in a session of its own."""
    code = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", code],
        start_new_session=arguments.get("daemon", False),
        stdout=None if arguments.get("holds_stdout") else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    return str(process.pid)


def end_stdout(arguments: Json) -> str:
    os.close(1)
    time.sleep(600)
    return ""


TOOLS: dict[str, Callable[[Json], str]] = {
    "echo": lambda arguments: arguments["text"],
    "sleep": sleep,
    "crash": crash,
    "big": big,
    "count": count,
    "raw": raw,
    "notify": notify,
    "stderr": stderr,
    "grandchild": grandchild,
    "end_stdout": end_stdout,
    "stuck": sleep,
    "environment": lambda arguments: json.dumps(dict(os.environ)),
    "descriptors": lambda arguments: json.dumps(sorted(int(path.name) for path in Path("/proc/self/fd").iterdir())),
    "pid": lambda arguments: str(os.getpid()),
    "group": lambda arguments: json.dumps([os.getpgrp(), os.getsid(0)]),
}
IN_THREADS = {"sleep", "big"}


def call(request: Json) -> dict[str, object]:
    params = request["params"]
    return text(TOOLS[params["name"]](params.get("arguments", {})))


def initialize(request: Json) -> dict[str, object]:
    wanted = request["params"].get("protocolVersion")
    version = wanted if wanted in LEGACY else LEGACY[-1]
    return {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": INFO}


def discover(request: Json) -> dict[str, object]:
    return {
        "supportedVersions": [MODERN],
        "capabilities": {"tools": {}},
        "serverInfo": INFO,
        "resultType": "complete",
        "ttlMs": 0,
        "cacheScope": "private",
    }


def list_tools(request: Json) -> dict[str, object]:
    tools = [{"name": name, "inputSchema": {"type": "object"}} for name in TOOLS]
    return {"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}


METHODS: dict[str, Callable[[Json], Json]] = {
    "initialize": initialize,
    "server/discover": discover,
    "ping": lambda request: {},
    "tools/list": list_tools,
    "tools/call": call,
}


# ----------------------------------------------------------------------------------- lines


def answer(request: Json) -> None:
    """The response to one request."""
    method = METHODS.get(request["method"])
    if method is None:
        send({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32601, "message": "no such method"}})
        return
    try:
        result = method(request)
    except (KeyError, TypeError, ValueError) as error:
        send({"jsonrpc": "2.0", "id": request["id"], "error": {"code": -32602, "message": repr(error)}})
    else:
        send({"jsonrpc": "2.0", "id": request["id"], "result": result})


def take(line: bytes) -> None:
    """One line in."""
    try:
        message = json.loads(line)
    except ValueError:
        send({"jsonrpc": "2.0", "id": None, "error": {"code": -32700, "message": "not JSON"}})
        return
    for request in message if isinstance(message, list) else [message]:
        if not isinstance(request, dict) or "method" not in request or "id" not in request:
            continue
        params = request.get("params")
        if isinstance(params, dict) and params.get("name") in IN_THREADS:
            threading.Thread(target=answer, args=(request,), daemon=True).start()
        else:
            answer(request)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--deaf", action="store_true", help="neither EOF nor SIGTERM ends it")
    parser.add_argument("--record", type=Path, help="every byte of stdin goes there")
    parser.add_argument("--mark", type=Path, help="one line per start goes there")
    parser.add_argument("--say", help="said on stdout at the start, as it is")
    parser.add_argument("--exit", type=int, help="ends at once, with that status")
    parser.add_argument("--spawn", choices=("group", "daemon"), help="starts a grandchild")
    arguments = parser.parse_args()
    if arguments.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if arguments.mark:
        with arguments.mark.open("a") as marks:
            marks.write(f"{os.getpid()}\n")
    if arguments.exit is not None:
        os._exit(arguments.exit)
    if arguments.say:
        write(arguments.say.encode())
    if arguments.spawn:
        grandchild({"daemon": arguments.spawn == "daemon"})
    record = arguments.record.open("ab", buffering=0) if arguments.record else None
    for line in sys.stdin.buffer:
        if record:
            record.write(line)
        take(line.rstrip(b"\r\n"))
    while arguments.deaf:
        time.sleep(600)


if __name__ == "__main__":
    main()
