"""`matrix.toml` multiplied out into cells; a row that says nonsense is refused."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talos.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["MATRIX_FILE", "PEERS", "Cell", "Matrix", "Operation", "load", "parse"]

MATRIX_FILE = Path(__file__).with_name("matrix.toml")
PEERS = ("js", "go", "rust", "py", "talos")
OURS = "talos"
TRANSPORTS = ("memory", "tcp", "unix", "ws", "wss", "quic-v1")
WHOLE = frozenset({"quic-v1"})
"""Transports that bring their own security and streams: a stack by themselves."""
SECURITY = ("noise", "tls", "plaintext")
MUXERS = ("yamux", "mplex")
ROLES = ("dialer", "listener")
MAX_PARALLEL = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One thing that a dialer does, with its options."""

    name: str
    options: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A dialer, a listener, a stack between them, and what they do."""

    dialer: str
    listener: str
    stack: str
    operations: tuple[Operation, ...]
    absent: str | None = None
    """Why there is nothing to run: something that the peer does not have."""

    @property
    def name(self) -> str:
        return f"{self.stack} {self.dialer}->{self.listener}"

    @property
    def transport(self) -> str:
        return self.stack.partition("/")[0]

    @property
    def peer(self) -> str:
        """The end that is not Talos, if there is one."""
        return self.listener if self.dialer == OURS else self.dialer


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """All cells and how they are run."""

    deadline_seconds: float
    parallel: int
    cells: tuple[Cell, ...]

    def select(self, peers: Sequence[str], text: str) -> tuple[Cell, ...]:
        """The cells of `peers` whose name holds `text`."""
        return tuple(cell for cell in self.cells if cell.peer in peers and text in cell.name)


def load(path: Path = MATRIX_FILE) -> Matrix:
    """Reads the file; ConfigError names what is wrong in it."""
    return parse(path.read_text(encoding="utf-8"))


def parse(text: str) -> Matrix:
    """As `load`, of the file's text."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"matrix: {error}") from None
    _known(document, "matrix", {"deadline_seconds", "parallel", "operation", "row"})
    operations = tuple(_operation(table) for table in _tables(document, "operation"))
    cells = [cell for row in _tables(document, "row") for cell in _cells(row, operations)]
    names = [cell.name for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ConfigError(f"matrix: cells twice: {', '.join(sorted(twice))}")
    parallel = document.get("parallel", 1)
    deadline = document.get("deadline_seconds", 0)
    if type(parallel) is not int or not 1 <= parallel <= MAX_PARALLEL:
        raise ConfigError(f"matrix: parallel is between 1 and {MAX_PARALLEL}, not {parallel!r}")
    if type(deadline) not in {int, float} or deadline <= 0:
        raise ConfigError(f"matrix: deadline_seconds is {deadline!r}")
    return Matrix(deadline_seconds=deadline, parallel=parallel, cells=tuple(cells))


def _tables(document: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    tables = document.get(name, [])
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"matrix: [[{name}]] is missing")
    return tables


def _known(table: Mapping[str, Any], where: str, allowed: set[str]) -> None:
    if unknown := set(table) - allowed:
        raise ConfigError(f"{where}: unknown: {', '.join(sorted(unknown))}")


def _operation(table: Mapping[str, Any]) -> Operation:
    _known(table, "operation", {"name", "options"})
    name = table.get("name")
    if not isinstance(name, str):
        raise ConfigError("operation without a name")
    return Operation(name=name, options=_options(table.get("options", {}), name))


def _options(options: object, where: str) -> dict[str, int]:
    if not isinstance(options, dict) or not all(type(value) is int and value >= 0 for value in options.values()):
        raise ConfigError(f"{where}: options are natural numbers by name, not {options!r}")
    return options


def _cells(row: Mapping[str, Any], operations: Sequence[Operation]) -> list[Cell]:
    peer = row.get("peer")
    if peer not in PEERS:
        raise ConfigError(f"row: peer is one of {', '.join(PEERS)}, not {peer!r}")
    where = f"row of {peer}"
    _known(row, where, {"peer", "transports", "security", "muxers", "roles", "override", "absent"})
    overrides = row.get("override", {})
    _known(overrides, f"{where}: override", {operation.name for operation in operations})
    done = tuple(
        Operation(name=op.name, options=dict(op.options) | _options(overrides.get(op.name, {}), where))
        for op in operations
    )
    cells = [
        Cell(
            dialer=OURS if role == "dialer" else peer,
            listener=peer if role == "dialer" else OURS,
            stack=stack,
            operations=done,
        )
        for stack, role in itertools.product(_stacks(row, where), _names(row, where, "roles", ROLES))
    ]
    return _without_absent(cells, row.get("absent", {}), where)


def _without_absent(cells: list[Cell], reasons: object, where: str) -> list[Cell]:
    """`cells`, those whose name holds a key of `reasons` with that reason; each key has to be needed."""
    if not isinstance(reasons, dict) or not all(isinstance(reason, str) and reason for reason in reasons.values()):
        raise ConfigError(f"{where}: absent is reasons by a part of the cell's name, not {reasons!r}")
    if unneeded := [part for part in reasons if not any(part in cell.name for cell in cells)]:
        raise ConfigError(f"{where}: absent: no cell is called {unneeded[0]!r}")
    return [
        replace(cell, absent=next((reason for part, reason in reasons.items() if part in cell.name), None))
        for cell in cells
    ]


def _stacks(row: Mapping[str, Any], where: str) -> list[str]:
    transports = _names(row, where, "transports", TRANSPORTS)
    whole = [transport for transport in transports if transport in WHOLE]
    if len(whole) == len(transports):
        return whole
    layered = itertools.product(
        [transport for transport in transports if transport not in WHOLE],
        _names(row, where, "security", SECURITY),
        _names(row, where, "muxers", MUXERS),
    )
    return whole + ["/".join(layers) for layers in layered]


def _names(row: Mapping[str, Any], where: str, key: str, allowed: Sequence[str]) -> list[str]:
    names = row.get(key)
    if not isinstance(names, list) or not names or not set(names) <= set(allowed):
        raise ConfigError(f"{where}: {key} are some of {', '.join(allowed)}, not {names!r}")
    return names
