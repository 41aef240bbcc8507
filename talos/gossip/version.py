"""Which protocol a neighbour speaks, and what that lets us send it."""

from __future__ import annotations

import enum

from talos.errors import NegotiationError

__all__ = ["PROTOCOLS", "Version"]


class Version(enum.IntEnum):
    """Rising with what the protocol can do; floodsub has no control messages at all."""

    FLOODSUB = 0
    V1_0 = 10
    V1_1 = 11
    """Peers and a back-off in PRUNE."""
    V1_2 = 12
    """IDONTWANT."""
    V1_3 = 13
    """Extensions."""

    @classmethod
    def of(cls, protocol: str) -> Version:
        """The version behind a protocol id; NegotiationError when it is none of ours."""
        try:
            return _VERSIONS[protocol]
        except KeyError:
            raise NegotiationError(f"{protocol} is no broadcast protocol that is spoken here") from None

    @property
    def protocol(self) -> str:
        """The protocol id."""
        return next(protocol for protocol, version in _VERSIONS.items() if version is self)


_VERSIONS = {
    "/meshsub/1.3.0": Version.V1_3,
    "/meshsub/1.2.0": Version.V1_2,
    "/meshsub/1.1.0": Version.V1_1,
    "/meshsub/1.0.0": Version.V1_0,
    "/floodsub/1.0.0": Version.FLOODSUB,
}

PROTOCOLS = tuple(_VERSIONS)
"""In the order in which they are offered."""
