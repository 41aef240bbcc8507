"""Two nodes, a lent server and a client, in one process; and a log in memory."""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio
from trio.testing import memory_stream_one_way_pair

from talos.abc import AuditReceipt
from talos.errors import AuditError
from talos.host import presets
from talos.host.node import open_node
from talos.mcp.connect import McpConnectConfig, McpExit, run_mcp_client
from talos.mcp.limits import McpLimits
from talos.mcp.policy import quick_policy
from talos.mcp.serve import McpServeConfig, McpServer, open_mcp_server
from tests.carriers import USUAL, carried

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from talos.abc import AuditEntry
    from talos.host.node import Node

SERVER = Path(__file__).parent / "servers" / "fault_server.py"
FAST = [sys.executable, "-I", "-S", str(SERVER)]
GRACE = 0.4


class MemoryLog:
    """An AuditLog that forgets at the end; `refuse` makes it say no, `stall` makes it late."""

    def __init__(self) -> None:
        self.entries: list[AuditEntry] = []
        self.commits: list[int] = []
        self.refuse = False
        self.stall = False

    async def record(self, entry: AuditEntry) -> AuditReceipt:
        return (await self.record_many([entry]))[0]

    async def record_many(self, entries: Sequence[AuditEntry]) -> Sequence[AuditReceipt]:
        await trio.lowlevel.checkpoint()
        if self.stall:
            await trio.sleep_forever()
        if self.refuse:
            raise AuditError("the disk is full")
        self.entries += entries
        self.commits.append(len(entries))
        return [AuditReceipt(hashlib.sha256(entry.msg_id).digest(), duplicate=False, promise=None) for entry in entries]

    def check_receipt(self, *args: object, **kwargs: object) -> None:
        raise AssertionError("the tunnel asks for no promise")


def request(method: str, id_: Any = 1, **params: Any) -> bytes:
    """One request as its line, without the line feed."""
    message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode()


def call(tool: str, id_: Any = 1, **arguments: Any) -> bytes:
    """A tool call as its line."""
    return request("tools/call", id_, name=tool, arguments=arguments)


INITIALIZE = request(
    "initialize", 0, protocolVersion="2025-06-18", capabilities={}, clientInfo={"name": "t", "version": "1"}
)


def text_of(line: bytes) -> str:
    """What a tool answered."""
    text = json.loads(line)["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


def error_of(line: bytes) -> tuple[int, str]:
    """Code and reason of an error of the tunnel."""
    error = json.loads(line)["error"]
    assert error["data"]["source"] == "talos"
    return error["code"], error["data"]["reason"]


class McpClient:
    """What an MCP client has of the tunnel: two pipes, and in the end an exit."""

    def __init__(self) -> None:
        self._to, self.stdin = memory_stream_one_way_pair()
        stdout, self._from = memory_stream_one_way_pair()
        self.stdout: trio.abc.SendStream = stdout
        self._buffer = b""
        self.got = bytearray()
        """All of stdout."""
        self.exit: McpExit | None = None
        self.ended = trio.Event()
        self.scope = trio.CancelScope()

    async def send(self, *lines: bytes) -> None:
        await self._to.send_all(b"".join(line + b"\n" for line in lines))

    async def send_raw(self, data: bytes) -> None:
        await self._to.send_all(data)

    async def close_stdin(self) -> None:
        await self._to.aclose()

    async def close_stdout(self) -> None:
        await self._from.aclose()

    async def line(self) -> bytes:
        """The next line of stdout without its end; b"" at the end."""
        with trio.fail_after(30):
            while b"\n" not in self._buffer:
                data = await self._from.receive_some()
                if not data:
                    assert not self._buffer, "stdout ended inside a line"
                    return b""
                self.got += data
                self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def lines(self, count: int) -> list[bytes]:
        return [await self.line() for _ in range(count)]

    async def call(self, tool: str, id_: Any = 1, **arguments: Any) -> str:
        """A tool's answer."""
        await self.send(call(tool, id_, **arguments))
        return text_of(await self.line())

    async def end(self) -> McpExit:
        """Waits for the exit."""
        with trio.fail_after(30):
            await self.ended.wait()
        assert self.exit is not None
        return self.exit


@dataclass
class Tunnel:
    """A serving node and one or more that connect."""

    serving: Node
    connecting: list[Node]
    server: McpServer
    nursery: trio.Nursery
    serve_log: MemoryLog
    connect_log: MemoryLog
    audit: str
    said: list[str] = field(default_factory=list)
    client_said: list[str] = field(default_factory=list)

    def client(self, number: int = 0, log: MemoryLog | None = None, **changes: Any) -> McpClient:
        """A new client on the node of that number; `changes` are of its configuration."""
        client = McpClient()
        self.start(client, number, log, **changes)
        return client

    def start(self, client: McpClient, number: int = 0, log: MemoryLog | None = None, **changes: Any) -> None:
        """The same for a client that stands."""
        config = McpConnectConfig(
            peer=self.serving.peer_id,
            addrs=tuple(self.serving.addrs),
            audit=self.audit,
            drain_seconds=2,
            report=self.client_said.append,
        )
        config = replace(config, **changes)
        log = log or self.connect_log
        self.nursery.start_soon(self._run, client, self.connecting[number], config, log)

    async def _run(self, client: McpClient, node: Node, config: McpConnectConfig, log: MemoryLog) -> None:
        with client.scope:
            client.exit = await run_mcp_client(
                node, config, None if config.audit == "off" else log, client.stdin, client.stdout
            )
        await client.stdout.aclose()
        client.ended.set()

    def pids(self) -> list[int]:
        """Of the servers that run."""
        return [info.pid for info in self.server.sessions if info.pid is not None]


@asynccontextmanager
async def tunnel(
    *options: str,
    clients: int = 1,
    granted: int | None = None,
    command: Sequence[str] = (),
    limits: McpLimits | None = None,
    audit: str = "calls",
    env: dict[str, str] | None = None,
    carrier: str = USUAL,
    **changes: Any,
) -> AsyncIterator[Tunnel]:
    """A fault server lent by one node to the first `granted` of the others."""
    connecting = [carried(presets.testing(), carrier) for _ in range(clients)]
    said: list[str] = []
    async with open_node(carried(presets.testing(), carrier)) as serving, trio.open_nursery() as nodes:
        opened = [await nodes.start(_keep_node, config) for config in connecting]
        policy = quick_policy(
            command or [*FAST, *options],
            [node.peer_id for node in opened[: clients if granted is None else granted]],
            env=env or {},
        )
        config = McpServeConfig(
            policy=policy,
            limits=limits or McpLimits(),
            audit=audit,
            grace_seconds=GRACE,
            drain_seconds=1,
            report=said.append,
        )
        config = replace(config, **changes)
        serve_log = MemoryLog()
        log = None if audit == "off" else serve_log
        async with open_mcp_server(serving, config, log) as server, trio.open_nursery() as nursery:
            yield Tunnel(serving, opened, server, nursery, serve_log, MemoryLog(), audit, said)
            nursery.cancel_scope.cancel()
        nodes.cancel_scope.cancel()


async def _keep_node(config: Any, task_status: trio.TaskStatus[Node]) -> None:
    async with open_node(config) as node:
        task_status.started(node)
        await trio.sleep_forever()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


async def all_gone(t: Tunnel, *pids: int) -> None:
    """Nothing of these is left, and the server knows of no session."""
    with trio.fail_after(10):
        while t.server.sessions or any(alive(pid) for pid in pids):  # noqa: ASYNC110 - foreign processes
            await trio.sleep(0.02)
