import pytest
import trio.testing

from talos.errors import LocalProtocolError, MessageTooLarge, RemoteProtocolError
from talos.wire.length_prefix import frame
from talos.wire.message_stream import MessageStream

Text = MessageStream[str, str]


def pair(max_size: int = 100) -> tuple[Text, trio.abc.Stream]:
    near, far = trio.testing.memory_stream_pair()
    return MessageStream(near, decode=bytes.decode, encode=str.encode, max_size=max_size), far


async def test_messages_cross_and_the_end_is_clean() -> None:
    stream, far = pair()
    peer = MessageStream[str, str](far, decode=bytes.decode, encode=str.encode, max_size=100)
    for word in ("a", "", "ü" * 20):
        await stream.send(word)
    await stream.stream.aclose()
    assert [word async for word in peer] == ["a", "", "ü" * 20]
    with pytest.raises(EOFError):
        await peer.receive()


async def test_an_end_inside_a_message_is_not_a_clean_one() -> None:
    stream, far = pair()
    await far.send_all(b"\x05ab")
    await far.aclose()
    with pytest.raises(RemoteProtocolError):
        await stream.receive()


async def test_limits_hold_both_ways() -> None:
    stream, far = pair(10)
    with pytest.raises(LocalProtocolError):
        await stream.send("x" * 11)
    await far.send_all(frame(b"x" * 11))
    with pytest.raises(MessageTooLarge):
        await stream.receive()


async def test_a_cancelled_receive_loses_nothing() -> None:
    stream, far = pair()
    await far.send_all(b"\x05ab")
    with trio.move_on_after(0.01):
        await stream.receive()
    await far.send_all(b"cde" + frame(b"next") + b"raw")
    assert await stream.receive() == "abcde"
    assert await stream.receive() == "next"
    assert stream.take_leftover() == b"raw"
