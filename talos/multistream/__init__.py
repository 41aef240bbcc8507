"""multistream-select 1.0: two sides agree on a protocol by name.

The machine is pure; `negotiate` drives it on any stream, and on muxed streams gives a `Stream` back.
"""

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
