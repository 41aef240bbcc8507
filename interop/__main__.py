"""`python -m interop`: runs the cells of matrix.toml, prints a table, exits with 1 when a cell failed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import trio

from interop import report
from interop.adapters import ROOT, prepare
from interop.cells import run_cells
from interop.matrix import PEERS, load
from talos.errors import ConfigError
from talos.program import run

DOCS_FILE = ROOT / "docs" / "interop.md"


def arguments(words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m interop", description="Run Talos against its peers.")
    parser.add_argument("--peers", default=",".join(PEERS), help="which, by comma; default: %(default)s")
    parser.add_argument("--cells", default="", metavar="TEXT", help="only cells whose name holds TEXT")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there")
    parser.add_argument("--list", action="store_true", help="print the cells and stop")
    parser.add_argument("--write-docs", action="store_true", help="write docs/interop.md")
    return parser.parse_args(words)


async def main(options: argparse.Namespace) -> int:
    """Runs what was chosen; the exit code."""
    peers = [name for name in options.peers.split(",") if name]
    if unknown := set(peers) - set(PEERS):
        raise ConfigError(f"no such peer: {', '.join(sorted(unknown))}")
    matrix = load()
    cells = matrix.select(peers, options.cells)
    if options.list:
        print("\n".join(cell.name for cell in cells))
        return 0
    if not cells:
        raise ConfigError("no cell is left")
    adapters = await prepare(sorted({name for cell in cells for name in (cell.dialer, cell.listener)}))
    for name, adapter in adapters.ready.items():
        print(f"{name}: {adapter.version}", flush=True)
    outcomes = await run_cells(matrix, cells, adapters, lambda outcome: print(report.line(outcome), flush=True))
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
