"""Perf: how fast bytes go to a peer and come back (libp2p perf)."""

from talos.perf.service import PERF, PerfConfig, PerfResult, open_perf, perf

__all__ = ["PERF", "PerfConfig", "PerfResult", "open_perf", "perf"]
