"""Owns a home for a while: opens the agent and its socket with the wallet, and obeys signals.

Everything here runs under the home's lock, in the process that does the work.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import trio

from talos.addr import parse
from talos.agent import AgentConfig, open_agent
from talos.cli import signals
from talos.cli.exits import SIGNALLED, Failure, problem_of
from talos.control.server import ControlConfig, run_agent
from talos.host import presets
from talos.host.block import background

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from talos.agent import Agent, Tell
    from talos.cli.config import Config
    from talos.cli.session import Session
    from talos.control.server import Control
    from talos.host.config import NodeConfig
    from talos.identity.wallet import Wallet

__all__ = ["Start", "listen_addrs", "notify_ready", "own"]

EVERYWHERE = ("/ip4/0.0.0.0/tcp/{port}", "/ip6/::/tcp/{port}")
NOTIFY_VARIABLE = "NOTIFY_SOCKET"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a command's agent is opened with: the configuration, with the command's flags on top."""

    config: Config
    listen: tuple[str, ...]
    audit: bool = True
    ephemeral: bool = False
    weakened: tuple[str, ...] = ()


class _Orders:
    """The signals that came, and what they end."""

    def __init__(self, hangup: Callable[[], Awaitable[None]] | None) -> None:
        self.stopped = trio.Event()
        self.opening = trio.CancelScope()
        self.opened = False
        self.number = 0
        self._hangup = hangup

    async def obey(self, arriving: AsyncIterator[int]) -> None:
        """The first signal ends the agent in good order, the second at once."""
        async for number in arriving:
            if number == signal.SIGHUP and self._hangup is not None:
                if self.opened:
                    await self._hangup()
            elif self.number:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(SIGNALLED + number)
            else:
                self.number = number
                self.stopped.set()
                if not self.opened:
                    self.opening.cancel()


async def own(
    session: Session,
    wallet: Wallet,
    start: Start,
    body: Callable[[Control], Awaitable[int]],
    *,
    hangup: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """The agent until `body` returns, whose exit code this is; `body` has to end by `control.stopped`.

    A signal sets that, and gives the exit code. `hangup` is what SIGHUP does instead.
    """
    orders = _Orders(hangup)

    async def opened(control: Control) -> int:
        orders.opened = True
        return await body(control)

    code = 1
    with trio.open_signal_receiver(*signals.ending()) as arriving:
        async with background() as nursery:
            nursery.start_soon(orders.obey, arriving)
            with orders.opening:
                settings = ControlConfig(home=session.home, explain=problem_of)
                code = await run_agent(settings, _opener(session, wallet, start), opened, orders.stopped)
    return SIGNALLED + orders.number if orders.number else code


def listen_addrs(config: Config, port: int | None, listen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Flags stand over the configuration; a port alone means every interface."""
    if listen and port is not None:
        raise Failure("usage", "--port and --listen exclude each other")
    if listen or (config.node.listen and port is None):
        return listen or config.node.listen
    return tuple(text.format(port=config.node.port if port is None else port) for text in EVERYWHERE)


def notify_ready() -> None:
    """Tells the service manager that asked for it (`Type=notify`)."""
    name = os.environ.get(NOTIFY_VARIABLE)
    if not name:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(b"READY=1", address)


def _opener(session: Session, wallet: Wallet, start: Start) -> Callable[[Tell], AbstractAsyncContextManager[Agent]]:
    config = AgentConfig(
        node=_node(wallet, start),
        wallet=wallet,
        home=session.home,
        audit=start.audit,
        ephemeral=start.ephemeral,
        weakened=start.weakened,
    )

    @asynccontextmanager
    async def opener(tell: Tell) -> AsyncIterator[Agent]:
        async with open_agent(config, tell) as agent:
            yield agent

    return opener


def _node(wallet: Wallet, start: Start) -> NodeConfig:
    preset = presets.minimal if start.ephemeral else presets.server
    return replace(preset(wallet.identity), listen=tuple(parse(text) for text in start.listen))
