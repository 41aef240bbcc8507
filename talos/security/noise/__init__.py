"""Noise (libp2p noise, 3A r5): `Noise_XX_25519_ChaChaPoly_SHA256`, authenticated by the identity key."""

from talos.security.noise.config import NoiseConfig
from talos.security.noise.transport import Noise

__all__ = ["Noise", "NoiseConfig"]
