"""An agent over a node in memory, served on a socket of its own."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import trio

from talos.agent import Agent, AgentConfig, open_host
from talos.cli.exits import problem_of
from talos.control import ops, server
from talos.control.client import Client
from talos.control.server import ControlConfig, run_agent
from talos.identity import wallet
from talos.identity.home import Home
from talos.identity.wallet import Wallet

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from talos.agent import Tell
    from talos.control.operations import Function
    from talos.control.server import Control

T = TypeVar("T")


@dataclass
class Served:
    """A served agent, and the means to ask it."""

    home: Home
    control: Control
    operations: dict[str, Function]
    left: list[int] = field(default_factory=list)

    @property
    def client(self) -> Client:
        return Client(self.home)

    async def ask(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        """A blocking call of the client, beside the agent's loop."""
        return await trio.to_thread.run_sync(partial(function, *args, **options), abandon_on_cancel=True)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.prepare()
    wallet.create(made, Wallet.new("Alice", now_ms=0), None)
    return made


@pytest.fixture
def serve(home: Home, memory_config: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Serves an agent for a block; operations of the test's own can be put into `operations`."""
    own: dict[str, Function] = {}
    load = ops.load
    monkeypatch.setattr(server, "load", lambda name: own.get(name) or load(name))

    @asynccontextmanager
    async def serve() -> AsyncIterator[Served]:
        owner = wallet.unlock(home, pytest.fail)
        served: list[Served] = []
        ready = trio.Event()
        stopped = trio.Event()

        @asynccontextmanager
        async def opener(tell: Tell) -> AsyncIterator[Agent]:
            config = AgentConfig(node=memory_config(key=owner.identity), wallet=owner, home=home)
            async with open_host(config.node) as node:
                agent = Agent(config=config, node=node, tell=tell)
                with node.observe(agent.observe):
                    yield agent

        left: list[int] = []

        async def body(control: Control) -> int:
            served.append(Served(home, control, own, left))
            ready.set()
            await control.stopped.wait()
            return 7

        codes = []

        async def run() -> None:
            settings = ControlConfig(home=home, explain=problem_of, leave=left.append)
            codes.append(await run_agent(settings, opener, body, stopped))

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                await ready.wait()
                yield served[0]
                stopped.set()
        assert codes == [7]

    return serve
