"""multistream-select 1.0: two sides agree on a protocol by name.

The machine is pure; `negotiate` drives it on any stream, and on muxed streams gives a `Stream` back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.multistream.machine import MultistreamConfig
    from talos.multistream.negotiate import answer, negotiate_inbound, negotiate_outbound, select
    from talos.multistream.stream import LazyStream, NegotiatedStream, PrefixedStream

__all__ = [
    "LazyStream",
    "MultistreamConfig",
    "NegotiatedStream",
    "PrefixedStream",
    "answer",
    "negotiate_inbound",
    "negotiate_outbound",
    "select",
]

__getattr__ = lazy_names(
    __name__,
    {
        "LazyStream": "talos.multistream.stream",
        "MultistreamConfig": "talos.multistream.machine",
        "NegotiatedStream": "talos.multistream.stream",
        "PrefixedStream": "talos.multistream.stream",
        "answer": "talos.multistream.negotiate",
        "negotiate_inbound": "talos.multistream.negotiate",
        "negotiate_outbound": "talos.multistream.negotiate",
        "select": "talos.multistream.negotiate",
    },
)
