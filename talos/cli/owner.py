"""Owns a home for a while: opens the agent and its socket with the wallet, and obeys signals.

Everything here runs under the home's lock, in the process that does the work.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.addr import parse, with_peer
from talos.agent import MCP_LEAVE_SECONDS, AgentConfig, open_agent
from talos.cli import names, signals
from talos.cli.exits import SIGNALLED, Failure, problem_of
from talos.cli.recorded import tell_record
from talos.control.server import ControlConfig, run_agent
from talos.host import presets
from talos.host.block import background
from talos.host.config import Stack
from talos.host.contain import Owner, contain
from talos.identity.contacts import AddressBook
from talos.transport import Tcp, WebSocket, WebSocketConfig

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from multiaddr import Multiaddr

    from talos.agent import Agent, Tell
    from talos.chain.config import ChainConfig
    from talos.cli.config import Config
    from talos.cli.session import Session
    from talos.control.server import Control
    from talos.dht import DhtConfig
    from talos.host.config import NodeConfig
    from talos.identity.contacts import Contacts
    from talos.identity.home import Home
    from talos.identity.keyring import HomeKeys
    from talos.identity.wallet import Wallet
    from talos.mcp.policy import Policy
    from talos.mcp.serve import McpServeConfig
    from talos.mdns import MdnsConfig
    from talos.messaging.config import MessagingConfig
    from talos.messaging.files.config import FileConfig
    from talos.nat import NatConfig

__all__ = ["Start", "bootstrap_addrs", "dht_config", "notify_ready", "own"]

NOTIFY_VARIABLE = "NOTIFY_SOCKET"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a command's agent is opened with: the configuration, with the command's flags on top."""

    config: Config
    listen: tuple[str, ...]
    bootstrap: tuple[str, ...] = ()
    """Names that carry addresses, besides the configured ones."""
    mdns: bool = False
    audit: bool = True
    mcp: Callable[[Policy], McpServeConfig] | None = None
    """How policies are lent, if not as the configuration says."""
    mcp_leave_seconds: float = MCP_LEAVE_SECONDS
    policy: Policy | None = None
    report: Callable[[str], None] | None = None
    """Gets the lines of what is lent; None: the log."""
    ephemeral: bool = False
    weakened: tuple[str, ...] = ()


class _Orders:
    """The signals that came, and what they end."""

    def __init__(self, hangup: Callable[[Control], Awaitable[None]] | None) -> None:
        self.stopped = trio.Event()
        self.opening = trio.CancelScope()
        self.control: Control | None = None
        self.number = 0
        self._killed = False
        self._hangup = hangup

    async def obey(self, arriving: AsyncIterator[int]) -> None:
        """The first signal ends the agent in good order, the second kills what it lends, one more ends it at once."""
        async for number in arriving:
            if number == signal.SIGHUP and self._hangup is not None:
                if self.control is not None:
                    await self._hangup(self.control)
            elif self.number:
                if self._killed or not self._kill():
                    self._leave(number)
            else:
                self.number = number
                self.stopped.set()
                if self.control is None:
                    self.opening.cancel()

    def _kill(self) -> bool:
        """Kills the MCP servers; whether there were any, whose end is then worth waiting for."""
        lending = self.control.agent.mcp if self.control is not None else None
        if lending is None or lending.server is None:
            return False
        lending.kill()
        self._killed = True
        return True

    def _leave(self, number: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(SIGNALLED + number)


async def own(
    session: Session,
    keys: HomeKeys,
    start: Start,
    body: Callable[[Control], Awaitable[int]],
    *,
    hangup: Callable[[Control], Awaitable[None]] | None = None,
) -> int:
    """The agent until `body` returns, whose exit code this is; `body` has to end by `control.stopped`.

    A signal sets that, and gives the exit code. `hangup` is what SIGHUP does instead.
    """
    orders = _Orders(hangup)

    async def opened(control: Control) -> int:
        orders.control = control
        agent = control.agent
        async with background() as beside:
            if agent.chain is not None:
                beside.start_soon(contain, Owner("record", agent.node.emit), tell_record, agent, agent.chain)
            return await body(control)

    code = 1
    with trio.open_signal_receiver(*signals.ending()) as arriving:
        async with background() as nursery:
            nursery.start_soon(orders.obey, arriving)
            with orders.opening:
                settings = ControlConfig(home=session.home, explain=problem_of)
                code = await run_agent(settings, _opener(session, keys, start), opened, orders.stopped)
    return SIGNALLED + orders.number if orders.number else code


def notify_ready() -> None:
    """Tells the service manager that asked for it (`Type=notify`)."""
    name = os.environ.get(NOTIFY_VARIABLE)
    if not name:
        return
    address = f"\0{name[1:]}" if name.startswith("@") else name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
        notify.sendto(b"READY=1", address)


def _opener(session: Session, keys: HomeKeys, start: Start) -> Callable[[Tell], AbstractAsyncContextManager[Agent]]:
    config = _agent_config(session, keys, start)

    def opener(tell: Tell) -> AbstractAsyncContextManager[Agent]:
        return open_agent(config, tell)

    return opener


def _agent_config(session: Session, keys: HomeKeys, start: Start) -> AgentConfig:
    from talos.gossip import DriverConfig, GossipConfig

    settings = start.config
    return AgentConfig(
        node=_node(session.home, keys.wallet, start),
        wallet=keys.wallet,
        keys=keys,
        home=session.home,
        audit=start.audit,
        chain=chain_config(settings, session.contacts()),
        dht=dht_config(settings, asks_only=start.ephemeral, bootstrap=start.bootstrap, contacts=session.contacts()),
        nat=nat_config(settings, asks_only=start.ephemeral, contacts=session.contacts()),
        gossip=GossipConfig(),
        gossip_driver=DriverConfig(protocols=_gossip_protocols(settings)),
        topics=() if start.ephemeral else settings.gossip.topics,
        mdns=_mdns() if start.mdns else None,
        messages=_messages(settings) if start.audit else None,
        files=_files(settings) if start.audit else None,
        downloads=session.home.path / settings.files.downloads,
        people=AddressBook(session.home.contacts),
        mcp=None if start.ephemeral else start.mcp or partial(_lend, settings),
        mcp_leave_seconds=start.mcp_leave_seconds,
        policy=start.policy,
        report=start.report,
        ephemeral=start.ephemeral,
        weakened=start.weakened,
    )


def _node(home: Home, wallet: Wallet, start: Start) -> NodeConfig:
    preset = presets.minimal if start.ephemeral else presets.server
    node = replace(preset(wallet.identity), stack=Stack(transports=(Tcp(), WebSocket(_websocket(home, start.config)))))
    return presets.listening(node, map(parse, start.listen))


def _websocket(home: Home, settings: Config) -> WebSocketConfig:
    """Of `[websocket]`."""
    certificate, key, authorities = (
        home.path / name if name else None
        for name in (settings.websocket.certificate, settings.websocket.private_key, settings.websocket.authorities)
    )
    return WebSocketConfig(certificate=certificate, private_key=key, authorities=authorities)


def dht_config(
    settings: Config, *, asks_only: bool, bootstrap: Iterable[str] = (), contacts: Contacts | None = None
) -> DhtConfig:
    """Of `[dht]`. A node that lives for one command only asks: nobody's table is to hold it."""
    from talos.dht import IPFS_KAD, TALOS_KAD, DhtConfig, DhtMode, DhtScope

    public = settings.dht.network == "ipfs"
    return DhtConfig(
        protocol_id=IPFS_KAD if public else TALOS_KAD,
        scope=DhtScope.PUBLIC if public else DhtScope.ANY,
        mode=DhtMode.CLIENT if asks_only else DhtMode(settings.dht.mode),
        bootstrap=bootstrap_addrs((*bootstrap, *settings.node.bootstrap), contacts),
    )


def nat_config(settings: Config, *, asks_only: bool, contacts: Contacts | None = None) -> NatConfig:
    """Of `[relay]`. A node that lives for one command is not waited for: it only dials."""
    from talos.autonat import AutonatConfig, AutonatServerConfig
    from talos.nat import NatConfig
    from talos.relay import AutoRelayConfig, RelayLimits

    relay = settings.relay
    serves = relay.serve and not asks_only
    reserves = relay.use != "never" and not asks_only
    limits = RelayLimits(reservations=relay.reservations, circuit_seconds=relay.seconds, circuit_bytes=relay.bytes)
    return NatConfig(
        reserve=AutoRelayConfig(relays=bootstrap_addrs(relay.relays, contacts), always=relay.use == "always")
        if reserves
        else None,
        ask=None if asks_only else AutonatConfig(),
        relay=limits if serves else None,
        answer=AutonatServerConfig() if serves else None,
    )


def _gossip_protocols(settings: Config) -> tuple[str, ...]:
    from talos.gossip import PROTOCOLS

    return tuple(name for name in PROTOCOLS if settings.gossip.floodsub or not name.startswith("/floodsub/"))


def _messages(settings: Config) -> MessagingConfig:
    from talos.messaging.config import MessagingConfig, Strangers

    messages = settings.messages
    return MessagingConfig(
        strangers=Strangers(messages.strangers), read_receipts=messages.read_receipts, channels=messages.channels
    )


def _files(settings: Config) -> FileConfig:
    from talos.messaging.files.config import Accept, FileConfig

    accept = settings.files.from_
    return FileConfig(
        accept=Accept.CONTACTS if accept == "ask" else Accept(accept),
        ask=accept == "ask",
        known_types_only=settings.files.types == "known",
    )


def _mdns() -> MdnsConfig:
    from talos.mdns import MdnsConfig

    return MdnsConfig()


def _lend(settings: Config, policy: Policy) -> McpServeConfig:
    from talos.mcp.serve import McpServeConfig

    return McpServeConfig(policy=policy, audit=settings.mcp.audit)


def chain_config(settings: Config, contacts: Contacts | None = None) -> ChainConfig:
    """Of `[chain]`. Failure `config_invalid` for a replica that nobody is."""
    from talos.chain import ChainConfig
    from talos.chain.config import DAY_SECONDS, Retention
    from talos.chain.genesis import Mode

    chain = settings.chain
    replicas = []
    for who in chain.replicas:
        try:
            replicas.append(names.parse_name(who, contacts=contacts).peer_id())
        except Failure as failure:
            raise Failure("config_invalid", f"chain.replicas: {failure}", hint=failure.hint) from None
    return ChainConfig(
        bits=chain.bits,
        mode=Mode[chain.mode.upper()],
        replicas=tuple(replicas),
        retention=Retention(age_seconds=chain.retention * DAY_SECONDS) if chain.retention else None,
    )


def bootstrap_addrs(names_given: Iterable[str], contacts: Contacts | None = None) -> tuple[Multiaddr, ...]:
    """The addresses of peers to begin with, each ending in `/p2p/…`; Failure for a name that carries none."""
    found: list[Multiaddr] = []
    for text in names_given:
        name = names.parse_name(text, contacts=contacts)
        addrs = name.addrs()
        if not addrs:
            raise Failure(
                "usage", f"{text} carries no address to begin with", hint="its ticket does: talos id --ticket"
            )
        found += [with_peer(addr, name.peer_id()) for addr in addrs]
    return tuple(dict.fromkeys(found))
