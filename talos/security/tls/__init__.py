"""TLS 1.3 (libp2p tls, 3A r0), by pyOpenSSL: the extra `talos[tls]`."""

from talos.security.tls.config import TlsConfig
from talos.security.tls.transport import Tls

__all__ = ["Tls", "TlsConfig"]
