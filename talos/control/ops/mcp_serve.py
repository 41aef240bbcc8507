"""`talos mcp-serve` beside an agent: it lends the servers for as long as the command lasts."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from talos.control.failure import Failure
from talos.mcp.policy import parse_policy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit
    from talos.mcp.policy import Policy, ServerSpec

__all__ = ["mcp_serve", "ready_fields"]


async def mcp_serve(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`policy_b64`, `cwd`, `environment`; one `mcp_ready`, then a `report` for each line of the tunnel; never returns.

    The servers start where the command was given and with what it hands on of its environment, for it is the same user
    who gave it and who runs the agent.
    """
    if agent.mcp is None:
        raise Failure("config_invalid", "this node lends nothing", hint="talos up")
    policy = _at_home(parse_policy(args.data("policy_b64")), args.text("cwd"), _environment(args))
    async with agent.mcp.lend(policy, lambda text: emit("report", text=text)):
        emit("mcp_ready", **ready_fields(agent, policy))
        await trio.sleep_forever()


def ready_fields(agent: Agent, policy: Policy) -> dict[str, object]:
    """The fields of the kind `mcp_ready`."""
    return {
        "peer_id": str(agent.peer_id),
        "addrs": [str(addr) for addr in agent.node.addrs],
        "findable": _findable(agent),
        "grants": [{"peer_id": str(grant.peer or "*"), "server": grant.server} for grant in policy.grants],
    }


def _findable(agent: Agent) -> bool:
    """Whether the DHT has, or looks for, peers that tell others where we are."""
    dht = agent.dht.status() if agent.dht is not None else None
    return dht is not None and (dht.peers > 0 or dht.bootstrap != "none configured")


def _environment(args: Arguments) -> dict[str, str]:
    values = args.values("environment")
    if not all(isinstance(value, str) for value in values.values()):
        raise Failure("usage", "argument 'environment' has texts alone")
    return {name: str(value) for name, value in values.items()}


def _at_home(policy: Policy, cwd: str, environment: Mapping[str, str]) -> Policy:
    """The policy with the asker's surroundings in the place of the agent's."""
    path = environment.get("PATH")

    def at_home(spec: ServerSpec) -> ServerSpec:
        program = shutil.which(spec.command[0], path=path) if os.sep not in spec.command[0] else None
        command = (program or spec.command[0], *spec.command[1:])
        return replace(spec, command=command, cwd=spec.cwd or cwd, env={**environment, **spec.env}, pass_env=())

    return replace(policy, servers={name: at_home(spec) for name, spec in policy.servers.items()})
