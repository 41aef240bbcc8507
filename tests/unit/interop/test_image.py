"""The address that a listener publishes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from interop.harness import image
from interop.harness.settings import settings
from talos.addr import parse
from talos.errors import ConfigError

if TYPE_CHECKING:
    from talos.abc import Host

PEER = "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
ADDRS = [f"/ip4/{ip}/tcp/4001/p2p/{PEER}" for ip in ("127.0.0.1", "10.9.8.7", "10.9.8.70")]
ENVIRONMENT = {
    "TEST_KEY": "00000000",
    "IS_DIALER": "false",
    "TRANSPORT": "tcp",
    "SECURE_CHANNEL": "noise",
    "MUXER": "yamux",
    "REDIS_ADDR": "127.0.0.1:1",
}


HOST = cast("Host", SimpleNamespace(addrs=[parse(addr) for addr in ADDRS]))  # as much of one as is asked


async def test_a_wildcard_becomes_our_address_on_the_network_of_redis(monkeypatch: pytest.MonkeyPatch) -> None:
    async def own_ip(_: object) -> str:
        return "10.9.8.7"

    monkeypatch.setattr(image, "_own_ip", own_ip)
    assert await image.published_addr(settings(ENVIRONMENT), HOST) == ADDRS[1]


async def test_the_way_to_redis_names_our_address() -> None:
    assert await image.published_addr(settings(ENVIRONMENT), HOST) == ADDRS[0]


async def test_an_address_that_was_given_is_taken() -> None:
    assert await image.published_addr(settings(ENVIRONMENT | {"LISTENER_IP": "10.9.8.70"}), HOST) == ADDRS[2]


async def test_an_address_that_we_do_not_have_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"10\.9\.8\.71"):
        await image.published_addr(settings(ENVIRONMENT | {"LISTENER_IP": "10.9.8.71"}), HOST)
