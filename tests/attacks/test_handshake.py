"""TR rows: what comes before a peer is authenticated."""

from __future__ import annotations

import contextlib

import trio

from tests.attacks.harness import SOON_SECONDS, Victim, attacked
from tests.attacks.nodes import ignoring_the_end, read_to_end, receive_exactly

HEADER = b"\x13/multistream/1.0.0\n"
HOSTILE_LINES = {
    "2^30": bytes.fromhex("8080808004"),
    "2^40": bytes.fromhex("808080808020"),
    "2^63": bytes.fromhex("80808080808080808001"),
    "not minimal": bytes.fromhex("8000"),
    "not minimal, of a fitting length": bytes.fromhex("9300") + b"/multistream/1.0.0\n",
    "ten bytes": bytes.fromhex("ffffffffffffffffff01"),
    "endless": b"\xff" * 64,
    "empty": b"\x00",
    "1,151 bytes": bytes.fromhex("ff08"),
    "no newline": b"\x13/multistream/1.0.0 ",
    "bad UTF-8": b"\x13/multistream/1.0.0\n\x04\xff\xfe\xfd\n",
    "another header": b"\x13/multistream/2.0.0\n",
}


def line(text: bytes) -> bytes:
    """One multistream message."""
    length = len(text) + 1
    prefix = bytes([length]) if length < 128 else bytes([length & 0x7F | 0x80, length >> 7])
    return prefix + text + b"\n"


async def proposal_is_answered(stream: trio.SocketStream) -> bool:
    """Whether a protocol that nobody has is answered once more."""
    await stream.send_all(line(b"/nothing/1.0.0"))
    with contextlib.suppress(EOFError, trio.BrokenResourceError):
        return await receive_exactly(stream, 4) == b"\x03na\n"
    return False


async def test_tr01_tr02_silence_and_dripping_end_after_ten_seconds() -> None:
    closed: dict[str, float] = {}

    async def silent(node: Victim) -> None:
        async with node.raw() as stream:
            started = trio.current_time()
            await read_to_end(stream)
            closed["silent"] = trio.current_time() - started

    async def dripping(node: Victim, data: bytes) -> None:
        """A byte every 250 ms."""
        async with node.raw() as stream, trio.open_nursery() as nursery:
            started = trio.current_time()

            async def drip() -> None:
                for byte in data:
                    await stream.send_all(bytes([byte]))
                    await trio.sleep(0.25)

            nursery.start_soon(ignoring_the_end, drip)
            await read_to_end(stream)
            closed[f"dripping {data[20:]!r}"] = trio.current_time() - started
            nursery.cancel_scope.cancel()

    async with attacked() as node:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(silent, node)
            nursery.start_soon(dripping, node, HEADER + line(b"/noise") + b"\x00\x60" + b"\x07" * 96)
            nursery.start_soon(dripping, node, HEADER + line(b"/nothing") * 10)
        assert len(closed) == 3
        assert all(9.5 < seconds < 11 for seconds in closed.values()), closed
        await node.until(lambda status: status["failed"] == {"handshake_timeout": 3})


async def test_tr05_tr06_tr07_hostile_multistream() -> None:
    async with attacked() as node:
        for name, data in HOSTILE_LINES.items():
            async with node.raw() as stream:
                await stream.send_all(data)
                with trio.move_on_after(SOON_SECONDS) as scope:
                    await read_to_end(stream)
                assert not scope.cancelled_caught, f"{name}: not closed"

        async with node.raw() as stream:
            await ignoring_the_end(stream.send_all, HEADER + line(b"/nothing/1.0.0") * 5000)
            with trio.fail_after(SOON_SECONDS):
                await read_to_end(stream)

        async with node.raw() as stream:
            await stream.send_all(HEADER)
            await receive_exactly(stream, len(HEADER))
            answered = 0
            with trio.fail_after(SOON_SECONDS):
                while await proposal_is_answered(stream):
                    answered += 1
            assert 0 < answered <= 64

        async with node.raw() as stream:
            await stream.send_all(HEADER + line(b"ls"))
            with trio.fail_after(SOON_SECONDS):
                assert await receive_exactly(stream, len(HEADER) + 4) == HEADER + b"\x03na\n"
