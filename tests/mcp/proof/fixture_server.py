"""A server on the `mcp` package with the tools, resources and prompts that the conformance suite asks for; both eras.

The package evaluates the annotations of its tools, so they are not postponed here.
"""

import base64
import warnings
from typing import Any

import mcp_types as types
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.prompts.base import Message, UserMessage

warnings.simplefilter("ignore")  # the suite asks for capabilities that the newest revision no longer has

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SOUND = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA="

server = MCPServer("talos-fixture", version="1")


def _text(text: str) -> types.TextContent:
    return types.TextContent(type="text", text=text)


def _image() -> types.ImageContent:
    return types.ImageContent(type="image", data=PIXEL, mime_type="image/png")


def _embedded(uri: str, text: str, kind: str = "text/plain") -> types.EmbeddedResource:
    return types.EmbeddedResource(
        type="resource", resource=types.TextResourceContents(uri=uri, mime_type=kind, text=text)
    )


@server.tool()
def test_simple_text() -> str:
    """A text."""
    return "This is a simple text response for testing."


@server.tool()
def test_image_content() -> list[types.ImageContent]:
    """An image."""
    return [_image()]


@server.tool()
def test_audio_content() -> list[types.AudioContent]:
    """A sound."""
    return [types.AudioContent(type="audio", data=SOUND, mime_type="audio/wav")]


@server.tool()
def test_embedded_resource() -> list[types.EmbeddedResource]:
    """A resource within a result."""
    return [_embedded("test://embedded-resource", "This is an embedded resource content.")]


@server.tool()
def test_multiple_content_types() -> list[types.ContentBlock]:
    """Three kinds of content."""
    mixed = _embedded("test://mixed-content-resource", '{"test":"data","value":123}', "application/json")
    return [_text("Multiple content types test:"), _image(), mixed]


@server.tool()
async def test_tool_with_logging(ctx: Context[Any, Any]) -> str:
    """Logs thrice."""
    for text in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(text)
    return "Tool with logging executed successfully"


@server.tool()
async def test_tool_with_progress(ctx: Context[Any, Any]) -> str:
    """Reports progress thrice."""
    for done in (0, 50, 100):
        await ctx.report_progress(done, 100)
    return "done"


@server.tool()
def test_error_handling() -> str:
    """Always fails."""
    raise ValueError("This tool intentionally returns an error for testing")


@server.tool()
async def test_sampling(prompt: str, ctx: Context[Any, Any]) -> str:
    """Asks the client's model."""
    message = types.SamplingMessage(role="user", content=_text(prompt))
    answer = await ctx.session.create_message([message], max_tokens=100)
    return f"LLM response: {answer.content.text if isinstance(answer.content, types.TextContent) else '?'}"


@server.tool()
async def test_elicitation(message: str, ctx: Context[Any, Any]) -> str:
    """Asks the client's user."""
    schema = {
        "type": "object",
        "properties": {
            "username": {"type": "string", "description": "User's response"},
            "email": {"type": "string", "description": "User's email address"},
        },
        "required": ["username", "email"],
    }
    answer = await ctx.session.elicit(message, schema)
    return f"User response: action={answer.action}, content={answer.content}"


@server.tool()
async def test_input_required_result_elicitation(ctx: Context[Any, Any]) -> str | types.InputRequiredResult:
    """Asks the client's user as 2026-07-28 does: with a result that wants the call again."""
    answers = ctx.input_responses or {}
    answer = answers.get("user_name")
    if isinstance(answer, types.ElicitResult) and answer.content:
        return f"Hello, {answer.content.get('name')}!"
    schema = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    params = types.ElicitRequestFormParams(message="What is your name?", requested_schema=schema)
    return types.InputRequiredResult(input_requests={"user_name": types.ElicitRequest(params=params)})


@server.tool()
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """A text."""
    return "This is the content of the static text resource."


@server.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """An image."""
    return base64.b64decode(PIXEL)


@server.resource("test://template/{id}/data", mime_type="application/json")
def template(id: str) -> str:  # noqa: A002 - the parameter's name in the URI
    """One of many."""
    return f'{{"id":"{id}","templateTest":true,"data":"Data for ID: {id}"}}'


@server.resource("test://watched-resource", mime_type="text/plain")
def watched() -> str:
    """May be subscribed to."""
    return "Watched resource content"


@server.prompt()
def test_simple_prompt() -> str:
    """A prompt."""
    return "This is a simple prompt for testing."


@server.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt of two arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@server.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[Message]:  # noqa: N803 - the suite's name
    """A prompt that holds a resource."""
    return [
        UserMessage(_embedded(resourceUri, "Embedded resource content for testing.")),
        UserMessage("Please process it."),
    ]


@server.prompt()
def test_prompt_with_image() -> list[Message]:
    """A prompt that holds an image."""
    return [UserMessage(_image()), UserMessage("Please analyze the image above.")]


@server.completion()  # type: ignore[no-untyped-call, untyped-decorator]  # as the package has it
async def complete(ref: Any, argument: Any, context: Any) -> types.Completion | None:
    """Completes nothing."""
    return types.Completion(values=[], total=0, has_more=False)


if __name__ == "__main__":
    server.run("stdio")
