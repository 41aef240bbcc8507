"""Writes docs/reference: commands of the click tree, settings of the dataclasses, public names and their docstrings.

Without `--write` it says what has drifted, and exits 1.
"""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import talos
from talos.cli import config
from talos.cli.frame import Command
from talos.cli.main import COMMANDS

if TYPE_CHECKING:
    from collections.abc import Iterator

REFERENCE = Path(__file__).resolve().parent.parent / "docs" / "reference"
MADE = "<!-- made by scripts/reference.py; change what it reads, then: scripts/reference.py --write -->\n"
FIRST = ("talos", "talos.messaging", "talos.messaging.files", "talos.mcp", "talos.dht", "talos.gossip", "talos.chain")
"""What programs use most; the other packages follow by name."""
LEFT_OUT = ("talos.cli", "talos.control", "talos.wire.pb")
"""The command and its socket are told on pages of their own."""
EXITS = {
    "0": "done; for `send`: it is as far as `--until` asks",
    "1": "none of the below: a protocol error, a limit, not in the record, a bug",
    "2": "wrong arguments; a name that fits nobody, or several",
    "3": "the other side says no: no grant, declined, blocked",
    "4": "not found, not reached in time, or lost",
    "5": "identity, passphrase, policy, configuration; a program named there does not exist",
    "6": "the other side took it on, and then failed",
    "7": "the record refuses: full, failed, frozen or locked; nothing was done unrecorded",
    "8": "a signature, hash, proof, chain or receipt does not hold",
    "9": "it exists already: identity, file; the port or the home is in use",
    "75": "accepted, not finished: it goes on by itself, or when it is run again",
    "129, 130, 143": "ended by a signal",
}
SECTIONS = ("start", "agents", "talk", "look inside")


# -- commands


def commands() -> Iterator[str]:
    yield "# Commands\n"
    yield MADE
    yield "Every command takes, before or after its name:\n"
    yield from _options(_shared())
    yield "\n## Exit codes\n"
    yield "| exit | |"
    yield "|---|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in EXITS.items())
    for section in SECTIONS:
        yield f"\n## {section.capitalize()}\n"
        for name, entry in COMMANDS.items():
            if entry.group == section:
                yield from _command(f"talos {name}", getattr(importlib.import_module(entry.module), entry.attribute))


def _command(name: str, command: click.Command) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    pieces = " ".join(piece for piece in command.collect_usage_pieces(context) if piece != "[OPTIONS]")
    yield f"\n### `{name}{' ' if pieces else ''}{pieces}`\n"
    yield f"{command.help}\n"
    known = {option.name for option in _shared()}
    own = [one for one in command.get_params(context) if isinstance(one, click.Option) and one.name not in known]
    yield from _options([one for one in own if "--help" not in one.opts])
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _command(f"{name} {inner}", found)


def _shared() -> list[click.Option]:
    bare = Command("none")
    options = bare.get_params(click.Context(bare))
    return [one for one in options if isinstance(one, click.Option) and "--help" not in one.opts]


def _options(options: list[click.Option]) -> Iterator[str]:
    if not options:
        return
    context = click.Context(click.Command("none"))
    yield "| option | |"
    yield "|---|---|"
    for option in options:
        shown, told = option.get_help_record(context) or ("", "")
        yield f"| `{shown.replace('|', chr(92) + '|')}` | {' '.join(told.split()).replace('|', chr(92) + '|')} |"
    yield ""


# -- settings


def configuration() -> Iterator[str]:
    yield "# Configuration\n"
    yield MADE
    yield "`config.toml` in the home; an option stands over `TALOS_<SECTION>_<KEY>` in the environment (lists with"
    yield "commas), that over the file, the file over the default. A key that nobody knows is an error. `kill -HUP`"
    yield "rereads `[log]`, the policy file and contacts, and says what else waits for a restart.\n"
    for section in dataclasses.fields(config.Config):
        settings = getattr(config.Config(), section.name)
        told = dict(_attributes(type(settings)))
        yield f"\n## `[{section.name}]`\n"
        yield "| key | default | |"
        yield "|---|---|---|"
        for key in dataclasses.fields(settings):
            shown = _toml(getattr(settings, key.name))
            yield f"| `{key.name.rstrip('_')}` | `{shown}` | {told.get(key.name, '')} |"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


# -- names


def api() -> Iterator[str]:
    yield "# API\n"
    yield MADE
    yield "The public names of each package, with their first lines; the docstrings in the code say the rest: limits,"
    yield "errors, what cancelling does. A change of this list is a change for users, and is told in the changelog.\n"
    for package in _packages():
        module = importlib.import_module(package)
        names = getattr(module, "__all__", ())
        if not names:
            continue
        yield f"\n## `{package}`\n"
        yield f"{_first(module)}\n"
        for name in sorted(names):
            yield from _name(name, getattr(module, name))


def _packages() -> list[str]:
    found = [one.name for one in pkgutil.walk_packages(talos.__path__, "talos.") if _promises(one)]
    return [*FIRST, *sorted(set(found) - set(FIRST))]


def _promises(module: pkgutil.ModuleInfo) -> bool:
    """As `scripts/public_names.py` has it: packages, and the modules directly below `talos`."""
    return not module.name.startswith((*LEFT_OUT, "talos.__main__")) and (module.ispkg or module.name.count(".") == 1)


def _name(name: str, found: Any) -> Iterator[str]:
    if inspect.isclass(found):
        yield f"- **`{name}`** {_first(found)}".rstrip()
        for method, value in vars(found).items() if found.__module__.startswith("talos") else ():
            if method.startswith("_") or not _said(value):
                continue
            yield f"    - `{method}{_signature(value)}` {_first(value)}"
    elif callable(found):
        yield f"- **`{name}{_signature(found)}`** {_first(found)}".rstrip()
    elif inspect.ismodule(found):
        yield f"- **`{name}`** {_first(found)}"
    else:
        yield f"- **`{name}`**"


def _said(value: Any) -> bool:
    return bool(getattr(value, "__doc__", None)) and (callable(value) or isinstance(value, property | staticmethod))


def _signature(found: Any) -> str:
    """Names of parameters alone: types are in the code, and in every editor."""
    if not callable(found):
        return ""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return ""
    shown, keywords = [], False
    for one in parameters:
        if one.name in {"self", "cls"}:
            continue
        if one.kind is one.KEYWORD_ONLY and not keywords:
            keywords = True
            shown.append("*")
        shown.append(f"{one.name}=…" if one.default is not one.empty else str(one).partition(":")[0])
    return f"({', '.join(shown)})"


def _first(found: Any) -> str:
    """The first sentence or paragraph line of a docstring of its own."""
    text = inspect.cleandoc(getattr(found, "__doc__", None) or "").partition("\n\n")[0]
    text = " ".join(text.split())
    return "" if text.startswith(f"{getattr(found, '__name__', '')}(") else text


def _attributes(owner: type) -> Iterator[tuple[str, str]]:
    """Fields and the docstrings behind them."""
    tree = ast.parse(inspect.getsource(owner)).body[0]
    assert isinstance(tree, ast.ClassDef)
    for field, told in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(told, ast.Expr) and isinstance(told.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            yield field.target.id, " ".join(str(told.value.value).split())


PAGES = {"commands.md": commands, "configuration.md": configuration, "api.md": api}


def main() -> int:
    drifted = 0
    for name, made in PAGES.items():
        path, text = REFERENCE / name, "\n".join(made()).replace("\n\n\n", "\n\n").rstrip() + "\n"
        if "--write" in sys.argv[1:]:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            drifted = 1
            print(f"docs/reference/{name} is not what the code says: scripts/reference.py --write", file=sys.stderr)
    return drifted


if __name__ == "__main__":
    sys.exit(main())
