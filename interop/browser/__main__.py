"""`python -m interop.browser`: runs the meeting, prints what both ends saw, exits with 1 when it failed."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import trio

from interop.browser.run import BROWSERS, find_browser, meet
from interop.peers.build import BuildFailed, ToolchainAbsent
from interop.process import PeerFailed

SECONDS = 120


async def run(browser: str, screenshot: Path) -> int:
    code = 0
    try:
        with trio.fail_after(SECONDS):
            meeting = await meet(browser, screenshot)
        print(json.dumps(dataclasses.asdict(meeting), indent=2))
    except* (PeerFailed, BuildFailed, ToolchainAbsent, trio.TooSlowError) as failures:
        print(f"failed: {failures.exceptions[0]}", file=sys.stderr)
        code = 1
    return code


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m interop.browser", description=__doc__)
    parser.add_argument("--screenshot", type=Path, default=Path("browser.png"), help="default: %(default)s")
    options = parser.parse_args()
    browser = find_browser()
    if browser is None:
        print(f"there is no browser here: none of {', '.join(BROWSERS)} is on PATH", file=sys.stderr)
        return 1
    return trio.run(run, browser, options.screenshot.absolute())


if __name__ == "__main__":
    sys.exit(main())
