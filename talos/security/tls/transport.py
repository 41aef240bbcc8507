"""TLS as a security transport: `/tls/1.0.0`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from talos.abc import Role
from talos.errors import ConfigError, NotSupported
from talos.identity.certificate import IdentityCertificate
from talos.security.channel import open_channel
from talos.security.tls.config import TlsConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from talos.abc import ProtocolId, SecureChannel
    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId

__all__ = ["Tls"]

_DEFAULT = TlsConfig()


class Tls:
    """libp2p TLS 1.3: an encrypted channel to whoever's certificate proves a peer id.

    The certificate and its key are made here and live as long as this object. A dialer's channel is open before the
    listener has judged the dialer: a refusal shows as HandshakeError from the first `receive_some`.
    NotSupported when the extra `talos[tls]` is not installed.
    """

    protocol_id: ProtocolId = "/tls/1.0.0"

    def __init__(self, key: PrivateKey, config: TlsConfig = _DEFAULT) -> None:
        try:
            from talos.security.tls import machine
        except ModuleNotFoundError as error:
            if error.name != "OpenSSL":
                raise
            raise NotSupported("TLS needs pyOpenSSL: install talos[tls]") from error
        self._config = config
        self._machine = machine.TlsMachine
        self._context = machine.make_context(IdentityCertificate.make(key, now=datetime.now(UTC)))

    async def secure(
        self, stream: trio.abc.Stream, role: Role, expected: PeerId | None, *, muxers: Sequence[ProtocolId] = ()
    ) -> SecureChannel:
        """As `talos.abc.SecurityTransport`."""
        if len(muxers) > self._config.max_muxers or any(not 0 < len(muxer.encode()) < 256 for muxer in muxers):
            raise ConfigError(f"ALPN takes {self._config.max_muxers} muxers of 1 to 255 bytes")
        machine = self._machine(
            self._context,
            dialer=role is Role.DIALER,
            now=datetime.now(UTC),
            config=self._config,
            muxers=muxers,
            expected=expected,
        )
        return await open_channel(stream, machine)
