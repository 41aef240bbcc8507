"""Mplex, `/mplex/6.7.0`: `Mplex` on a trio stream, `MplexMachine` for any event loop. Not in any default list."""

from talos.muxer.mplex.config import MplexConfig
from talos.muxer.mplex.machine import MplexMachine
from talos.muxer.mplex.muxer import Mplex

__all__ = ["Mplex", "MplexConfig", "MplexMachine"]
