import trio

from talos.muxer.yamux import Yamux


async def open_badly(stream: trio.abc.Stream) -> None:
    async with Yamux().open(stream, "dialer"):  # error: Argument 2 to "open" of "Yamux" has incompatible type
        pass
