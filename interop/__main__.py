"""`python -m interop`: runs the cells of matrix.toml, prints a table, exits with 1 when a cell failed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from interop import dht_cells, gossip_cells, nat_cells, relay_cells, report
from interop.adapters import ROOT, prepare
from interop.cells import run_cells
from interop.matrix import OURS, PEERS, load
from interop.network_cells import MIXED, run_network_cells
from talos.errors import ConfigError
from talos.program import run

if TYPE_CHECKING:
    from interop.cells import Outcome
    from interop.matrix import Cell
    from interop.network_cells import NetworkCell

ALL_PEERS = (*PEERS, "kubo")
DOCS_FILE = ROOT / "docs" / "interop.md"


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m interop", description="Run Talos against its peers.")
    parser.add_argument("--peers", default=",".join(ALL_PEERS), help="which, by comma; default: %(default)s")
    parser.add_argument("--cells", default="", metavar="TEXT", help="only cells whose name holds TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--list", action="store_true", help="print the cells and stop")
    parser.add_argument("--write-docs", action="store_true", help="write docs/interop.md")
    return parser.parse_args(words)


def _tell(outcome: Outcome) -> None:
    print(report.line(outcome), flush=True)


async def main(options: argparse.Namespace) -> int:
    """Runs what was chosen; the exit code."""
    peers = [name for name in options.peers.split(",") if name]
    if unknown := set(peers) - set(ALL_PEERS):
        raise ConfigError(f"no such peer: {', '.join(sorted(unknown))}")
    matrix = load()
    cells = matrix.select(peers, options.cells)
    networks = [
        cell
        for cell in (*dht_cells.cells(), *gossip_cells.cells(), *relay_cells.cells(), *nat_cells.cells())
        if (cell.peer in peers or cell.peer == MIXED) and options.cells in cell.name
    ]
    if options.list:
        print("\n".join([cell.name for cell in cells] + [cell.name for cell in networks]))
        return 0
    if not cells and not networks:
        raise ConfigError("no cell is left")
    chosen: list[Cell | NetworkCell] = [*cells, *networks]
    names = {name for cell in chosen for name in (cell.dialer, cell.listener)}
    if MIXED in names:
        names = names - {MIXED} | {*peers, OURS}
    adapters = await prepare(sorted(names))
    for name, adapter in adapters.ready.items():
        print(f"{name}: {adapter.version}", flush=True)
    outcomes = await run_cells(matrix, cells, adapters, _tell)
    outcomes += await run_network_cells(networks, adapters, _tell)
    if options.json:
        await trio.Path(options.json).write_text(report.as_json(outcomes, adapters))
    if options.write_docs:
        await trio.Path(DOCS_FILE).write_text(report.markdown(outcomes, adapters))
    for name, reason in adapters.absent.items():
        print(f"absent: {name}: {reason}")
    print(report.counts(outcomes))
    return 1 if any(outcome.failed for outcome in outcomes) else 0


if __name__ == "__main__":
    try:
        sys.exit(run(main, arguments(sys.argv[1:])))
    except ConfigError as error:
        sys.exit(f"interop: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
