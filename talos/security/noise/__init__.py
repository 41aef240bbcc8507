"""Noise (libp2p noise, 3A r5): `Noise_XX_25519_ChaChaPoly_SHA256`, authenticated by the identity key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.security.noise.config import NoiseConfig
    from talos.security.noise.transport import Noise

__all__ = ["Noise", "NoiseConfig"]

__getattr__ = lazy_names(
    __name__,
    {
        "Noise": "talos.security.noise.transport",
        "NoiseConfig": "talos.security.noise.config",
    },
)
