"""What the README shows must type-check for users."""

from talos.abc import Handler, Stream


async def echo(stream: Stream) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


handler: Handler = echo
