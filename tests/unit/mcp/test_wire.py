"""The opening's messages and frames, byte for byte."""

from __future__ import annotations

from dataclasses import replace

import pytest

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.mcp.wire import Accept, FrameKind, Open, Receipt, Status, frame, line_header

NEW = Open(server="files", nonce=b"n" * 32, max_line=65_536, window=65_536, features=("resume",), agent="talos/1")
RESUME = replace(NEW, nonce=b"", session=b"s" * 16, resume_token=b"t" * 32, attach=1, received=7)
OK = Accept(
    status=Status.OK,
    session=b"s" * 16,
    resume_token=b"t" * 32,
    max_line=268_435_456,
    window=67_108_864,
    nonce=b"n" * 32,
    server="a",
)


def test_an_open_is_these_bytes() -> None:
    expected = (
        b"\x08\x01\x12\x05files\x38\x80\x80\x04\x40\x80\x80\x04\x4a\x20" + b"n" * 32 + b"\x52\x06resume\x5a\x07talos/1"
    )
    assert NEW.encode() == expected
    assert Open.decode(expected) == NEW
    assert not NEW.resumes


def test_an_accept_is_these_bytes() -> None:
    expected = (
        b"\x08\x01\x12\x10" + b"s" * 16 + b"\x1a\x20" + b"t" * 32 + b"\x28\x80\x80\x80\x80\x01\x30\x80\x80\x80\x20"
        b"\x42\x20" + b"n" * 32 + b"\x52\x01a"
    )
    assert OK.encode() == expected
    assert Accept.decode(expected) == OK


@pytest.mark.parametrize("message", [NEW, RESUME, replace(NEW, server="")])
def test_good_openings_pass(message: Open) -> None:
    Open.decode(message.encode()).check()


@pytest.mark.parametrize(
    "bad",
    [
        replace(NEW, server="Files"),
        replace(NEW, server="a" * 65),
        replace(NEW, server="-a"),
        replace(NEW, server="a\n"),
        replace(NEW, max_line=65_535),
        replace(NEW, max_line=268_435_457),
        replace(NEW, window=65_535),
        replace(NEW, window=67_108_865),
        replace(NEW, nonce=b"n" * 31),
        replace(NEW, nonce=b""),
        replace(NEW, resume_token=b"t" * 32),
        replace(NEW, attach=1),
        replace(NEW, received=1),
        replace(RESUME, session=b"s" * 15),
        replace(RESUME, resume_token=b""),
        replace(RESUME, nonce=b"n" * 32),
        replace(RESUME, attach=0),
    ],
)
def test_bad_openings_are_decoded_and_then_refused(bad: Open) -> None:
    message = Open.decode(bad.encode())
    assert message == bad
    with pytest.raises(RemoteProtocolError):
        message.check()


@pytest.mark.parametrize(
    "bad",
    [
        replace(OK, session=b""),
        replace(OK, resume_token=b"t"),
        replace(OK, nonce=b"n" * 33),
        replace(OK, server=""),
        replace(OK, server="../a"),
        replace(OK, max_line=1),
        replace(OK, window=0),
        replace(OK, received=1),
        replace(OK, linger_ms=3_600_001),
        replace(OK, detail="x" * 257),
        Accept(status=Status.REFUSED, detail="é" * 129),
    ],
)
def test_bad_answers_are_refused(bad: Accept) -> None:
    with pytest.raises(RemoteProtocolError):
        Accept.decode(bad.encode()).check()


@pytest.mark.parametrize("status", [status for status in Status if status > Status.OK])
def test_other_answers_need_no_fields(status: Status) -> None:
    answer = Accept.decode(Accept(status=status, detail="x" * 256).encode())
    answer.check()
    assert answer.status is status


@pytest.mark.parametrize("data", [b"", b"\x08\x00", b"\x08\x08", b"\x08\xff\xff\xff\xff\x07"])
def test_a_status_that_nobody_knows_is_refused(data: bytes) -> None:
    assert Accept.decode(data).status is Status.REFUSED


@pytest.mark.parametrize("decode", [Open.decode, Accept.decode, Receipt.decode])
@pytest.mark.parametrize("data", [b"\x0a", b"\xff\xff", b"\x0a\xff\xff\xff\xff\x0f"])
def test_what_is_no_message_is_refused(decode: type, data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode(data)


def test_a_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        Open.decode(b"\x12\x01\xff")


def test_our_own_messages_are_bounded() -> None:
    with pytest.raises(LocalProtocolError, match="4096"):
        replace(NEW, agent="x" * 4096).encode()
    with pytest.raises(LocalProtocolError, match="4096"):
        replace(OK, detail="x" * 4096).encode()
    with pytest.raises(LocalProtocolError, match="1024"):
        Receipt(b"x" * 1024, b"").encode()


def test_a_receipt_comes_back() -> None:
    receipt = Receipt(b"body", b"sig", reply=True)
    assert receipt.encode() == b"\x0a\x04body\x12\x03sig\x18\x01"
    assert Receipt.decode(receipt.encode()) == receipt
    with pytest.raises(RemoteProtocolError, match="1025"):
        Receipt.decode(b"\x0a" * 1025)


def test_frames_are_these_bytes() -> None:
    assert frame(FrameKind.ACK, b"\x05") == bytes.fromhex("020205")
    assert frame(FrameKind.PING, bytes(8)) == bytes.fromhex("0903") + bytes(8)
    assert line_header(1, 0, 2) + b"{}" == bytes.fromhex("0501 0100 7b7d")
    assert line_header(300, 128, 200) == bytes.fromhex("cd01 01 ac02 8001")
