"""An MCP server lent from one node to another, and one tool call through the tunnel. Run it: it prints the answer.

Both nodes live in this program; in life each is a machine of its own, and `talos mcp-serve` and `talos mcp-connect`
are these two blocks with a command line. Nobody but the named peer gets a server process.
"""

import json
import sys
import tempfile
from pathlib import Path

import trio
from trio.testing import memory_stream_one_way_pair

from talos import Node, open_host, presets
from talos.mcp import McpConnectConfig, McpServeConfig, open_mcp_server, quick_policy, run_mcp_client

SERVER = """
import json, sys
for line in sys.stdin:
    request = json.loads(line)
    text = request["params"]["arguments"]["text"].upper()
    result = {"content": [{"type": "text", "text": text}]}
    print(json.dumps({"jsonrpc": "2.0", "id": request["id"], "result": result}), flush=True)
"""
CALL = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "tools/call",
    "params": {"name": "shout", "arguments": {"text": "hello through the tunnel"}},
}


async def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        program = Path(directory) / "server.py"
        program.write_text(SERVER)
        async with open_host(presets.testing()) as lender, open_host(presets.testing()) as borrower:
            policy = quick_policy([sys.executable, str(program)], [borrower.peer_id])
            # The audit log is left out here; the commands write one, and a call that is not recorded is not made.
            async with open_mcp_server(lender, McpServeConfig(policy=policy, audit="off"), None):
                await call(borrower, McpConnectConfig(peer=lender.peer_id, addrs=tuple(lender.addrs), audit="off"))


async def call(node: Node, config: McpConnectConfig) -> None:
    """What an MCP client does with the stdin and stdout of `talos mcp-connect`."""
    to_tunnel, stdin = memory_stream_one_way_pair()
    stdout, from_tunnel = memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_mcp_client, node, config, None, stdin, stdout)
        await to_tunnel.send_all(json.dumps(CALL).encode() + b"\n")
        answer = b""
        while not answer.endswith(b"\n"):
            answer += await from_tunnel.receive_some()
        print(json.loads(answer)["result"]["content"][0]["text"])
        await to_tunnel.aclose()


if __name__ == "__main__":
    trio.run(main)
