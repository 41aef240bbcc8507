"""The MCP tunnel: an MCP server lent to named peers, over one libp2p stream (docs/protocols/mcp.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.mcp.connect import McpConnectConfig, run_mcp_client
    from talos.mcp.desk import answer_and_leave
    from talos.mcp.endings import McpExit
    from talos.mcp.limits import GrantLimits, McpLimits
    from talos.mcp.policy import Policy, parse_policy, quick_policy
    from talos.mcp.policy_file import load_policy
    from talos.mcp.serve import McpServeConfig, McpServer, SessionInfo, open_mcp_server
    from talos.mcp.stats import McpStats
    from talos.mcp.wire import PROTOCOL_ID

__all__ = [
    "PROTOCOL_ID",
    "GrantLimits",
    "McpConnectConfig",
    "McpExit",
    "McpLimits",
    "McpServeConfig",
    "McpServer",
    "McpStats",
    "Policy",
    "SessionInfo",
    "answer_and_leave",
    "load_policy",
    "open_mcp_server",
    "parse_policy",
    "quick_policy",
    "run_mcp_client",
]

_HOMES = {
    "PROTOCOL_ID": "talos.mcp.wire",
    "GrantLimits": "talos.mcp.limits",
    "McpConnectConfig": "talos.mcp.connect",
    "McpExit": "talos.mcp.endings",
    "McpLimits": "talos.mcp.limits",
    "McpServeConfig": "talos.mcp.serve",
    "McpServer": "talos.mcp.serve",
    "McpStats": "talos.mcp.stats",
    "Policy": "talos.mcp.policy",
    "SessionInfo": "talos.mcp.serve",
    "answer_and_leave": "talos.mcp.desk",
    "load_policy": "talos.mcp.policy_file",
    "open_mcp_server": "talos.mcp.serve",
    "parse_policy": "talos.mcp.policy",
    "quick_policy": "talos.mcp.policy",
    "run_mcp_client": "talos.mcp.connect",
}

__getattr__ = lazy_names(__name__, _HOMES)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
