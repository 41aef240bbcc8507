"""What a command works with: the options that all share, the home, the way out."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from talos.cli.exits import Failure
from talos.cli.output import Output, short
from talos.identity.home import Home

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping

    from talos.cli.names import Name
    from talos.cli.streams import Wire
    from talos.identity.contacts import AddressBook, Contacts
    from talos.identity.keyring import HomeKeys
    from talos.identity.sealed import Passphrase, Secret
    from talos.identity.wallet import Wallet

__all__ = ["Session"]

T = TypeVar("T")

DEFAULT_HOME = "~/.talos"
HOME_VARIABLE = "TALOS_DIR"


@dataclass(slots=True, kw_only=True)
class Session:
    """One run of the program; the frame fills in the options as they are parsed."""

    wire: Wire | None = None
    """The private descriptors of a command whose stdout is a wire."""
    data_dir: str | None = None
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    no_color: bool = False
    timeout: float | None = None
    """Seconds that replace a command's own deadline."""
    no_input: bool = False
    passphrase_file: str | None = None
    passphrase_fd: int | None = None
    port: int | None = None
    """Of the node that a network command may have to run."""
    bootstrap: tuple[str, ...] = ()
    """Peers for that node to begin with, besides the configured ones."""
    _out: Output | None = field(default=None, init=False)
    _book: AddressBook | None = field(default=None, init=False)

    @property
    def out(self) -> Output:
        """Where to print."""
        if self._out is None:
            self._out = Output(as_json=self.json, quiet=self.quiet, verbose=self.verbose)
        return self._out

    @property
    def home(self) -> Home:
        """The data directory: `--data-dir`, else TALOS_DIR, else ~/.talos."""
        return Home(self._expanded(self.data_dir or os.environ.get(HOME_VARIABLE) or DEFAULT_HOME))

    @property
    def home_is_default(self) -> bool:
        """Whether a program that knows neither our options nor our environment finds the same home."""
        return self.home == Home(self._expanded(DEFAULT_HOME))

    @property
    def interactive(self) -> bool:
        """Whether somebody can be asked."""
        return not self.no_input and self.wire is None and sys.stdin.isatty() and sys.stderr.isatty()

    def unlock(self) -> Wallet:
        """The wallet in the home; asks for the passphrase only where it must and can. No core is dumped any more."""
        return self.unlock_to_keep()[0]

    def unlock_to_keep(self) -> tuple[Wallet, Secret]:
        """As `unlock`, with what opens the wallet: for the agent, that saves it when its keys change."""
        from talos.identity import wallet

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        return wallet.unlock_to_keep(self.home, self._passphrase)

    def unlock_keys(self) -> HomeKeys:
        """The keyring of the home, for whoever holds its lock; what the calendar wants done is done here."""
        import time

        from talos.identity.keyring import HomeKeys

        keys = HomeKeys(self.home, *self.unlock_to_keep())
        keys.turn(time.time_ns() // 1_000_000)
        return keys

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """`trio.run`: the one place where exception groups are taken apart, and where Ctrl-C is Ctrl-C again."""
        import trio

        from talos.cli.groups import sole

        try:
            return trio.run(function, *args)
        except BaseExceptionGroup as group:
            raise sole(group) from group

    # -- the agent of the home

    def perform(
        self,
        op: str,
        args: Mapping[str, object],
        *,
        show: Callable[[str, Mapping[str, Any]], None] | None = None,
        input: Iterable[bytes] | None = None,  # noqa: A002 - as the route calls it
    ) -> dict[str, Any]:
        """Runs an operation in the agent, else in a node of this command; the fields of its result.

        `show` is given the kind and fields of every event that is neither stage nor progress; with `--json`, or without
        it, they are printed as objects. Failure as the operation failed, `home_in_use` when its owner does not answer.
        """
        from talos.cli.modes import Asked, perform

        def emit(kind: str, fields: Mapping[str, Any]) -> None:
            self.out.emit(kind, **fields)

        asked = Asked(name=op, args=args, seconds=self.timeout, input=input, port=self.port, bootstrap=self.bootstrap)
        return perform(self, asked, emit if self.json or show is None else show)

    def ask(self, route: str, query: Mapping[str, str] | None = None) -> dict[str, Any] | None:
        """A snapshot of the agent; None when none runs, or none that still answers."""
        from talos.control.client import AgentLost, Client, GoingAway, NoAgent

        try:
            return Client(self.home).get(route, query)
        except (NoAgent, GoingAway, AgentLost):
            return None

    def pages(self, route: str, query: Mapping[str, str] | None = None) -> Iterator[dict[str, Any]] | None:
        """The rows of all parts of a snapshot; None when no agent runs."""
        first = self.ask(route, query)
        return None if first is None else self._rows(first, route, query or {})

    def _rows(self, part: dict[str, Any] | None, route: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        while part is not None:
            yield from part["rows"]
            part = self.ask(route, {**query, "after": part["next"]}) if part["next"] is not None else None

    def find(self, who: str) -> Name:
        """Who is named, contacts by their names; short forms may mean ourselves and any peer that the agent knows."""
        from talos.cli import names

        return names.parse_name(who, self._known_peers() if names.is_short(who) else (), self.contacts())

    def contacts(self) -> Contacts:
        """Those of this home."""
        from talos.identity import contacts

        return contacts.load(self.home.contacts)

    def alias(self, peer: str) -> str | None:
        """What a peer is called here, if it is a contact."""
        from talos.identity.contacts import AddressBook

        if self._book is None:
            self._book = AddressBook(self.home.contacts)
        return self._book.name_of(peer)

    def shown(self, peer: str) -> str:
        """A peer id as people read it: a contact's name, else the short form."""
        return self.alias(peer) or short(peer)

    def addr_texts(self, name: Name) -> list[str]:
        """The addresses that came with the name, as an operation takes them."""
        return [str(addr) for addr in name.addrs()] if name.addr_texts or name.addr_bytes else []

    @contextmanager
    def owning(self) -> Iterator[None]:
        """The home's lock, for commands that no agent may run beside; HomeInUse names the agent that has it.

        Waits for a node that lives for one command, and for an agent that is leaving.
        """
        from talos.cli.modes import Waiting
        from talos.errors import HomeInUse

        self.home.check()
        waiting = Waiting(self)
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self.home.lock())
                    break
                except HomeInUse as held:
                    if self.agent() is not None:
                        raise
                    waiting.pause(held)
            yield

    def agent(self) -> dict[str, Any] | None:
        """The `version` of the agent that is up; None for none, and for a node that lives for one command."""
        found = self.ask("version")
        return None if found is None or found["ephemeral"] else found

    def _known_peers(self) -> list[str]:
        from talos.identity.wallet import public_identity

        rows = self.pages("peers")
        known = [str(row["peer_id"]) for row in rows] if rows is not None else []
        try:
            known.append(public_identity(self.home).peer_text)
        except FileNotFoundError:
            pass
        return list(dict.fromkeys(known))

    def _passphrase(self) -> Passphrase:
        from talos.cli import passphrase

        given = passphrase.given(self)
        if given is not None:
            return given
        if not self.interactive:
            raise Failure("wallet_locked", f"the wallet in {self.home.path} is sealed by a passphrase")
        return passphrase.ask("Passphrase: ")

    @staticmethod
    def _expanded(path: str) -> Path:
        try:
            return Path(path).expanduser()
        except RuntimeError:
            raise Failure("config_invalid", "no home directory is known", hint="--data-dir DIR") from None
