"""Yamux, `/yamux/1.0.0`: `Yamux` on a trio stream, `YamuxMachine` for any event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.muxer.yamux.config import YamuxConfig
    from talos.muxer.yamux.machine import YamuxMachine
    from talos.muxer.yamux.muxer import Yamux

__all__ = ["Yamux", "YamuxConfig", "YamuxMachine"]

__getattr__ = lazy_names(
    __name__,
    {
        "Yamux": "talos.muxer.yamux.muxer",
        "YamuxConfig": "talos.muxer.yamux.config",
        "YamuxMachine": "talos.muxer.yamux.machine",
    },
)
