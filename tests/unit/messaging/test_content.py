"""Contents and frames: round trips, and limits that hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from talos.abc import SignedReceipt
from talos.errors import EnvelopeRejected, RemoteProtocolError
from talos.messaging.code import AckState, Code
from talos.messaging.content import Ack, AckItem, StreamEnd, StreamStart, Text
from talos.messaging.frames import Deliver, Result, decode, encode

TEXT = Text(body=b"I am online.", reply_to=bytes(16), subject="hello")
ITEM = AckItem(id=bytes(16), digest=bytes(32), state=AckState.DELIVERED, receipt=SignedReceipt(b"body", b"sig"))
START = StreamStart(
    stream_id=bytes(16),
    kind=1,
    key=bytes(32),
    manifest=b"list",
    manifest_hash=bytes(32),
    manifest_size=4,
    name="photo.jpg",
    total_size=9,
    files=1,
    priority=3,
    media_type="image/jpeg",
)
LIVE = StreamStart(stream_id=bytes(16), kind=2, codec="utf-8")
END = StreamEnd(stream_id=bytes(16), status=8, bytes_total=3, chunks=1, root=bytes(32))


@pytest.mark.parametrize("content", [TEXT, Text(body=b""), Ack((ITEM, replace(ITEM, receipt=None))), START, LIVE, END])
def test_round_trip(content: Text | Ack | StreamStart | StreamEnd) -> None:
    assert type(content).decode(content.encode()) == content


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (Text(body=bytes(65_537)), "over 64 KiB"),
        (Text(body=b"", media_type="x" * 129), "media type"),
        (Text(body=b"", subject="é" * 129), "subject"),
        (Text(body=b"", reply_to=b"x"), "no message id"),
        (Ack(()), "of 0 messages"),
        (Ack((ITEM,) * 65), "of 65 messages"),
        (Ack((replace(ITEM, id=b""),)), "of no message"),
        (replace(START, stream_id=b""), "another length"),
        (replace(START, kind=3), "kind 3"),
        (replace(START, name="x" * 1025), "name"),
        (replace(START, codec="x" * 65), "codec"),
        (replace(START, media_type="x" * 129), "media type"),
        (replace(START, key=b""), "without their key"),
        (replace(START, manifest_hash=b""), "without the hash"),
        (replace(START, manifest=bytes(32_769)), "32 KiB"),
        (replace(START, manifest_size=0), "or none"),
        (replace(END, stream_id=b""), "another length"),
        (replace(END, root=b"x"), "root"),
    ],
)
def test_limits(content: Text | Ack | StreamStart | StreamEnd, fault: str) -> None:
    with pytest.raises(EnvelopeRejected, match=fault) as caught:
        type(content).decode(content.encode())
    assert caught.value.code == Code.BAD_PAYLOAD


@pytest.mark.parametrize("kind", [Text, Ack, StreamStart, StreamEnd])
def test_junk(kind: type[Text | Ack | StreamStart | StreamEnd]) -> None:
    with pytest.raises(EnvelopeRejected, match="no protobuf"):
        kind.decode(b"\xff")


def test_an_unknown_state_is_refused() -> None:
    data = Ack((ITEM,)).encode().replace(b"\x18\x02", b"\x18\x09")
    with pytest.raises(EnvelopeRejected, match="state 9"):
        Ack.decode(data)


RESULT = Result(
    sealed_hash=bytes(32), code=Code.UNKNOWN_KEY, ack_envelope=b"a", key_record=b"k", retry_after_ms=5, clock_ms=6
)


@pytest.mark.parametrize("frame", [Deliver(b"envelope"), RESULT])
def test_frames(frame: Deliver | Result) -> None:
    assert decode(encode(frame)) == frame


def test_results_say_whether_it_arrived() -> None:
    assert [code for code in Code if replace(RESULT, code=code).ok] == [Code.OK, Code.STORED]


@pytest.mark.parametrize("data", [b"", b"\xff", encode(replace(RESULT, sealed_hash=b"short"))])
def test_frames_that_are_none(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)
