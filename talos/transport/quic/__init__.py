"""QUIC v1 (libp2p quic, 3A r1), by aioquic's TLS and qh3's packet engine: the extra `talos[quic]`."""

from talos.transport.quic.config import QuicConfig
from talos.transport.quic.transport import Quic

__all__ = ["Quic", "QuicConfig"]
