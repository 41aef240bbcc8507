"""Commands as click has them, with the options that all commands share before or after their name."""

from __future__ import annotations

import difflib
import math
from typing import TYPE_CHECKING, Any, TypeVar

import click

from talos.cli.exits import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Command", "Group", "command", "group", "nearest", "network_options", "passphrase_options"]

F = TypeVar("F", bound="Callable[..., Any]")

HELP = {"help_option_names": ["-h", "--help"]}


def command(
    name: str,
    *,
    help: str,  # noqa: A002 - click's word
    stray: str = "",
) -> Callable[[Callable[..., Any]], Command]:
    """A command whose function gets the Session first; it returns None or an exit code.

    `stray` is the hint where a word or an option stands that does not belong there.
    """

    def wrap(function: Callable[..., Any]) -> Command:
        made = click.command(name, cls=Command, help=help, context_settings=HELP)(click.pass_obj(function))
        made.stray = stray
        return made

    return wrap


def group(name: str, *, help: str) -> Callable[[Callable[[], None]], Group]:  # noqa: A002
    """A command with commands of its own; none of them is a mistake of one line, as any other."""
    return click.group(name, cls=Group, help=help, context_settings=HELP, no_args_is_help=False)


def passphrase_options(function: F) -> F:
    """For commands that unlock the wallet or seal one."""
    for option in (
        click.option("--passphrase-fd", type=click.IntRange(0), metavar="N", **_stored("descriptor to read it from")),
        click.option("--passphrase-file", metavar="FILE", **_stored("file that holds the passphrase")),
    ):
        function = option(function)
    return function


def network_options(function: F) -> F:
    """For commands that an agent runs, or a node of their own where there is none."""
    for option in (
        click.option(
            "--bootstrap", multiple=True, metavar="WHO", **_stored("a peer such a node begins with; repeatable")
        ),
        click.option("--port", type=click.IntRange(0, 65_535), metavar="P", **_stored("port of a node of our own")),
    ):
        function = option(function)
    return passphrase_options(function)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that was probably meant."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


class Command(click.Command):
    """Takes the shared options behind its own."""

    stray = ""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_shared()]


class Group(click.Group):
    """Takes the shared options too, and names the nearest of its commands for an unknown one."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*super().get_params(ctx), *_shared()]

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        found = self.get_command(ctx, name)
        if found is None and not ctx.resilient_parsing:
            meant = nearest(name, self.list_commands(ctx))
            path = ctx.command_path
            hint = f"did you mean `{path} {meant}`?" if meant else f"{path} --help names them all"
            raise Failure("usage", f'no such command "{name}"', hint=hint)
        return name if found else None, found, args[1:]


def _store(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Keeps what was typed, wherever it stood; the later place wins."""
    assert param.name is not None
    if ctx.get_parameter_source(param.name) is click.core.ParameterSource.COMMANDLINE and ctx.obj is not None:
        setattr(ctx.obj, param.name, value)


def _seconds(ctx: click.Context, param: click.Parameter, value: float | None) -> None:
    if value is not None and not (math.isfinite(value) and value > 0):
        raise Failure("usage", "--timeout is a positive number of seconds")
    _store(ctx, param, value)


def _stored(help: str) -> dict[str, Any]:  # noqa: A002
    return {"expose_value": False, "callback": _store, "help": help}


def _shared() -> list[click.Parameter]:
    def flag(*names: str, help: str) -> click.Option:  # noqa: A002
        return click.Option(names, is_flag=True, **_stored(help))

    return [
        click.Option(("--data-dir", "--home", "data_dir"), metavar="DIR", **_stored("else TALOS_DIR, else ~/.talos")),
        flag("--json", help="machine-readable answer and errors"),
        flag("-q", "--quiet", help="errors only"),
        flag("-v", "--verbose", help="stages and sources too"),
        flag("--debug", help="logs, and tracebacks of bugs"),
        flag("--no-color", help="no colours"),
        click.Option(
            ("--timeout",),
            type=float,
            metavar="S",
            expose_value=False,
            callback=_seconds,
            help="seconds to wait",
        ),
        flag("--no-input", help="never ask anything"),
    ]
