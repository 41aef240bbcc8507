"""Where protocols meet: a node with all that others expect of it, and the agent that a home runs."""

from __future__ import annotations

import base64
import datetime as dt
import logging
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import trio

from talos.abc import AddressConfirmed, HandlerFailed, Reachability, ReachabilityChanged, ServiceFault
from talos.addr import parse
from talos.errors import ConfigError, RoutingError, WalletError
from talos.host.block import background
from talos.host.contain import Owner, contain, is_expected_end
from talos.host.node import open_node
from talos.identify import open_identify
from talos.identity.keyring import HomeKeys
from talos.identity.peer_id import PeerId
from talos.perf import open_perf
from talos.ping import open_ping

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from talos.abc import AuditLog, Event, TopicMessage
    from talos.chain.audit import Chain
    from talos.chain.config import ChainConfig
    from talos.dht import Dht, DhtConfig
    from talos.gossip import DriverConfig, Gossip, GossipConfig
    from talos.host.config import NodeConfig
    from talos.host.node import Node
    from talos.identity.contacts import AddressBook
    from talos.identity.home import Home
    from talos.identity.wallet import Wallet
    from talos.mcp.lending import Lending, Lent
    from talos.mcp.policy import Policy
    from talos.mcp.serve import McpServeConfig
    from talos.mdns import MdnsConfig, MdnsService
    from talos.messaging.config import MessagingConfig
    from talos.messaging.files.config import FileConfig
    from talos.messaging.files.service import Files, TransferState
    from talos.messaging.service import Messaging
    from talos.nat import Nat, NatConfig

__all__ = ["Agent", "AgentConfig", "Tell", "open_agent", "open_host"]

_log = logging.getLogger(__name__)

MCP_LEAVE_SECONDS = 2.0
"""With what the node needs to say good-bye, an agent then ends within 5 s."""

KEY_CHECK_SECONDS = 3600.0
"""How often the calendar is asked whether keys are due."""

SHOWN_CHARACTERS = 4096
"""Of a text in an event; the history has all of it."""

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
    """What an agent opens besides its node; what is None is not opened."""

    node: NodeConfig
    wallet: Wallet
    home: Home
    keys: HomeKeys | None = None
    """The keyring that saves the wallet when the calendar changes it; None: it does not change."""
    audit: bool = True
    """Whether there is a record; nothing is lent or sent without one unless that is said by hand."""
    chain: ChainConfig | None = None
    dht: DhtConfig | None = None
    nat: NatConfig | None = None
    """Relays, hole punching, and knowing whether others reach us."""
    gossip: GossipConfig | None = None
    gossip_driver: DriverConfig | None = None
    topics: tuple[str, ...] = ()
    """What it subscribes to for its life."""
    mdns: MdnsConfig | None = None
    messages: MessagingConfig | None = None
    """Needs the record."""
    tells_messages: bool = True
    """Whether messages that come are told as events; else a program takes them, by `Messaging.received`."""
    people: AddressBook | None = None
    """Contacts and who is blocked."""
    files: FileConfig | None = None
    """Needs messages."""
    downloads: Path | None = None
    """Where files are put; None: `downloads` in the home."""
    mcp: Callable[[Policy], McpServeConfig] | None = None
    """How a policy is lent."""
    mcp_leave_seconds: float = MCP_LEAVE_SECONDS
    """What MCP servers get at the end, before they are killed."""
    policy: Policy | None = None
    """What is lent from the start."""
    report: Callable[[str], None] | None = None
    """Gets the lines of what is lent from the start; None: the log."""
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
    keys: HomeKeys = field(init=False)
    chain: Chain | None = None
    audit: AuditLog | None = None
    """The record of what happens; None where it is off."""
    dht: Dht | None = None
    nat: Nat | None = None
    gossip: Gossip | None = None
    mdns: MdnsService | None = None
    messaging: Messaging | None = None
    files: Files | None = None
    mcp: Lending | None = None
    lent: Lent | None = None
    """The policy that was lent from the start."""
    started: float = field(default_factory=time.time)
    """Unix seconds."""
    weakened: list[str] = field(default_factory=list)
    reachability: str | None = None
    """`public` or `private`; None: not yet known."""
    faults: int = 0
    """Handlers and services that raised and were contained."""

    def __post_init__(self) -> None:
        self.keys = self.config.keys or HomeKeys(self.config.home, self.config.wallet)

    @property
    def name(self) -> str:
        """What others may call us: a claim."""
        return self.config.wallet.name

    @property
    def home(self) -> Home:
        return self.config.home

    @property
    def peer_id(self) -> PeerId:
        return self.node.peer_id

    @property
    def x25519_public(self) -> bytes:
        """The newest key that messages to us are sealed with."""
        return self.keys.x25519_public

    def key_record(self) -> bytes:
        """The signed record of that key, which ends when the calendar wants it."""
        return self.keys.key_record(_now_ms())

    def status(self) -> dict[str, object]:
        """What the services say of themselves, by the fields of the kind `status`; None for one that is off."""
        return {
            "dht": asdict(self.dht.status()) if self.dht else None,
            "relay": self.nat.status() if self.nat else None,
            "gossip": self.gossip.status() if self.gossip else None,
            "chain": self.chain.status() if self.chain else None,
            "outbox": self.messaging.status()["outbox"] if self.messaging else None,
            "transfers": sum(not one.state.final for one in self.files.transfers()) if self.files else None,
            "mcp": self.mcp.status() if self.mcp else None,
        }

    def observe(self, event: Event) -> None:
        """Keeps the figures that events change."""
        if isinstance(event, HandlerFailed | ServiceFault):
            self.faults += not is_expected_end(event.exception)
        elif isinstance(event, AddressConfirmed):
            self.reachability = Reachability.PUBLIC.value
        elif isinstance(event, ReachabilityChanged):
            known = event.reachability is not Reachability.UNKNOWN
            self.reachability = event.reachability.value if known else None


@asynccontextmanager
async def open_agent(config: AgentConfig, tell: Tell) -> AsyncIterator[Agent]:
    """Everything that the configuration names, in the order node, stores, services; closed the other way round.

    Errors are those of the parts: ConfigError, ListenError, ChainError. `tell` is given events and must not wait.
    """
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(open_host(config.node))
        chain = await _open_chain(stack, config, node) if config.audit else None
        agent = Agent(config=config, node=node, tell=tell, chain=chain, audit=chain, weakened=list(config.weakened))
        stack.enter_context(node.observe(agent.observe))
        await _open_services(stack, agent)
        nursery = await stack.enter_async_context(background())
        _start_habits(nursery, agent)
        yield agent


async def _open_services(stack: AsyncExitStack, agent: Agent) -> None:
    """Those that are configured; packages that are not used are not loaded."""
    config, node = agent.config, agent.node
    if config.dht is not None:
        from talos.dht import open_dht

        agent.dht = await stack.enter_async_context(open_dht(node, config.dht, store=config.home.path / "dht.db"))
    if config.nat is not None:
        from talos.nat import open_nat

        agent.nat = await stack.enter_async_context(open_nat(node, config.nat, agent.dht))
    if config.gossip is not None:
        from talos.gossip import open_gossip

        agent.gossip = await stack.enter_async_context(open_gossip(node, config.gossip, driver=config.gossip_driver))
    if config.messages is not None and agent.audit is not None:
        agent.messaging = await _open_messaging(stack, agent, config.messages, agent.audit)
        if config.files is not None:
            agent.files = await _open_files(stack, agent, config.files, agent.messaging)
    if config.mdns is not None:
        from talos.mdns import open_mdns

        agent.mdns = await stack.enter_async_context(open_mdns(node, config.mdns))
    if config.mcp is not None:
        from talos.mcp.lending import open_lending

        lending = open_lending(node, config.mcp, agent.audit, leave_seconds=config.mcp_leave_seconds)
        agent.mcp = await stack.enter_async_context(lending)
        if config.policy is not None:
            agent.lent = await stack.enter_async_context(agent.mcp.lend(config.policy, config.report or _log.info))


def _start_habits(nursery: trio.Nursery, agent: Agent) -> None:
    """What a running agent does unasked: it says how to write to it, and listens to its topics."""
    owner = Owner("agent", agent.node.emit)
    if agent.dht is not None and not agent.config.ephemeral:
        nursery.start_soon(contain, owner, _publish_keys, agent)
    nursery.start_soon(contain, owner, _turn_keys, agent)
    if agent.files is not None and not agent.config.ephemeral:
        nursery.start_soon(contain, owner, _tell_transfers, agent, agent.files)
    if agent.messaging is not None and agent.config.tells_messages and not agent.config.ephemeral:
        nursery.start_soon(contain, owner, _tell_messages, agent, agent.messaging)
    for topic in agent.config.topics if agent.gossip is not None else ():
        nursery.start_soon(contain, owner, _hear, agent, topic)


async def _publish_keys(agent: Agent) -> None:
    assert agent.dht is not None
    try:
        await agent.dht.publish_key_record(agent.key_record)
    except RoutingError as error:
        _log.info("the key record found no place yet, and is published again later: %s", error)


async def _turn_keys(agent: Agent) -> None:
    """A new encryption key every 30 days, and the end of old ones, for as long as the agent runs."""
    while True:
        await _turn_keys_once(agent)
        await trio.sleep(KEY_CHECK_SECONDS)


async def _turn_keys_once(agent: Agent) -> None:
    keys = agent.keys
    wallet = keys.due(_now_ms())
    if wallet is None:
        return
    try:
        await trio.to_thread.run_sync(keys.save, wallet)
    except (OSError, WalletError) as error:
        _log.warning("the encryption key is due for a change, and the wallet cannot be written: %s", error)
        return
    if keys.adopt(wallet) and agent.dht is not None and not agent.config.ephemeral:
        await _publish_keys(agent)


async def _tell_messages(agent: Agent, messaging: Messaging) -> None:
    from talos.messaging.view import message_row

    async with messaging.received() as incoming:
        async for message in incoming:
            agent.tell("message", **message_row(message.message, most=SHOWN_CHARACTERS))


async def _hear(agent: Agent, topic: str) -> None:
    assert agent.gossip is not None
    async with agent.gossip.subscribe(topic) as messages:
        async for message in messages:
            agent.tell("gossip_message", **message_fields(message))


def message_fields(message: TopicMessage) -> dict[str, object]:
    """The fields of the kind `gossip_message`."""
    return {
        "topic": message.topic,
        "from": str(message.author) if message.author is not None else None,
        "via": str(message.source),
        "id": message.id.hex(),
        "data_b64": base64.b64encode(message.data).decode(),
        "received": dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }


async def _open_messaging(stack: AsyncExitStack, agent: Agent, config: MessagingConfig, audit: AuditLog) -> Messaging:
    from talos.messaging.service import open_messaging

    _remember_addrs(agent)
    opening = open_messaging(
        agent.node,
        agent.keys,
        config,
        directory=agent.home.path,
        audit=audit,
        records=agent.dht,
        pubsub=agent.gossip,
        people=agent.config.people,
    )
    return await stack.enter_async_context(opening)


async def _tell_transfers(agent: Agent, files: Files) -> None:
    from talos.messaging.view import transfer_row

    told: dict[bytes, TransferState] = {}
    with files.watching() as changes:
        async for transfer in changes:
            if told.get(transfer.id) is not transfer.state:
                agent.tell("transfer", **transfer_row(transfer))
            if transfer.state.final:
                told.pop(transfer.id, None)
            else:
                told[transfer.id] = transfer.state


async def _open_files(stack: AsyncExitStack, agent: Agent, config: FileConfig, messaging: Messaging) -> Files:
    from talos.messaging.files.service import open_files

    assert agent.audit is not None, "messages need a record"
    opening = open_files(
        messaging,
        agent.node,
        agent.keys,
        config,
        directory=agent.home.path,
        downloads=agent.config.downloads or agent.home.path / "downloads",
        audit=agent.audit,
        people=agent.config.people,
    )
    return await stack.enter_async_context(opening)


def _remember_addrs(agent: Agent) -> None:
    """Where contacts were when they were added, for whoever wants to reach them."""
    for peer, addrs in (agent.config.people.addrs() if agent.config.people is not None else {}).items():
        try:
            agent.node.peerstore.add_addrs(PeerId.parse(peer), [parse(addr) for addr in addrs])
        except ConfigError as error:
            _log.warning("an address among the contacts is not used: %s", error)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


async def _open_chain(stack: AsyncExitStack, config: AgentConfig, node: Node) -> Chain:
    from talos.chain import ChainConfig, ChainKeys, open_chain

    home, wanted = config.home, config.chain or ChainConfig()
    opening = open_chain(node, wanted, ChainKeys.of(config.wallet), directory=home.chain, old_log=home.audit)
    chain = await stack.enter_async_context(opening)
    if chain.mode is not wanted.mode:  # to switch would contradict what was signed
        mine, said = chain.mode.name.lower(), wanted.mode.name.lower()
        raise ConfigError(f'chain.mode is "{said}", but the chain in {home.chain} is "{mine}" for good')
    return chain
