"""Two nodes and an echo. Run it: it prints what came back."""

from talos import Stream, open_host, presets, run

ECHO = "/talos/echo/1.0.0"


async def main() -> None:
    async with open_host(presets.testing()) as server, open_host(presets.testing()) as client:

        @server.handle(ECHO)
        async def echo(stream: Stream) -> None:
            async for chunk in stream:
                await stream.send_all(chunk)

        connection = await client.connect(server.peer_id, server.addrs)
        async with await client.open_stream(connection, ECHO) as stream:
            await stream.send_all(b"hello over noise and yamux")
            await stream.send_eof()
            async for chunk in stream:
                print(bytes(chunk).decode())


if __name__ == "__main__":
    run(main)
