"""Leases: what nobody follows any more is ended, unless its work is durable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from talos.agent import open_host
from talos.cli.exits import problem_of
from talos.control.failure import Failure
from talos.control.operations import OperationsConfig, Request, open_operations
from talos.errors import ConfigError

if TYPE_CHECKING:
    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit, Function


class _Agent:
    def __init__(self, node: object) -> None:
        self.node = node


async def forever(agent: Agent, args: Arguments, emit: Emit) -> None:
    if args.flag("keep"):
        emit.keep()
    await trio.sleep_forever()


async def at_once(agent: Agent, args: Arguments, emit: Emit) -> None:
    emit("x")


TABLE: dict[str, Function] = {"forever": forever, "at_once": at_once}


async def test_leases(memory_config: Any, autojump_clock: Any) -> None:
    async with open_host(memory_config()) as node:
        agent = cast("Agent", _Agent(node))
        async with open_operations(agent, TABLE.get, problem_of, OperationsConfig(lease_seconds=10)) as running:
            left = running.begin(Request(name="forever", args={}))
            kept = running.begin(Request(name="forever", args={"keep": True}))
            followed = running.begin(Request(name="forever", args={}))
            read = running.begin(Request(name="at_once", args={}))
            with followed.followed():
                await trio.sleep(15)
                assert (left.ended, kept.ended, followed.ended) == (True, False, False)
                assert running.running == 2
                assert "nobody followed" in left.log.after(0)[1][-1].data
                assert running.find(read.id) is None  # nobody came for its end
            kept.cancel()
            await trio.sleep(30)
            assert [running.find(each.id) for each in (left, kept, followed)] == [None] * 3
            await running.close_when_done()
            with pytest.raises(Failure, match="stopping"):
                running.begin(Request(name="at_once", args={}))


async def test_input_of_an_operation_that_takes_none(memory_config: Any, autojump_clock: Any) -> None:
    async with open_host(memory_config()) as node:
        agent = cast("Agent", _Agent(node))
        async with open_operations(agent, TABLE.get, problem_of) as running:
            ended = running.begin(Request(name="at_once", args={}, piped=True))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                await ended.feed(b"x")
            going = running.begin(Request(name="forever", args={}))
        assert '"going_away"' in going.log.after(0)[1][-1].data


def test_operations_need_room_and_time() -> None:
    for wrong in ({"at_once": 0}, {"lease_seconds": 0.0}):
        with pytest.raises(ConfigError):
            OperationsConfig(**wrong)
