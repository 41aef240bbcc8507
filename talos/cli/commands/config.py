"""`talos config`: what is set, and where that comes from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from talos.cli import config as settings
from talos.cli.exits import Failure
from talos.cli.frame import command, group, nearest

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["config"]


@group("config", help="The settings of this home: config.toml, and the environment above it.")
def config() -> None:
    """Only a name for what is below it."""


@command("show", help="Lists all settings as they are in force for a command typed here.")
@click.option("--origin", is_flag=True, help="where each comes from: a variable, the file, or the default")
def show(session: Session, *, origin: bool) -> None:
    values, origins = _values(session), settings.origins(session.home)
    for key, value in values.items():
        if session.json:
            session.out.emit("setting", key=key, value=value, origin=origins[key])
        else:
            session.out.line(f"{key} = {_text(value)}" + (f"    # {origins[key]}" if origin else ""))


@command("get", help="Prints the value of KEY, as node.port.")
@click.argument("key")
def get(session: Session, *, key: str) -> None:
    values = _values(session)
    if key not in values:
        meant = nearest(key, values)
        raise Failure(
            "usage", f'no such setting "{key}"', hint=f"did you mean {meant}?" if meant else "talos config show"
        )
    if session.json:
        session.out.emit("setting", key=key, value=values[key], origin=settings.origins(session.home)[key])
        return
    value = values[key]
    session.out.line(value if isinstance(value, str) else _text(value))


@command("check", help="Reads all settings; exit 5 names file, line and key of a mistake.")
def check(session: Session) -> None:
    settings.load(session.home)
    session.out.note("all settings are known and in range")


@command("path", help="Prints where the file is, or would be.")
def path(session: Session) -> None:
    session.out.line(str(session.home.config))


def _values(session: Session) -> dict[str, object]:
    return {key: _plain(value) for key, value in settings.values(settings.load(session.home)).items()}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _text(value: object) -> str:
    """As the file would have it: TOML and JSON write these alike."""
    return json.dumps(value, ensure_ascii=False)


for _command in (show, get, check, path):
    config.add_command(_command)
