"""What a command works with: the options that all share, the home, the way out."""

from __future__ import annotations

import os
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from talos.cli.exits import Failure
from talos.cli.output import Output
from talos.identity.home import Home

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from talos.cli.streams import Wire
    from talos.identity.sealed import Passphrase
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
    _out: Output | None = field(default=None, init=False)

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
        from talos.identity import wallet

        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
        return wallet.unlock(self.home, self._passphrase)

    def run(self, function: Callable[..., Awaitable[T]], *args: object) -> T:
        """`trio.run`: the one place where exception groups are taken apart, and where Ctrl-C is Ctrl-C again."""
        import trio

        from talos.cli.groups import sole

        try:
            return trio.run(function, *args)
        except BaseExceptionGroup as group:
            raise sole(group) from group

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
