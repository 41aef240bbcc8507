"""The group of all commands, which loads the one that is called, and its words about wrong usage."""

from __future__ import annotations

import os
from importlib import import_module
from itertools import groupby
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, shell_complete

from talos import __version__
from talos.cli.exits import Failure, Problem
from talos.cli.frame import HELP, Command, Group

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.main import Entry
    from talos.cli.session import Session

__all__ = ["Program", "invoke", "usage_problem"]

NAME = "talos"
COMPLETION = "_TALOS_COMPLETE"
"""Set by the shell function that `_TALOS_COMPLETE=bash_source talos` prints; click's convention."""


class Program(Group):
    """`talos`: knows its commands by a table and imports none of them to list, complete or help."""

    def __init__(self, entries: Mapping[str, Entry]) -> None:
        super().__init__(
            NAME,
            help="Lend tools to agents by public key. Everything signed, nothing central.",
            context_settings=HELP,
            invoke_without_command=True,
            callback=_state,
        )
        self.entries = entries
        self.params.append(
            click.Option(
                ["--version"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                callback=_version,
                help="print the version",
            )
        )

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click gives it
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = self.entries.get(cmd_name)
        if entry is None:
            return None
        found = getattr(import_module(entry.module), entry.attribute)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for name, entries in groupby(self.entries.items(), key=lambda item: item[1].group):
            with formatter.section(name):
                formatter.write_dl([(command, entry.help) for command, entry in entries])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = [
            CompletionItem(name, help=entry.help) for name, entry in self.entries.items() if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def invoke(entries: Mapping[str, Entry], arguments: list[str], session: Session) -> int:
    """Runs the program; its exit code. Ctrl-C and closed pipes come out as they are, which click's own `main` hides."""
    program = Program(entries)
    instruction = os.environ.get(COMPLETION)
    if instruction:
        return shell_complete(program, {}, NAME, COMPLETION, instruction)
    try:
        with program.make_context(NAME, list(arguments), obj=session) as context:
            code = program.invoke(context)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    return code if isinstance(code, int) else 0


def usage_problem(error: click.ClickException) -> Problem:
    """click's error in our words: lower case, no full stop, the nearest option as the hint."""
    message = error.message
    meant: list[str] = []
    if isinstance(error, click.NoSuchOption):
        message = f"no such option {error.option_name}"
        meant = sorted(error.possibilities or ())
    elif isinstance(error, click.UsageError):
        message = error.format_message()
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = f"{context.command_path if context else NAME} --help"
    if meant:
        hint = f"did you mean {' or '.join(meant)}?"
    elif context and isinstance(context.command, Command) and _is_stray(error):
        hint = context.command.stray or hint
    first = message[:1].lower() + message[1:]
    return Problem(code="usage", message=first.strip().rstrip("."), hint=hint)


def _is_stray(error: click.ClickException) -> bool:
    """Whether it is a word or an option that belongs nowhere; click has no class of its own for the former."""
    return isinstance(error, click.NoSuchOption) or "unexpected extra argument" in error.message


def _version(ctx: click.Context, _param: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click calls it
    if value and not ctx.resilient_parsing:
        click.echo(f"{NAME} {__version__}")
        ctx.exit()


@click.pass_context
def _state(ctx: click.Context) -> None:
    """`talos` alone: one line of state, then what there is to do."""
    if ctx.invoked_subcommand is not None:
        return
    from talos.identity.wallet import public_identity

    session: Session = ctx.obj
    if session.json:
        raise Failure("usage", "--json needs a command", hint=f"{NAME} --help")
    try:
        found = public_identity(session.home)
        session.out.line(f"{found.name}  {found.peer_text}  in {session.home.path}")
    except FileNotFoundError:
        session.out.line("no identity yet; start: talos init --name YOU")
    session.out.line()
    click.echo(ctx.get_help())
