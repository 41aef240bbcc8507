"""`talos mcp-serve`: lends MCP servers to the peers that are named, and to nobody else."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from talos.cli import config, logs, names
from talos.cli.exits import Failure
from talos.cli.frame import command, passphrase_options
from talos.errors import HomeInUse

if TYPE_CHECKING:
    from talos.cli.session import Session
    from talos.control.server import Control
    from talos.identity.keyring import HomeKeys
    from talos.mcp.lending import Lending
    from talos.mcp.policy import Policy
    from talos.mcp.serve import McpServeConfig

__all__ = ["mcp_serve"]

AUDIT_MODES = ("calls", "each", "off")
LEAVE_SECONDS = 10.0
"""What servers get at the end unless a second signal cuts it short."""


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
    bootstrap: tuple[str, ...]
    audit: str
    drain: float
    max_message: int | None
    metrics: str | None


@command(
    "mcp-serve",
    help="Lends an MCP server to the peers named, by their keys. Without a grant it does not start.",
    stray="the server's command line is one word: --command 'python server.py'",
)
@click.option("--policy", type=click.Path(path_type=Path), metavar="FILE", help="servers and grants (or mcp.toml)")
@click.option("--name", default="default", show_default=True, metavar="NAME", help="what the one server is called")
@click.option("--authorized-peer", "peers", multiple=True, metavar="PEER", help="who may use it; repeatable")
@click.option("--allow-any", is_flag=True, help="let every peer use it")
@click.option("--command", "program", metavar="COMMAND", help="the server's command line, quoted; no shell sees it")
@click.option("--cwd", metavar="DIR", help="where the server runs")
@click.option("--env", "env", multiple=True, metavar="K=V", help="a variable for the server; repeatable")
@click.option("--pass-env", "pass_env", multiple=True, metavar="K", help="a variable of ours for it; repeatable")
@click.option("--port", type=click.IntRange(0, 65_535), metavar="P", help="TCP port (default 8766; 0: a free one)")
@click.option("--listen", multiple=True, metavar="MULTIADDR", help="where to listen instead; repeatable")
@click.option("--bootstrap", multiple=True, metavar="WHO", help="a peer to begin with; repeatable")
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
    bootstrap: tuple[str, ...],
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
        listen=config.listen_addrs(settings, port, listen),
        bootstrap=bootstrap,
        audit=audit or settings.mcp.audit,
        drain=drain,
        max_message=max_message,
        metrics=metrics,
    )
    logs.configure_for(session, settings.log)
    rules = _rules(session, plan)
    while True:
        if session.agent() is not None:
            from talos.cli.lending import lend

            _refuse_agents_own(plan)
            if port is not None or listen or bootstrap:
                session.out.note("a node is already up; using it")
            return lend(session, rules)
        try:
            with session.owning():
                return _be_agent(session, plan, rules, settings)
        except HomeInUse:
            continue  # an agent came up meanwhile: it lends


def _be_agent(session: Session, plan: _Plan, rules: Policy, settings: config.Config) -> int:
    if rules.allow_any:
        session.out.warn("every peer that reaches this node may use a server (--allow-any)")
    if plan.audit == "off":
        session.out.warn("nothing of what peers do is recorded (audit off)")
    return session.run(_main, session, plan, rules, session.unlock_keys(), settings)


def _refuse_agents_own(plan: _Plan) -> None:
    """What the agent that is up has decided already."""
    if plan.metrics is not None or plan.max_message is not None or plan.audit == "off":
        raise Failure("usage", "--metrics, --max-message and --audit off are the agent's own", hint="talos down")


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


def _rules(session: Session, plan: _Plan) -> Policy:
    from talos.mcp.policy import quick_policy
    from talos.mcp.policy_file import load_policy

    if plan.policy_file is not None:
        return load_policy(plan.policy_file)
    quick = plan.quick
    peers = [names.parse_name(peer, contacts=session.contacts()).peer_id() for peer in quick.peers]
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


async def _main(
    session: Session, plan: _Plan, rules: Policy, keys: HomeKeys, settings: config.Config | None = None
) -> int:
    """Is the agent of the home, whose policy is the command's; ends by a signal or `talos down`."""
    from talos.cli.lending import tell_ready
    from talos.cli.owner import Start, own
    from talos.cli.rereading import Rereading
    from talos.control.ops.mcp_serve import ready_fields

    async def body(control: Control) -> int:
        lending = control.agent.mcp
        assert lending is not None
        async with AsyncExitStack() as stack:
            if plan.metrics is not None:
                session.out.note(f"numbers at {await _open_metrics(stack, session, plan.metrics, lending)}")
            tell_ready(session, ready_fields(control.agent, rules))
            await control.stopped.wait()
        return 0

    weakened = [f"every peer may use a server: {name}" for name in rules.servers if rules.allow_any]
    weakened += ["nothing of what peers do is recorded"] if plan.audit == "off" else []
    settings = settings or config.Config()
    start = Start(
        config=settings,
        listen=plan.listen,
        bootstrap=plan.bootstrap,
        audit=plan.audit != "off",
        mcp=partial(_serve_config, plan),
        mcp_leave_seconds=LEAVE_SECONDS,
        policy=rules,
        report=session.out.note,
        weakened=tuple(weakened),
    )
    rereading = Rereading(session, settings, lambda _: _rules(session, plan)) if plan.policy_file is not None else None
    return await own(session, keys, start, body, hangup=rereading)


def _serve_config(plan: _Plan, rules: Policy) -> McpServeConfig:
    from talos.mcp.limits import McpLimits
    from talos.mcp.serve import McpServeConfig

    limits = McpLimits() if plan.max_message is None else McpLimits(max_line=plan.max_message)
    return McpServeConfig(policy=rules, limits=limits, audit=plan.audit, drain_seconds=plan.drain)


async def _open_metrics(stack: AsyncExitStack, session: Session, listen: str, lending: Lending) -> str:
    from talos.cli.metrics import open_metrics

    token = session.home.metrics_token
    url = await stack.enter_async_context(open_metrics(listen, token, lending.prometheus))
    return f"{url}, for who has the token in {token}"
