"""One fuzz target a machine: `target(data)` returns, or raises what the machine declares. Anything else is a crash."""
