"""`talos-server`: a bootstrap peer and DHT server, with an identity of its own."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from talos.cli import config, logs
from talos.cli.frame import command, passphrase_options

if TYPE_CHECKING:
    from talos.cli.session import Session
    from talos.control.server import Control

__all__ = ["server"]

DEFAULT_PORT = 8765
DEFAULT_HOME = "~/.talos-server"


@command("server", help="Helps others to find each other: a bootstrap peer and DHT server, until Ctrl-C.")
@click.option("--port", type=click.IntRange(0, 65_535), default=DEFAULT_PORT, show_default=True, metavar="P")
@click.option("--listen", "addrs", multiple=True, metavar="MULTIADDR", help="where to listen instead; repeatable")
@click.option("--bootstrap", multiple=True, metavar="WHO", help="another such server; repeatable")
@click.option("--relay", is_flag=True, help="relay for peers behind NATs, within [relay]'s limits")
@passphrase_options
def server(session: Session, *, port: int, addrs: tuple[str, ...], bootstrap: tuple[str, ...], relay: bool) -> int:
    from talos.cli.session import HOME_VARIABLE

    if session.data_dir is None and not os.environ.get(HOME_VARIABLE):
        session.data_dir = DEFAULT_HOME
    _ensure_identity(session)
    settings = config.load(session.home)
    settings = replace(
        settings,
        dht=replace(settings.dht, mode="server"),
        relay=replace(settings.relay, use="never", serve=relay or settings.relay.serve),
    )
    logs.configure("debug" if session.debug else "info" if session.verbose else "warning")
    with session.owning():
        from talos.cli.owner import Start, own

        start = Start(
            config=settings,
            listen=config.listen_addrs(settings, None if addrs else port, addrs),
            bootstrap=bootstrap,
            audit=False,
        )
        return session.run(own, session, session.unlock_keys(), start, _Showing(session).body)


def _ensure_identity(session: Session) -> None:
    """The first start makes one: nobody is to be asked by a service."""
    from talos.identity import wallet

    home = session.home
    home.prepare()
    if home.wallet.exists():
        return
    with home.lock():
        if not home.wallet.exists():
            from talos.cli import passphrase

            made = wallet.Wallet.new("talos-server", now_ms=int(time.time() * 1000))
            wallet.create(home, made, passphrase.given(session))


class _Showing:
    """What the server prints: where it is, once it is there."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def body(self, control: Control) -> int:
        from talos.cli.owner import notify_ready
        from talos.cli.telling import tell_up
        from talos.control.snapshots import status

        agent = control.agent
        tell_up(self._session, status(agent, {}), agent.node.key.public_key.data, whole=True)
        if not self._session.json:
            self._session.out.note("others begin here: talos register --server HOST:PORT")
        notify_ready()
        await control.stopped.wait()
        return 0
