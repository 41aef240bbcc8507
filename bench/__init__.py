"""Benchmarks: Talos and its peers side by side, each through the same adapter, taken in turns."""
