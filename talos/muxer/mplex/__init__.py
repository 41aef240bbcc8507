"""Mplex, `/mplex/6.7.0`: `Mplex` on a trio stream, `MplexMachine` for any event loop. Not in any default list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.muxer.mplex.config import MplexConfig
    from talos.muxer.mplex.machine import MplexMachine
    from talos.muxer.mplex.muxer import Mplex

__all__ = ["Mplex", "MplexConfig", "MplexMachine"]

__getattr__ = lazy_names(
    __name__,
    {
        "Mplex": "talos.muxer.mplex.muxer",
        "MplexConfig": "talos.muxer.mplex.config",
        "MplexMachine": "talos.muxer.mplex.machine",
    },
)
