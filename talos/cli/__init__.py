"""The `talos` command."""
