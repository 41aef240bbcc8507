"""`talos completion SHELL`: what a shell needs to complete commands, options and names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from click.shell_completion import get_completion_class

from talos.cli.frame import command
from talos.cli.program import COMPLETION, NAME, Program

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["completion"]

SHELLS = ("bash", "zsh", "fish")


@command("completion", help='Prints the completion script for SHELL; bash: eval "$(talos completion bash)".')
@click.argument("shell", type=click.Choice(SHELLS))
def completion(session: Session, *, shell: str) -> None:
    found = get_completion_class(shell)
    assert found is not None, "click has these three"
    for line in found(Program({}), {}, NAME, COMPLETION).source().splitlines():
        session.out.line(line)
