"""Where protocols meet: a node with all that others expect of it, and the agent that a home runs."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from talos.abc import AddressConfirmed, HandlerFailed, ServiceFault
from talos.host.node import open_node
from talos.identify import open_identify
from talos.perf import open_perf
from talos.ping import open_ping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from talos.abc import AuditLog, Event
    from talos.host.config import NodeConfig
    from talos.host.node import Node
    from talos.identity.home import Home
    from talos.identity.peer_id import PeerId
    from talos.identity.wallet import Wallet

__all__ = ["Agent", "AgentConfig", "Tell", "open_agent", "open_host"]

Tell: TypeAlias = Callable[..., None]
"""`tell(kind, **fields)`: one event for those who follow the agent."""


@asynccontextmanager
async def open_host(config: NodeConfig | None = None, *, perf: bool = False) -> AsyncIterator[Node]:
    """A node that tells peers who it is, learns who they are, and answers pings; with `perf` it can be measured.

    Errors and end as those of `open_node`. Handlers that must be there for the first connection go into
    `NodeConfig.routes`.
    """
    async with open_node(config) as node, open_identify(node), open_ping(node):
        if not perf:
            yield node
            return
        async with open_perf(node):
            yield node


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """What an agent opens besides its node."""

    node: NodeConfig
    wallet: Wallet
    home: Home
    audit: bool = True
    """Whether there is a record; nothing is lent or sent without one unless that is said by hand."""
    ephemeral: bool = False
    """Whether it lives for one command."""
    weakened: tuple[str, ...] = ()
    """What was switched off by hand, for `talos status` to show."""


@dataclass(slots=True, kw_only=True)
class Agent:
    """What runs for a home; made by `open_agent`."""

    config: AgentConfig
    node: Node
    tell: Tell
    audit: AuditLog | None = None
    """The record of what happens; None where it is off."""
    started: float = field(default_factory=time.time)
    """Unix seconds."""
    weakened: list[str] = field(default_factory=list)
    reachability: str | None = None
    """`public` once an address of ours is confirmed; None: not yet known."""
    faults: int = 0
    """Handlers and services that raised and were contained."""

    @property
    def name(self) -> str:
        return self.config.wallet.name

    @property
    def home(self) -> Home:
        return self.config.home

    @property
    def peer_id(self) -> PeerId:
        return self.node.peer_id

    def status(self) -> dict[str, object]:
        """What the services say of themselves, by the fields of the kind `status`; None for one that is off."""
        return {"dht": None, "gossip": None, "chain": None, "outbox": None, "transfers": None, "mcp": None}

    def observe(self, event: Event) -> None:
        """Keeps the figures that events change."""
        if isinstance(event, HandlerFailed | ServiceFault):
            self.faults += 1
        elif isinstance(event, AddressConfirmed):
            self.reachability = "public"


@asynccontextmanager
async def open_agent(config: AgentConfig, tell: Tell) -> AsyncIterator[Agent]:
    """Everything that the configuration names, in the order stores, node, services; closed the other way round.

    Errors are those of the parts: ConfigError, ListenError, ChainError. `tell` is given events and must not wait.
    """
    async with AsyncExitStack() as stack:
        audit = await _open_audit(stack, config, config.home.audit) if config.audit else None
        node = await stack.enter_async_context(open_host(config.node))
        agent = Agent(config=config, node=node, tell=tell, audit=audit, weakened=list(config.weakened))
        stack.enter_context(node.observe(agent.observe))
        yield agent


async def _open_audit(stack: AsyncExitStack, config: AgentConfig, directory: Path) -> AuditLog:
    from talos.chain import LogKeys, open_file_log

    keys = LogKeys(config.wallet.k_priv, config.wallet.identity)
    return await stack.enter_async_context(open_file_log(directory, keys=keys))
