"""Noise as a security transport: `/noise`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from talos.abc import Role
from talos.errors import ConfigError
from talos.security.channel import open_channel
from talos.security.noise import wire
from talos.security.noise.config import NoiseConfig
from talos.security.noise.machine import NoiseMachine
from talos.security.noise.xx import KeyPair

if TYPE_CHECKING:
    from collections.abc import Sequence

    import trio

    from talos.abc import ProtocolId, SecureChannel
    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId

__all__ = ["Noise"]

_DEFAULT = NoiseConfig()


class Noise:
    """libp2p Noise: an encrypted channel to whoever proves a peer id.

    The static Diffie-Hellman key is made here, lives as long as this object and is signed by `key` once. `prologue`
    must be equal on both sides; libp2p has one only over WebRTC.
    """

    protocol_id: ProtocolId = "/noise"

    def __init__(self, key: PrivateKey, config: NoiseConfig = _DEFAULT, *, prologue: bytes = b"") -> None:
        self._config = config
        self._prologue = prologue
        self._static = KeyPair.of(X25519PrivateKey.generate())
        self._identity_key = key.public_key.to_bytes()
        self._signature = key.sign(wire.SIGNATURE_PREFIX + self._static.public)
        self._payload: tuple[tuple[ProtocolId, ...], bytes] = ((), wire.encode(self._identity_key, self._signature))
        """The last muxer list and its encoded payload: a host always asks for the same."""

    async def secure(
        self, stream: trio.abc.Stream, role: Role, expected: PeerId | None, *, muxers: Sequence[ProtocolId] = ()
    ) -> SecureChannel:
        """As `talos.abc.SecurityTransport`."""
        machine = NoiseMachine(
            dialer=role is Role.DIALER,
            static=self._static,
            ephemeral=KeyPair.of(X25519PrivateKey.generate()),
            payload=self._payload_for(tuple(muxers)),
            config=self._config,
            muxers=muxers,
            expected=expected,
            prologue=self._prologue,
        )
        return await open_channel(stream, machine)

    def _payload_for(self, muxers: tuple[ProtocolId, ...]) -> bytes:
        if self._payload[0] != muxers:
            if len(muxers) > self._config.max_muxers:
                raise ConfigError(f"more than {self._config.max_muxers} muxers")
            self._payload = (muxers, wire.encode(self._identity_key, self._signature, muxers))
        return self._payload[1]
