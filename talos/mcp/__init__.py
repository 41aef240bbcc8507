"""The MCP tunnel: an MCP server lent to named peers, over one libp2p stream (docs/protocols/mcp.md)."""
