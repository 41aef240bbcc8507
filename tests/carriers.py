"""What services are tested over besides their usual transport: `@over_carriers` on a test that takes `carrier`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from talos.host import presets
from talos.host.config import NodeConfig, Stack
from talos.transport import WebSocket

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.abc import ByteTransport

CARRIERS: dict[str, tuple[Callable[[], ByteTransport], str]] = {"ws": (WebSocket, "/ip4/127.0.0.1/tcp/0/ws")}
USUAL = "usual"

over_carriers = pytest.mark.parametrize("carrier", [USUAL, *CARRIERS], indirect=True)


def carried(usual: NodeConfig, carrier: str) -> NodeConfig:
    """`usual` over another carrier."""
    if carrier == USUAL:
        return usual
    transport, listen = CARRIERS[carrier]
    made = presets.testing(usual.key, stack=Stack(transports=(transport(),)), listen=listen)
    return replace(usual, stack=made.stack, listen=made.listen, limits=made.limits)
