"""A process that records until it is killed, and says what was acknowledged: `python -m tests.chain.appender DIR START`."""

from __future__ import annotations

import itertools
import resource
import sys
from pathlib import Path

import trio

from talos.chain import ChainConfig, open_chain
from talos.errors import AuditError
from tests.chain.conftest import call, keys_of


async def main(directory: Path, start: int, limit: int, burst: int) -> None:
    config = ChainConfig(seal_seconds=0.02, retry_seconds=0.05)
    async with open_chain(None, config, keys_of(b"Alice"), directory=directory) as chain:
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        for number in itertools.count(start, burst):
            try:
                await chain.record_many([call(one) for one in range(number, number + burst)])
            except AuditError as error:
                print("refused", number, type(error).__name__, flush=True)
                if limit and type(error).__name__ == "StoreFull":
                    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
                    assert hard == limit
                return
            print("ack", *range(number, number + burst), flush=True)


if __name__ == "__main__":
    first, most, many = map(int, sys.argv[2:5])
    trio.run(main, Path(sys.argv[1]), first, most, many)
