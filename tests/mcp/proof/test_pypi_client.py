"""The `mcp` package's client gets through the tunnel what it gets from the server itself: both eras, both event loops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Literal

import mcp_types as types
import pytest
import trio
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

from tests.mcp.proof.conftest import PYTHON_SERVERS, Tunnel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Mode = Literal["auto", "legacy"]
LOOPS: dict[str, Callable[[Callable[[], Awaitable[Any]]], Any]] = {
    "trio": trio.run,
    "asyncio": lambda function: asyncio.run(function()),  # type: ignore[arg-type]  # an async function's awaitable is a coroutine
}


async def answer_sampling(context: Any, params: types.CreateMessageRequestParams) -> types.CreateMessageResult:
    return types.CreateMessageResult(
        role="assistant", content=types.TextContent(type="text", text="sampled"), model="none"
    )


async def answer_elicitation(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
    return types.ElicitResult(action="accept", content={"username": "u", "email": "e", "name": "n"})


async def everything(command: list[str], mode: Mode) -> list[Any]:
    """What the fixture server answers to all that a client asks, plain values only."""
    reported: list[tuple[float, float | None, str | None]] = []
    logged: list[Any] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        reported.append((progress, total, message))

    async def on_log(params: types.LoggingMessageNotificationParams) -> None:
        logged.append(params.data)

    found: list[Any] = []
    parameters = StdioServerParameters(command=command[0], args=command[1:])
    async with Client(
        parameters,
        mode=mode,
        sampling_callback=answer_sampling,
        elicitation_callback=answer_elicitation,
        logging_callback=on_log,
    ) as client:
        found += [client.protocol_version, plain(client.server_capabilities)]
        found += [plain(await client.list_tools()), plain(await client.list_resources())]
        found += [plain(await client.list_prompts()), plain(await client.list_resource_templates())]
        for name in ("test_simple_text", "test_image_content", "test_multiple_content_types", "test_error_handling"):
            found.append(plain(await client.call_tool(name, {})))
        found.append(plain(await client.call_tool("add", {"a": 2, "b": 40})))
        found.append(plain(await client.call_tool("add", {"a": "no number"})))
        found.append(plain(await client.call_tool("no such tool", {})))
        found.append(plain(await client.call_tool("test_tool_with_progress", {}, progress_callback=on_progress)))
        found.append(plain(await client.call_tool("test_tool_with_logging", {})))
        asking = [("test_sampling", {"prompt": "p"}), ("test_elicitation", {"message": "m"})]
        for name, arguments in asking:
            found.append(await outcome(client.call_tool(name, arguments)))
        if mode == "auto":
            found.append(plain(await client.call_tool("test_input_required_result_elicitation", {})))
        for uri in ("test://static-text", "test://static-binary", "test://template/7/data"):
            found.append(plain(await client.read_resource(uri)))
        found.append(plain(await client.get_prompt("test_prompt_with_arguments", {"arg1": "a", "arg2": "ü\u2028"})))
        found.append(await outcome(client.read_resource("test://nothing")))
    return [*found, reported, logged]


async def outcome(call: Awaitable[Any]) -> Any:
    """The result, or the server's error: servers of 2026-07-28 can ask nothing on their own."""
    try:
        return plain(await call)
    except MCPError as error:
        return error.error.code, error.error.message


def plain(value: Any) -> Any:
    return value.model_dump(mode="json") if value is not None else None


@pytest.mark.parametrize("loop", list(LOOPS))
@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_results_are_those_of_the_direct_run(mode: Mode, loop: str, python_tunnel: Tunnel) -> None:
    run = LOOPS[loop]
    direct = run(lambda: everything(PYTHON_SERVERS["fixture"], mode))
    through = run(lambda: everything(python_tunnel.connect("fixture"), mode))
    assert through == direct
    assert direct[0] == ("2026-07-28" if mode == "auto" else "2025-11-25")


def test_two_hundred_calls_at_once(python_tunnel: Tunnel) -> None:
    command = python_tunnel.connect("example")

    async def run() -> list[Any]:
        sums: list[Any] = [None] * 200
        async with (
            Client(StdioServerParameters(command=command[0], args=command[1:])) as client,
            trio.open_nursery() as nursery,
        ):

            async def call(number: int) -> None:
                result = await client.call_tool("add", {"a": number, "b": 1})
                sums[number] = result.content[0].model_dump()["text"]

            for number in range(200):
                nursery.start_soon(call, number)
        return sums

    assert trio.run(run) == [str(number + 1) for number in range(200)]
