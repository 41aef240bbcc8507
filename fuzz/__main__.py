"""`python -m fuzz [TARGET …] --seconds 5`: every target in a process of its own; crashers land in fuzz/crashers/."""

from __future__ import annotations

import argparse
import os
import pkgutil
import subprocess
import sys
import time

import fuzz


def target_names() -> list[str]:
    return sorted(
        found.name for found in pkgutil.iter_modules(fuzz.__path__) if found.name not in {"__main__", "engine"}
    )


def run_all(names: list[str], seconds: float, jobs: int) -> list[str]:
    """Runs the targets, `jobs` at a time; returns the names of those that crashed."""
    waiting, running, crashed = list(names), dict[str, subprocess.Popen[str]](), []
    while waiting or running:
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            running[name] = subprocess.Popen(
                [sys.executable, "-m", "fuzz.engine", name, str(seconds)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        name, process = next(iter(running.items()))
        output, _ = process.communicate()
        del running[name]
        if process.returncode:
            crashed.append(name)
            print(output)
        print(summary(name, output), flush=True)
    return crashed


def summary(name: str, output: str) -> str:
    """One line of what a target's process said."""
    lines = output.split("\n")
    units = [line.split()[-1] for line in lines if line.startswith("stat::number_of_executed_units")]
    if units:
        return f"{name}: {units[0]} executions, guided by coverage"
    return next((line for line in reversed(lines) if line.strip()), f"{name}: said nothing")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each target")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    known = target_names()
    if options.list:
        print("\n".join(known))
        return 0
    if unknown := set(options.targets) - set(known):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    started = time.monotonic()
    crashed = run_all(options.targets or known, options.seconds, options.jobs)
    print(
        f"fuzz: {len(options.targets or known)} targets in {time.monotonic() - started:.0f} s, {len(crashed)} crashed"
    )
    return 1 if crashed else 0


if __name__ == "__main__":
    sys.exit(main())
