"""`talos mcp-connect`: is, for an MCP client, the server that a peer lends.

Its stdout carries the server's lines and nothing else; `talos.cli.main` has moved the descriptors aside.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from talos import __version__
from talos.cli import config, logs, signals
from talos.cli.exits import SIGNALLED, Failure, Problem, problem_of
from talos.cli.frame import command, passphrase_options
from talos.errors import TalosError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import trio
    from multiaddr import Multiaddr

    from talos.abc import AuditLog
    from talos.cli.session import Session
    from talos.host.node import Node
    from talos.identity.peer_id import PeerId

__all__ = ["mcp_connect"]

CONNECT_SECONDS = 30.0
PUNCH_FROM = "/ip4/0.0.0.0/tcp/0"
AUDIT_MODES = ("calls", "each", "off")
CODE_OF_EXIT = {
    1: "failed",
    2: "usage",
    3: "refused",
    4: "unreachable",
    5: "config_invalid",
    6: "remote_failed",
    7: "record_refused",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    peer: str
    server: str
    addrs: tuple[str, ...]
    bootstrap: tuple[str, ...]
    seconds: float
    audit: str
    relay: bool = True


@command("mcp-connect", help="Is the MCP server that PEER lends, on stdin and stdout: the command for an MCP client.")
@click.argument("peer")
@click.option("--server", default="", metavar="NAME", help="which of PEER's servers (default: the only one)")
@click.option("--addr", "addrs", multiple=True, metavar="MULTIADDR", help="where to reach PEER; repeatable")
@click.option("--bootstrap", multiple=True, metavar="WHO", help="a peer to begin the search with; repeatable")
@click.option("--connect-timeout", type=click.FloatRange(0, min_open=True), default=CONNECT_SECONDS, show_default=True,
              metavar="S", help="seconds to reach PEER")  # fmt: skip
@click.option("--no-relay", is_flag=True, help="refuse ways through a relay")
@click.option("--audit", type=click.Choice(AUDIT_MODES), default="calls", help="what is recorded first [calls]")
@click.option("--log-level", type=click.Choice(logs.LEVELS), help="log from this level on")
@click.option("--log-file", type=click.Path(path_type=Path), metavar="FILE", help="log there instead of stderr")
@passphrase_options
def mcp_connect(
    session: Session,
    *,
    peer: str,
    server: str,
    addrs: tuple[str, ...],
    bootstrap: tuple[str, ...],
    connect_timeout: float,
    no_relay: bool,
    audit: str,
    log_level: str | None,
    log_file: Path | None,
) -> int:
    if session.wire is None:
        raise Failure("usage", "mcp-connect needs stdin and stdout for itself: run it as a program")
    if log_level or log_file or session.debug:
        logs.configure(log_level or ("debug" if session.debug else "info"), log_file)
    plan = _Plan(
        peer=peer,
        server=server,
        addrs=addrs,
        bootstrap=bootstrap,
        seconds=session.timeout or connect_timeout,
        relay=not no_relay,
        audit=audit,
    )
    return session.run(_main, session, plan)


async def _main(session: Session, plan: _Plan) -> int:
    import trio

    from talos.cli import wire

    assert session.wire is not None
    caught: list[int] = []
    problem: Problem | None = None
    with trio.open_signal_receiver(*signals.ending()) as arriving:
        reader, writer = wire.open_reader(session.wire), wire.open_writer(session.wire)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_stop_on_signal, arriving, nursery.cancel_scope, caught)
                problem = await _tunnel(session, plan, reader, writer)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(reader)
                await trio.aclose_forcefully(writer)
    if caught:
        return SIGNALLED + caught[0]
    if problem is None:
        return 0
    session.out.problem(problem)
    return problem.exit


async def _stop_on_signal(arriving: AsyncIterator[int], scope: trio.CancelScope, caught: list[int]) -> None:
    async for number in arriving:
        caught.append(number)
        scope.cancel()
        return


async def _tunnel(
    session: Session, plan: _Plan, reader: trio.abc.ReceiveStream, writer: trio.abc.SendStream
) -> Problem | None:
    """The tunnel, or the answer that it cannot be: each request that is open gets an error before we leave."""
    from talos.addr import is_relayed
    from talos.mcp.connect import McpConnectConfig, McpExit, answer_and_leave, run_mcp_client

    async with AsyncExitStack() as stack:
        try:
            peer, addrs = _target(session, plan)
            finds = not addrs or bool(plan.bootstrap)
            relays = plan.relay and (finds or any(map(is_relayed, addrs)))
            node, log = await _open(stack, session, plan, finds=finds, relays=relays)
        except (TalosError, Failure, OSError) as error:
            problem = problem_of(error)
            if problem is None:
                raise
            leave = McpExit(code=problem.exit, message=problem.message, hint=problem.hint)
            await answer_and_leave(reader, writer, leave)
            return problem
        config = McpConnectConfig(
            peer=peer,
            addrs=addrs,
            server=plan.server,
            agent=f"talos/{__version__}",
            connect_timeout=plan.seconds,
            relay=plan.relay,
            audit=plan.audit,
            report=session.out.detail,
        )
        result = await run_mcp_client(node, config, log, reader, writer)
    if not result.code:
        return None
    hint = result.hint.replace("YOUR-PEER-ID", str(node.peer_id))
    return Problem(code=CODE_OF_EXIT[result.code], message=result.message, hint=hint)


def _target(session: Session, plan: _Plan) -> tuple[PeerId, tuple[Multiaddr, ...]]:
    """Whom to reach, and all addresses that were given for him."""
    from talos.addr import parse, split_peer, with_peer

    name = session.find(plan.peer)
    peer = name.peer_id()
    given = tuple(split_peer(with_peer(parse(text), peer))[0] for text in plan.addrs)
    return peer, given + name.addrs()


async def _open(
    stack: AsyncExitStack, session: Session, plan: _Plan, *, finds: bool, relays: bool
) -> tuple[Node, AuditLog | None]:
    """A node that only dials, and a log of its own: other connections and the agent run beside this one.

    `finds`: with the DHT, since no address is known or a peer to ask was named. `relays`: also through relays, and then
    it listens, for a hole is punched from a port that is listened on; nobody is told of it, since who asks for our
    identity is to find the agent.
    """
    from talos.addr import parse
    from talos.agent import open_host
    from talos.chain import ChainConfig, ChainKeys, open_slot
    from talos.host.config import NodeConfig

    wallet = session.unlock()
    log = None
    if plan.audit != "off":
        slot = open_slot(session.home.mcp_connect, plan.server, config=ChainConfig(), keys=ChainKeys.of(wallet))
        log = await stack.enter_async_context(slot)
    listen = (parse(PUNCH_FROM),) if relays else ()
    node = await stack.enter_async_context(open_host(NodeConfig(key=wallet.identity, listen=listen, announce=())))
    if finds:
        await _open_dht(stack, session, node, plan.bootstrap)
    if relays:
        from talos.nat import NatConfig, open_nat

        await stack.enter_async_context(open_nat(node, NatConfig(reserve=None, ask=None)))
    return node, log


async def _open_dht(stack: AsyncExitStack, session: Session, node: Node, bootstrap: tuple[str, ...]) -> None:
    """A client of the DHT that begins with these and the configured peers, those that the agent of this home knows,
    else those that the last one knew."""
    from talos.cli import owner
    from talos.dht import open_dht
    from talos.dht.remembered import remembered_addrs

    settings = config.load(session.home)
    known = _known_to_the_agent(session) or remembered_addrs(session.home.path / "dht.db")
    dht = owner.dht_config(settings, asks_only=True, bootstrap=bootstrap, contacts=session.contacts())
    await stack.enter_async_context(open_dht(node, replace(dht, bootstrap=(*dht.bootstrap, *known))))


def _known_to_the_agent(session: Session) -> tuple[Multiaddr, ...]:
    """The addresses of the peers that an agent is connected to; it cannot be asked itself, being the same identity."""
    from talos.addr import parse, with_peer
    from talos.identity.peer_id import PeerId

    try:
        rows = list(session.pages("dht/table") or ())
    except Failure:
        return ()  # an agent of another version, or one that hangs: others are asked
    addrs = [(str(text), PeerId.parse(str(row["peer_id"]))) for row in rows for text in row["addrs"]]
    return tuple(with_peer(parse(text), peer) for text, peer in addrs)
