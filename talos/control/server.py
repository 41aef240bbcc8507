"""Serves the control API on the socket of a home, around the life of an agent."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio
from hypercorn.config import Config, Sockets
from hypercorn.trio import serve

from talos import __version__
from talos.abc import PeerConnected, PeerDisconnected
from talos.control import home as places
from talos.control.api import Api
from talos.control.event_log import EventLog
from talos.control.operations import open_operations
from talos.control.ops import load
from talos.control.ops.view import connected_peer
from talos.host.block import background
from talos.host.connection import HostConnection
from talos.host.contain import Owner, contain

if TYPE_CHECKING:
    import socket
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from talos.abc import Event
    from talos.agent import Agent, Tell
    from talos.control.operations import Explain, Operations
    from talos.identity.home import Home

__all__ = ["Control", "ControlConfig", "run_agent"]

_log = logging.getLogger(__name__)

SERVER_SECONDS = 2.0
"""What the server gets to end after all stores are closed; then the process leaves without it."""
RESTART_SECONDS = 1.0
MAX_HEAD_BYTES = 16 * 1024
KEEP_ALIVE_SECONDS = 30.0
GRACEFUL_SECONDS = 1.0

_http_log = logging.getLogger("talos.control.http")
_http_log.setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlConfig:
    """Whose socket it is and how errors are told."""

    home: Home
    explain: Explain
    leave: Callable[[int], object] = os._exit


class Control:
    """A served agent: what its owner's body works with."""

    def __init__(self, agent: Agent, operations: Operations, log: EventLog, stopped: trio.Event) -> None:
        self.agent = agent
        self.operations = operations
        self.log = log
        self.stopped = stopped
        """Set when it has to end."""


async def run_agent(
    config: ControlConfig,
    open_agent: Callable[[Tell], AbstractAsyncContextManager[Agent]],
    body: Callable[[Control], Awaitable[int]],
    stopped: trio.Event,
) -> int:
    """Opens the agent, then its socket; runs `body` and closes all; the exit code is body's.

    `stopped` is set when a client says `down`; `body` ends by it, and whoever else may set it.
    For the holder of the home's lock. Order of the end: nothing new is begun, what runs ends as `going_away`, the agent
    and its stores are closed, the socket goes. A client that does not read cannot hold the process longer than
    SERVER_SECONDS after that: then `config.leave` ends it.
    """
    log, ending, ended = EventLog(), trio.Event(), trio.Event()
    serving = False
    code = 1

    def tell(kind: str, **fields: object) -> None:
        log.append(kind, fields)

    async with background() as nursery:
        try:
            with ExitStack() as outermost:
                async with open_agent(tell) as agent, open_operations(agent, load, config.explain) as operations:
                    outermost.enter_context(agent.node.observe(_tell_peers(agent, tell)))
                    api = Api(agent, operations, log, config.explain, stopped.set)
                    files = places.bound(config.home, started=agent.started, version=__version__)
                    listener = outermost.enter_context(files)
                    await nursery.start(_serve, _Served(api.app, listener, agent), ending, ended)
                    serving = True
                    outermost.callback(log.close)
                    code = await body(Control(agent, operations, log, stopped))
                    api.closed = True
        finally:
            ending.set()
            if serving:
                await _guard(config, ended, code)
    return code


class _Served(NamedTuple):
    app: Any
    listener: socket.socket
    agent: Agent


def _tell_peers(agent: Agent, tell: Tell) -> Callable[[Event], None]:
    """An observer that makes `peer` events of those who come and go."""

    def observe(event: Event) -> None:
        here = isinstance(event, PeerConnected)
        if isinstance(event, PeerConnected) or (isinstance(event, PeerDisconnected) and event.last):
            assert isinstance(event.connection, HostConnection)
            tell("peer", **{**connected_peer(agent, event.connection), "connected": here})

    return observe


async def _guard(config: ControlConfig, ended: trio.Event, code: int) -> None:
    """Hypercorn sends under a shield and without a deadline: nobody who does not read may keep the process."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + SERVER_SECONDS):
        await ended.wait()
        return
    _log.warning("a client of the control socket does not read; leaving without it")
    sys.stdout.flush()
    sys.stderr.flush()
    config.leave(code)


async def _serve(
    served: _Served,
    ending: trio.Event,
    ended: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """The server until `ending`; one that raises is told and started again."""
    owner = Owner("control", served.agent.node.emit)
    report: trio.TaskStatus[None] = task_status
    try:
        while not ending.is_set():
            await contain(owner, _serve_once, served, ending, report)
            report = trio.TASK_STATUS_IGNORED
            with trio.move_on_after(RESTART_SECONDS):
                await ending.wait()
    finally:
        ended.set()


async def _serve_once(served: _Served, ending: trio.Event, task_status: trio.TaskStatus[None]) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, served.app, _config(served.listener), shutdown_trigger=ending.wait))
        task_status.started()


def _config(listener: socket.socket) -> Config:
    """Hypercorn closes what it is given: it gets a descriptor of its own, and ours outlives it."""
    config = _Config()
    config.bind = [f"fd://{os.dup(listener.fileno())}"]
    config.accesslog = None
    config.errorlog = _http_log
    config.include_server_header = False
    config.h11_max_incomplete_size = MAX_HEAD_BYTES
    config.keep_alive_timeout = KEEP_ALIVE_SECONDS
    config.graceful_timeout = GRACEFUL_SECONDS
    return config


class _Config(Config):
    def create_sockets(self) -> Sockets:
        """Undoes the inheritable flag that Hypercorn sets: no child of ours may hold the listener."""
        sockets = super().create_sockets()
        for each in sockets.insecure_sockets:
            each.set_inheritable(False)
        return sockets
