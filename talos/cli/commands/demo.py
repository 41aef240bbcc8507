"""`talos demo`: see it work on this machine, with every claim checked before it is printed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from talos.cli.exits import Failure
from talos.cli.frame import command

if TYPE_CHECKING:
    from talos.cli.demo.story import Step
    from talos.cli.session import Session

__all__ = ["demo"]


@command("demo", help="Starts agents on this machine, lends a tool, calls it, and checks what the record says.")
@click.option("--keep", is_flag=True, help="keep the agents' homes and print where they are")
def demo(session: Session, *, keep: bool) -> None:
    from talos.cli.demo.story import Story
    from talos.cli.demo.world import World

    started = time.monotonic()
    failed: Step | None = None
    _say(session, "talos demo: agents on one machine, no registry, no account")
    with World() as world:
        for step in Story(world).steps():
            if step.ok:
                _tell(session, step)
            else:
                failed = step
                _tell_failed(session, step)
    if failed is not None:
        raise Failure(
            "failed",
            f"the demonstration failed at {failed.name}: {failed.failed}",
            hint=f"all homes and what toolhost said are kept in {world.path}",
        )
    _say(session, f"all of it held, in {time.monotonic() - started:.1f} s")
    if keep:
        _say(session, f"the agents' homes are in {world.path}")
    else:
        world.forget()
    _say(session, "Try it:  talos init --name YOU    ·    talos mcp-serve --help    ·    talos mcp-config --help")


def _say(session: Session, text: str) -> None:
    if not session.json:
        session.out.line(text)


def _tell(session: Session, step: Step) -> None:
    if session.json:
        _emit(session, step)
    else:
        session.out.line(f"{step.number:>2} {step.name:<11} ✓ {step.text}   {step.seconds:.1f} s")


def _tell_failed(session: Session, step: Step) -> None:
    if session.json:
        _emit(session, step)
    else:
        session.out.line(f"{step.number:>2} {step.name:<11} ✗ {step.failed}")


def _emit(session: Session, step: Step) -> None:
    claims = [{"text": claim.text, "holds": claim.holds} for claim in step.claims]
    ms = round(step.seconds * 1000)
    session.out.emit("step", n=step.number, name=step.name, ok=step.ok, claims=claims, ms=ms)
