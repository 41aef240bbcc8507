"""`talos mcp-serve`: lends MCP servers to the peers that are named, and to nobody else."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from talos.cli import config, logs, names, signals
from talos.cli.exits import SIGNALLED, Failure
from talos.cli.frame import command, passphrase_options
from talos.errors import TalosError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from talos.abc import AuditLog
    from talos.cli.session import Session
    from talos.host.node import Node
    from talos.identity.wallet import Wallet
    from talos.mcp.policy import Policy
    from talos.mcp.serve import McpServer

__all__ = ["mcp_serve"]

AUDIT_MODES = ("calls", "each", "off")
EVERYWHERE = ("/ip4/0.0.0.0/tcp/{port}", "/ip6/::/tcp/{port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quick:
    """One server and its peers, by options alone."""

    command: str
    peers: tuple[str, ...]
    name: str
    allow_any: bool
    cwd: str | None
    env: dict[str, str]
    pass_env: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    policy_file: Path | None
    quick: _Quick
    listen: tuple[str, ...]
    audit: str
    drain: float
    max_message: int | None
    metrics: str | None


@command("mcp-serve", help="Lends an MCP server to the peers named, by their keys. Without a grant it does not start.")
@click.option("--policy", type=click.Path(path_type=Path), metavar="FILE", help="servers and grants (or mcp.toml)")
@click.option("--name", default="default", show_default=True, metavar="NAME", help="what the one server is called")
@click.option("--authorized-peer", "peers", multiple=True, metavar="PEER", help="who may use it; repeatable")
@click.option("--allow-any", is_flag=True, help="let every peer use it")
@click.option("--command", "program", metavar="COMMAND", help="the server's command line; no shell sees it")
@click.option("--cwd", metavar="DIR", help="where the server runs")
@click.option("--env", "env", multiple=True, metavar="K=V", help="a variable for the server; repeatable")
@click.option("--pass-env", "pass_env", multiple=True, metavar="K", help="a variable of ours for it; repeatable")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="P", help="TCP port (default 8766; 0: a free one)")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="where to listen instead; repeatable")
@click.option("--drain", type=click.FloatRange(0), default=5.0, show_default=True, metavar="S",
              help="seconds that open requests get at the end")  # fmt: skip
@click.option("--max-message", type=click.IntRange(1024), metavar="BYTES", help="longest line (default 16 MiB)")
@click.option("--audit", type=click.Choice(AUDIT_MODES), help="what is recorded first (default: calls)")
@click.option("--metrics", metavar="ADDR", help="numbers for Prometheus there, as 127.0.0.1:9469")
@passphrase_options
def mcp_serve(
    session: Session,
    *,
    policy: Path | None,
    name: str,
    peers: tuple[str, ...],
    allow_any: bool,
    program: str | None,
    cwd: str | None,
    env: tuple[str, ...],
    pass_env: tuple[str, ...],
    port: int | None,
    listen: tuple[str, ...],
    drain: float,
    max_message: int | None,
    audit: str | None,
    metrics: str | None,
) -> int:
    home = session.home
    home.check()
    settings = config.load(home)
    quick = _Quick(
        command=program or "",
        peers=peers,
        name=name,
        allow_any=allow_any,
        cwd=cwd,
        env=_variables(env),
        pass_env=pass_env,
    )
    plan = _Plan(
        policy_file=_policy_file(policy, program, home.path / settings.mcp.policy),
        quick=quick,
        listen=_listen(settings.node, port, listen),
        audit=audit or settings.mcp.audit,
        drain=drain,
        max_message=max_message,
        metrics=metrics,
    )
    logs.configure("debug" if session.debug else "info" if session.verbose else "warning")
    with home.lock():
        rules = _rules(plan)
        if rules.allow_any:
            session.out.warn("every peer that reaches this node may use a server (--allow-any)")
        if plan.audit == "off":
            session.out.warn("nothing of what peers do is recorded (audit off)")
        return session.run(_main, session, plan, rules, session.unlock())


def _variables(pairs: tuple[str, ...]) -> dict[str, str]:
    split = [pair.partition("=") for pair in pairs]
    for key, separator, _ in split:
        if not key or not separator:
            raise Failure("usage", f"--env takes KEY=VALUE, not {key!r}")
    return {key: value for key, _, value in split}


def _policy_file(policy: Path | None, program: str | None, default: Path) -> Path | None:
    if policy is not None and program is not None:
        raise Failure("usage", "--policy and --command exclude each other")
    if policy is not None or program is not None:
        return policy
    if default.exists():
        return default
    raise Failure("usage", "there is no server to lend", hint='--command "…" --authorized-peer PEER, or --policy FILE')


def _listen(settings: config.NodeConfig, port: int | None, listen: tuple[str, ...]) -> tuple[str, ...]:
    """Flags stand over the configuration; a port alone means every interface."""
    if listen and port is not None:
        raise Failure("usage", "--port and --listen exclude each other")
    if listen or (settings.listen and port is None):
        return listen or settings.listen
    return tuple(text.format(port=settings.port if port is None else port) for text in EVERYWHERE)


def _rules(plan: _Plan) -> Policy:
    from talos.mcp.policy import quick_policy
    from talos.mcp.policy_file import load_policy

    if plan.policy_file is not None:
        return load_policy(plan.policy_file)
    quick = plan.quick
    peers = [names.parse_name(peer).peer_id() for peer in quick.peers]
    if not peers and not quick.allow_any:
        raise Failure("config_invalid", "nobody may use the server", hint="--authorized-peer PEER")
    return quick_policy(
        quick.command,
        peers,
        name=quick.name,
        allow_any=quick.allow_any,
        cwd=quick.cwd,
        env=quick.env,
        pass_env=quick.pass_env,
    )


async def _main(session: Session, plan: _Plan, rules: Policy, wallet: Wallet) -> int:
    import trio

    from talos.mcp.limits import McpLimits
    from talos.mcp.serve import McpServeConfig, open_mcp_server

    limits = McpLimits() if plan.max_message is None else McpLimits(max_line=plan.max_message)
    settings = McpServeConfig(
        policy=rules, limits=limits, audit=plan.audit, drain_seconds=plan.drain, report=session.out.note
    )
    with trio.open_signal_receiver(*signals.ending()) as arriving:
        async with AsyncExitStack() as stack:
            log = await _open_log(stack, session, plan, wallet)
            node = await _open_node(stack, plan, wallet)
            server = await stack.enter_async_context(open_mcp_server(node, settings, log))
            if plan.metrics is not None:
                session.out.note(f"numbers at {await _open_metrics(stack, session, plan.metrics, server)}")
            _tell_ready(session, node, rules)
            number = await _until_told(session, plan, server, arriving)
            await _drain(server, arriving)
    return SIGNALLED + number


async def _open_log(stack: AsyncExitStack, session: Session, plan: _Plan, wallet: Wallet) -> AuditLog | None:
    from talos.chain import LogKeys, open_file_log

    if plan.audit == "off":
        return None
    keys = LogKeys(wallet.k_priv, wallet.identity)
    log = await stack.enter_async_context(open_file_log(session.home.audit, keys=keys))
    if log.torn:
        session.out.warn(f"{log.torn} bytes of a torn entry were cut off {log.directory}")
    return log


async def _open_node(stack: AsyncExitStack, plan: _Plan, wallet: Wallet) -> Node:
    from talos.addr import parse
    from talos.agent import open_host
    from talos.host import presets

    listen = tuple(parse(text) for text in plan.listen)
    return await stack.enter_async_context(open_host(replace(presets.server(wallet.identity), listen=listen)))


async def _open_metrics(stack: AsyncExitStack, session: Session, listen: str, server: McpServer) -> str:
    from talos.cli.metrics import open_metrics

    token = session.home.metrics_token
    url = await stack.enter_async_context(open_metrics(listen, token, server.stats.prometheus))
    return f"{url}, for who has the token in {token}"


def _tell_ready(session: Session, node: Node, rules: Policy) -> None:
    """The addresses can be pasted behind `--addr`, or in the place of PEER."""
    from talos.addr import with_peer

    addrs = [str(with_peer(addr, node.peer_id)) for addr in node.addrs]
    grants = [{"peer_id": str(grant.peer or "*"), "server": grant.server} for grant in rules.grants]
    if session.json:
        session.out.emit("mcp_ready", peer_id=str(node.peer_id), addrs=addrs, grants=grants)
        return
    out = session.out
    out.note(f"ready as {node.peer_id}")
    for addr in addrs:
        out.note(f"  {addr}")
    for grant in grants:
        out.note(f'  "{grant["server"]}" for {grant["peer_id"]}')
    out.note(f"there: talos mcp-connect {addrs[0] if addrs else node.peer_id}")


async def _until_told(session: Session, plan: _Plan, server: McpServer, arriving: AsyncIterator[int]) -> int:
    """The signal that ends it. SIGHUP reads a policy file again; without a file it ends like the others."""
    async for number in arriving:
        if number != signal.SIGHUP or plan.policy_file is None:
            return number
        try:
            await server.reload(_rules(plan))
        except (TalosError, OSError) as error:
            session.out.warn(f"the policy stays as it was: {error}")
    raise AssertionError("signals do not end")


async def _drain(server: McpServer, arriving: AsyncIterator[int]) -> None:
    """Sessions end, children stop; a second signal kills them."""
    import trio

    async def kill_on_signal() -> None:
        async for number in arriving:
            if number != signal.SIGHUP:
                server.kill()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(kill_on_signal)
        await server.drain()
        nursery.cancel_scope.cancel()
