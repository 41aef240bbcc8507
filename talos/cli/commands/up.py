"""`talos up`, `talos listen`: the agent of a home, in the foreground or as a process of its own."""

from __future__ import annotations

import json
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from talos.cli import config, logs
from talos.cli.exits import Failure
from talos.cli.frame import command, passphrase_options
from talos.errors import HomeInUse, LimitExceeded, MessagingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from talos.agent import Agent
    from talos.cli.session import Session
    from talos.control.server import Control
    from talos.mcp.policy import Policy

__all__ = ["listen", "up"]

_log = logging.getLogger(__name__)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--port", type=click.IntRange(0, 65_535), metavar="P", help="TCP port (default 8766; 0: any)"),
        click.option("--listen", "addrs", multiple=True, metavar="MULTIADDR", help="where to listen; repeatable"),
        click.option("--bootstrap", multiple=True, metavar="WHO", help="a peer to begin with; repeatable"),
        click.option("--no-mdns", is_flag=True, help="do not look for peers on the local network"),
        passphrase_options,
    ):  # fmt: skip
        function = option(function)
    return function


@command("up", help="Is the agent of this home until Ctrl-C: other commands then ask it.")
@_options
@click.option("-d", "--detach", is_flag=True, help="as a process of its own; returns when it is ready")
def up(session: Session, *, detach: bool, **flags: Any) -> int | None:
    session.home.check()
    if detach:
        from talos.cli.detach import detach as start

        return start(session, _arguments(session, flags))
    return _own(session, flags)


@command("listen", help="Shows what happens here: as the agent, or beside the one that is up, which it leaves running.")
@_options
def listen(session: Session, **flags: Any) -> int | None:
    session.home.check()
    try:
        return _own(session, flags)
    except HomeInUse:
        from talos.cli.following import follow

        return follow(session)


def _own(session: Session, flags: Mapping[str, Any]) -> int:
    settings = config.load(session.home)
    logs.configure_for(session, settings.log)
    with session.owning():
        from talos.cli.owner import Start, own
        from talos.cli.rereading import Rereading

        start = Start(
            config=settings,
            listen=config.listen_addrs(settings, flags["port"], flags["addrs"]),
            bootstrap=flags["bootstrap"],
            mdns=settings.node.mdns and not flags["no_mdns"],
            policy=_policy(session, settings),
        )
        rereading = Rereading(session, settings, partial(_policy, session))
        body = _Showing(session).body
        return session.run(partial(own, hangup=rereading), session, session.unlock_keys(), start, body)


def _policy(session: Session, settings: config.Config) -> Policy | None:
    """The servers of the policy file, if there is one."""
    path = session.home.path / settings.mcp.policy
    if not path.exists():
        return None
    from talos.mcp.policy_file import load_policy

    return load_policy(path)


class _Showing:
    """The agent's own screen."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def body(self, control: Control) -> int:
        """Says that it is ready, then what happens, until it is told to stop."""
        import trio

        from talos.cli.owner import notify_ready
        from talos.cli.telling import tell_up
        from talos.control.snapshots import status

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._show, control)
            tell_up(self._session, status(control.agent, {}), control.agent.node.key.public_key.data)
            notify_ready()
            await control.stopped.wait()
            nursery.cancel_scope.cancel()
        return 0

    async def _show(self, control: Control) -> None:
        from talos.cli.telling import tell_event

        seen = control.log.last
        while True:
            await control.log.wait_after(seen)
            missed, events = control.log.after(seen)
            if missed:
                tell_event(self._session, "lagged", {"missed": missed})
            for event in events:
                seen = event.number
                fields = json.loads(event.data)
                kind = fields.pop("kind")
                tell_event(self._session, kind, fields)
                if kind == "message":
                    await _mark_read(control.agent, fields)


async def _mark_read(agent: Agent, fields: Mapping[str, Any]) -> None:
    """Its sender is told, where the configuration says so, once it stands on a screen."""
    from talos.identity.peer_id import PeerId

    if agent.messaging is None or fields["direction"] != "in" or fields["peer_id"] is None or not sys.stdout.isatty():
        return
    try:
        await agent.messaging.mark_read(PeerId.parse(fields["peer_id"]), bytes.fromhex(fields["id"]))
    except (MessagingError, LimitExceeded) as error:
        _log.debug("a read receipt was not sent: %s", error)


def _arguments(session: Session, flags: Mapping[str, Any]) -> list[str]:
    """The same flags again, for the process in the background."""
    arguments = [f"--port={flags['port']}"] if flags["port"] is not None else []
    arguments += [f"--listen={addr}" for addr in flags["addrs"]]
    arguments += [f"--bootstrap={who}" for who in flags["bootstrap"]]
    arguments += ["--no-mdns"] if flags["no_mdns"] else []
    arguments += [f"--{option}" for option in ("verbose", "debug", "json") if getattr(session, option)]
    if session.passphrase_fd is not None:
        raise Failure(
            "usage", "--passphrase-fd does not reach a process in the background", hint="--passphrase-file FILE"
        )
    if session.passphrase_file is not None:
        arguments += ["--passphrase-file", str(Path(session.passphrase_file).absolute())]
    return arguments
