"""Yamux, `/yamux/1.0.0`: `Yamux` on a trio stream, `YamuxMachine` for any event loop."""

from talos.muxer.yamux.config import YamuxConfig
from talos.muxer.yamux.machine import YamuxMachine
from talos.muxer.yamux.muxer import Yamux

__all__ = ["Yamux", "YamuxConfig", "YamuxMachine"]
