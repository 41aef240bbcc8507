"""What both sides can prove, byte for byte, and the entries made of it."""

from __future__ import annotations

import hashlib
import json

import pytest

from talos.abc import Direction, EntryKind
from talos.errors import LocalProtocolError, ProofInvalid
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.mcp.framing import inspect
from talos.mcp.line_info import SMALL_LINE_BYTES
from talos.mcp.transcript import (
    Decision,
    MetaType,
    Tag,
    Transcript,
    TranscriptEntries,
    Way,
    decode_detail,
    encode_detail,
    msg_id,
    refusal_entry,
    sealed_hash,
)

CONNECT, SERVE = (PeerId.from_key(PrivateKey.from_seed(bytes([n]) * 32).public_key) for n in range(2))
PING = b'{"jsonrpc":"2.0","id":1,"method":"ping"}'
PONG = b'{"jsonrpc":"2.0","id":1,"result":{}}'
SALT = b"r" * 32


def transcript() -> Transcript:
    return Transcript(b"\x01" * 32, b"\x02" * 32, b"\x03" * 16)


def entries(*, connects: bool = True, content: str = "hash", server: str = "files") -> TranscriptEntries:
    return TranscriptEntries(transcript(), CONNECT, SERVE, connects=connects, server=server, content=content)  # type: ignore[arg-type]


def arguments_of(line: bytes, content: str = "args") -> object:
    entry = entries(content=content).line(Way.UP, 1, line, inspect(line), now_ms=0)
    return decode_detail(entry.detail).get(Tag.ARGUMENTS)


def test_known_answers() -> None:
    known = transcript()
    line_hash = known.line_hash(Way.UP, 1, PING)
    known.advance(Way.UP, 1, line_hash)
    assert known.session_commit.hex() == "fe1813914d1f5ab0cca8f7a1ff6e828b9ecdb1f791dee975f4dae1b36a4f0bad"
    assert msg_id(known.session, Way.UP, 1).hex() == "98332894263f9fe3320c4e58ff6e6316"
    assert line_hash.hex() == "860b9c7c5804975749186e9cdab33b3e93c30fa029ff7d6fd5a0d3624d2008db"
    assert known.heads[Way.UP].hex() == "f29fc50bf2844c1b40659c8e7c8507ac8fb1af9ea21808b3ba1cc101a7c77b43"


def test_one_line_is_proven_by_its_salt_alone() -> None:
    known = transcript()
    assert sealed_hash(known.line_salt(Way.UP, 1), PING) == known.line_hash(Way.UP, 1, PING)
    salts = {known.line_salt(way, seq) for way in Way for seq in (1, 2, 256)}
    assert len(salts) == 6


def test_the_head_takes_every_line_once() -> None:
    known = transcript()
    for seq in (0, 2):
        with pytest.raises(LocalProtocolError):
            known.advance(Way.UP, seq, SALT)
    known.advance(Way.UP, 1, SALT)
    assert known.summary() == ((1).to_bytes(8, "big") + known.heads[Way.UP] + bytes(8) + transcript().heads[Way.DOWN])


def test_both_sides_record_the_same_line() -> None:
    info = inspect(PING)
    at_connect = entries().line(Way.UP, 1, PING, info, now_ms=5)
    serving = TranscriptEntries(transcript(), SERVE, CONNECT, connects=False, server="files")
    at_serve = serving.line(Way.UP, 1, PING, info, now_ms=9, line_hash=transcript().line_hash(Way.UP, 1, PING))
    assert (at_connect.direction, at_serve.direction) == (Direction.OUT, Direction.IN)
    assert (at_connect.counterparty, at_serve.counterparty) == (SERVE.raw, CONNECT.raw)
    for entry in (at_connect, at_serve):
        assert entry.kind is EntryKind.MCP_CALL
        assert entry.msg_id.hex() == "98332894263f9fe3320c4e58ff6e6316"
        assert entry.sealed_hash.hex().startswith("860b9c7c")
        assert entry.session_commit.hex().startswith("fe181391")
        assert (entry.sender, entry.recipient) == (CONNECT.raw, SERVE.raw)
        assert (entry.type, entry.size, entry.sealed) == (MetaType.REQUEST, len(PING), b"")
        assert decode_detail(entry.detail) == {Tag.METHOD: "ping", Tag.ID_RAW: b"1", Tag.DECISION: Decision.FORWARDED}
    assert (at_connect.time_ms, at_serve.sent_ms) == (5, 9)


def test_a_response_says_what_it_answers() -> None:
    at_connect = entries()
    entry = at_connect.line(
        Way.DOWN,
        1,
        PONG,
        inspect(PONG),
        now_ms=1,
        decision=Decision.ANSWERED,
        reason="timeout",
        policy_hash=SALT,
        answers=3,
        duration_ms=0,
        error_code=4081,
    )
    assert entry.kind is EntryKind.MCP_RESULT
    assert (entry.direction, entry.sender) == (Direction.IN, SERVE.raw)
    assert decode_detail(entry.detail) == {
        Tag.ID_RAW: b"1",
        Tag.DECISION: Decision.ANSWERED,
        Tag.REASON: "timeout",
        Tag.POLICY_HASH: SALT,
        Tag.ANSWERS: 3,
        Tag.DURATION: 0,
        Tag.ERROR_CODE: 4081,
    }
    assert at_connect.transcript.seqs == {Way.UP: 0, Way.DOWN: 1}


@pytest.mark.parametrize(
    ("params", "name"), [('{"name":"add"}', "add"), ('{"uri":"file:///x"}', "file:///x"), ('{"name":"","uri":"u"}', "")]
)
def test_what_is_called_is_named(params: str, name: str) -> None:
    line = f'{{"id":1,"method":"m","params":{params}}}'.encode()
    entry = entries().line(Way.UP, 1, line, inspect(line), now_ms=0)
    assert decode_detail(entry.detail)[Tag.NAME] == name


def test_events_have_a_number_and_the_last_one_has_the_heads() -> None:
    of_session = entries()
    opened = of_session.event(MetaType.OPENED, salt=SALT, now_ms=1, policy_hash=b"p" * 32)
    closed = of_session.event(MetaType.CLOSED, salt=SALT, now_ms=2, reason="done", exit_status=137)
    assert [opened.msg_id, closed.msg_id] == [msg_id(b"\x03" * 16, 0, 1), msg_id(b"\x03" * 16, 0, 2)]
    assert opened.direction is closed.direction is Direction.OUT
    assert decode_detail(opened.detail) == {Tag.SERVER: "files", Tag.POLICY_HASH: b"p" * 32}
    assert decode_detail(closed.detail) == {
        Tag.SERVER: "files",
        Tag.REASON: "done",
        Tag.EXIT_STATUS: 137,
        Tag.HEADS: transcript().summary(),
    }
    assert opened.sealed_hash == sealed_hash(SALT, opened.detail)
    assert (opened.type, opened.size) == (MetaType.OPENED, 0)


def test_a_dropped_line_is_committed_to() -> None:
    dropped = entries(server="").event(MetaType.DROPPED, salt=SALT, now_ms=1, line=b"banner", reason="garbage")
    assert dropped.sealed_hash == sealed_hash(SALT, b"banner")
    assert dropped.size == 6
    assert decode_detail(dropped.detail) == {Tag.REASON: "garbage"}


def test_a_refusal_has_a_session_of_its_own() -> None:
    entry = refusal_entry(SERVE, CONNECT, session=b"q" * 16, salt=SALT, now_ms=3, server="x", reason="refused", count=4)
    assert (entry.kind, entry.type, entry.direction) == (EntryKind.MCP_CALL, MetaType.REFUSED, Direction.OUT)
    assert (entry.sender, entry.counterparty) == (SERVE.raw, CONNECT.raw)
    assert entry.msg_id == msg_id(b"q" * 16, 0, 1)
    assert entry.session_commit == hashlib.sha256(b"talos/mcp-session/v1\n" + SALT + b"q" * 16).digest()
    assert decode_detail(entry.detail) == {Tag.SERVER: "x", Tag.REASON: "refused", Tag.COUNT: 4}


# ----------------------------------------------------------------------------------- content


CALL = b'{"id":1,"method":"tools/call","params":{"name":"t","arguments":%s}}'


def test_by_default_no_content_is_kept() -> None:
    assert arguments_of(CALL % b'{"a":1}', "hash") is None
    assert arguments_of(CALL % b'{"a":1}', "full") is None


def test_arguments_are_kept_without_secrets() -> None:
    given = b'{"a":1,"API_KEY":"k","deep":[{"Authorization":"x","user":"caf\xc3\xa9"}],"tokens":[1],"author":"z"}'
    kept = arguments_of(CALL % given)
    assert isinstance(kept, bytes)
    assert json.loads(kept) == {
        "a": 1,
        "API_KEY": "[redacted]",
        "deep": [{"Authorization": "[redacted]", "user": "café"}],
        "tokens": "[redacted]",
        "author": "z",
    }


def test_long_arguments_are_cut_and_hashed() -> None:
    kept = arguments_of(CALL % json.dumps({"a": "x" * 5000}).encode())
    text = json.dumps({"a": "x" * 5000}, separators=(",", ":")).encode()
    assert kept == text[:4096] + hashlib.sha256(text).digest()


@pytest.mark.parametrize(
    "line",
    [
        PING,
        PONG,
        b'{"id":1,"method":"m","params":[1]}',
        CALL % (b"1" * 5000),
        CALL % (b"[" * 200 + b"]" * 200),
        CALL % (b'"' + b"x" * SMALL_LINE_BYTES + b'"'),
        b'{"method":"m","params":{"arguments":{}}}',
    ],
)
def test_what_has_no_arguments_to_read_has_none(line: bytes) -> None:
    assert arguments_of(line) is None


def test_odd_arguments_are_kept_as_text() -> None:
    assert arguments_of(b"\xef\xbb\xbf" + CALL % b'"\\ud800\xff"') == b'"\\ud800\\udcff"'


def test_full_content_opens_the_hash() -> None:
    keeping = entries(content="full")
    entry = keeping.line(Way.UP, 1, PING, inspect(PING), now_ms=0)
    assert entry.sealed == keeping.transcript.line_salt(Way.UP, 1) + PING
    assert hashlib.sha256(b"talos/sealed/v1\n" + entry.sealed).digest() == entry.sealed_hash
    long = PING + b" " * SMALL_LINE_BYTES
    assert keeping.line(Way.UP, 2, long, inspect(long), now_ms=0).sealed == b""


# ----------------------------------------------------------------------------------- detail


def test_a_detail_is_these_bytes() -> None:
    detail = encode_detail({Tag.COUNT: 258, Tag.SERVER: "é"})
    assert detail == b"\x01\x00\x02\xc3\xa9" + b"\x0d\x00\x08" + bytes(6) + b"\x01\x02"
    assert decode_detail(detail) == {Tag.SERVER: "é", Tag.COUNT: 258}
    assert decode_detail(b"") == {}


def test_long_values_are_cut_and_hashed() -> None:
    detail = encode_detail({Tag.METHOD: "m" * 257, Tag.ID_RAW: b"i" * 256})
    assert detail[3:291] == b"m" * 256 + hashlib.sha256(b"m" * 257).digest()
    assert decode_detail(detail) == {Tag.METHOD: "m" * 256 + "...", Tag.ID_RAW: b"i" * 256}


def test_tags_of_a_later_release_are_passed_over() -> None:
    assert decode_detail(b"\x01\x00\x01a\xc8\x00\x02zz") == {Tag.SERVER: "a"}


@pytest.mark.parametrize(
    "detail",
    [
        b"\x01",
        b"\x01\x00",
        b"\x01\x00\x02a",
        b"\x02\x00\x01a\x01\x00\x01b",
        b"\x01\x00\x00\x01\x00\x00",
        b"\x00\x00\x00",
        b"\x05\x00\x01a",
    ],
)
def test_what_is_no_detail_is_refused(detail: bytes) -> None:
    with pytest.raises(ProofInvalid):
        decode_detail(detail)
