"""The table of handlers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from talos.errors import ConfigError
from talos.host.routes import MAX_ROUTES, Route, Routes

if TYPE_CHECKING:
    from talos.abc import Stream


async def handler(stream: Stream) -> None:
    """Does nothing."""


def test_the_decorator_mounts_each_protocol_and_gives_the_handler_back() -> None:
    routes = Routes()
    assert routes.handle("/a", "/b")(handler) is handler
    assert routes.protocols == ("/a", "/b")
    assert routes.get("/b") == Route(handler)


def test_mounted_lasts_for_the_block() -> None:
    routes = Routes()
    with routes.mounted("/a", handler, limited=True):
        assert "/a" in routes.offered(limited=True)
    assert routes.protocols == ()
    assert "/a" not in routes.offered(limited=True)


def test_relayed_connections_are_offered_only_what_admits_them() -> None:
    routes = Routes()
    routes.handle("/a")(handler)
    routes.handle("/b", limited=True)(handler)
    offered = routes.offered(limited=True)
    assert "/a" not in offered
    assert "/b" in offered
    assert "/a" in routes.offered(limited=False)


def test_every_change_is_told() -> None:
    seen: list[tuple[str, ...]] = []
    routes = Routes(lambda: seen.append(routes.protocols))
    with routes.mounted("/a", handler):
        pass
    assert seen == [("/a",), ()]


def test_mounting_twice_is_refused_and_changes_nothing() -> None:
    routes = Routes()
    routes.handle("/a")(handler)
    with pytest.raises(ConfigError, match="/a is mounted already"):
        routes.handle("/b", "/a")(handler)
    assert routes.protocols == ("/a",)


@pytest.mark.parametrize("name", ["", "/a\n", "/" + 1022 * "x"])
def test_names_that_negotiation_cannot_carry_are_refused(name: str) -> None:
    with pytest.raises(ConfigError):
        Routes().handle(name)(handler)


def test_handle_needs_a_protocol() -> None:
    with pytest.raises(ConfigError):
        Routes().handle()


def test_the_table_is_bounded() -> None:
    routes = Routes()
    routes.handle(*(f"/{number}" for number in range(MAX_ROUTES)))(handler)
    with pytest.raises(ConfigError, match="at most 1000"):
        routes.handle("/one more")(handler)


def test_routes_made_before_a_node_are_included() -> None:
    before, routes = Routes(), Routes()
    before.handle("/a", limited=True)(handler)
    routes.include(before)
    assert routes.get("/a") == Route(handler, limited=True)
