"""The agent's control: operations and snapshots over a socket in its home, for commands and for pages."""
