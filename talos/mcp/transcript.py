"""What both sides of a session can prove: salted hashes of its lines, and the entries of the audit log made of them.

docs/protocols/mcp.md, transcript and entries.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import json
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from talos.abc import AuditEntry, Direction, EntryKind
from talos.errors import LocalProtocolError
from talos.mcp.detail import Decision, MetaType, Tag, decode_detail, encode_detail
from talos.mcp.framing import is_deep
from talos.mcp.line_info import SMALL_LINE_BYTES, Kind, decode_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from talos.identity.peer_id import PeerId
    from talos.mcp.line_info import LineInfo

__all__ = [
    "REDACTED_KEYS",
    "Decision",
    "MetaType",
    "Tag",
    "Transcript",
    "TranscriptEntries",
    "Way",
    "decode_detail",
    "encode_detail",
    "msg_id",
    "refusal_entry",
    "sealed_hash",
]

REDACTED_KEYS = ("*token*", "*secret*", "*password*", "*key*", "authorization")
"""Globs, regardless of case: values of such keys are not kept with the arguments of a call."""


class Way(enum.IntEnum):
    """Of a line in a session."""

    UP = 1
    """From connect to serve."""
    DOWN = 2


# ----------------------------------------------------------------------------------- hashes


def msg_id(session: bytes, direction: int, seq: int) -> bytes:
    """What identifies line `seq` in the log: 16 bytes."""
    return _hash(b"talos/mcp-id/v1\n", session, bytes((direction,)), seq.to_bytes(8, "big"))[:16]


def sealed_hash(salt: bytes, content: bytes) -> bytes:
    """Commits to `content`, which nobody can guess from it without `salt`."""
    return _hash(b"talos/sealed/v1\n", salt, content)


def _session_commit(salt: bytes, session: bytes) -> bytes:
    return _hash(b"talos/mcp-session/v1\n", salt, session)


def _hash(*parts: bytes) -> bytes:
    if len(parts[-1]) < SMALL_LINE_BYTES:
        return hashlib.sha256(b"".join(parts)).digest()
    digest = hashlib.sha256()  # without a copy of the line
    for part in parts:
        digest.update(part)
    return digest.digest()


class Transcript:
    """The hashes of one session; both sides get the same ones."""

    def __init__(self, connect_nonce: bytes, serve_nonce: bytes, session: bytes) -> None:
        self.session = session
        self.salt = _hash(b"talos/mcp-salt/v1\n", connect_nonce, serve_nonce, session)
        self.session_commit = _session_commit(self.salt, session)
        self.seqs = dict.fromkeys(Way, 0)
        """Lines so far."""
        self.heads = {way: _hash(b"talos/mcp-head/v1\n", self.salt, bytes((way,))) for way in Way}
        """The hash over all of them."""

    def line_salt(self, way: Way, seq: int) -> bytes:
        """Opens the line's hash to whoever is given it, and that of no other line."""
        return hmac.digest(self.salt, bytes((way,)) + seq.to_bytes(8, "big"), "sha256")

    def line_hash(self, way: Way, seq: int, line: bytes) -> bytes:
        """Commits to line `seq`. Changes nothing, so that a thread may do it: a MiB takes some milliseconds."""
        return sealed_hash(self.line_salt(way, seq), line)

    def advance(self, way: Way, seq: int, line_hash: bytes) -> None:
        """Takes the next line's hash into the head. LocalProtocolError when it is not the next one."""
        if seq != self.seqs[way] + 1:
            raise LocalProtocolError(f"mcp: line {seq} behind line {self.seqs[way]} in the transcript")
        self.seqs[way] = seq
        self.heads[way] = _hash(b"talos/mcp-head/v1\n", self.heads[way], line_hash)

    def summary(self) -> bytes:
        """Both seqs and heads, as `Tag.HEADS` has them."""
        return b"".join(self.seqs[way].to_bytes(8, "big") + self.heads[way] for way in Way)


# ----------------------------------------------------------------------------------- entries


class TranscriptEntries:
    """Makes the entries of one session on one side."""

    def __init__(
        self,
        transcript: Transcript,
        local: PeerId,
        remote: PeerId,
        *,
        connects: bool,
        server: str,
        content: Literal["hash", "args", "full"] = "hash",
        redact: Sequence[str] = REDACTED_KEYS,
    ) -> None:
        self.transcript = transcript
        self.server = server
        self._local, self._remote = local.raw, remote.raw
        self._our_way = Way.UP if connects else Way.DOWN
        self._content = content
        self._redact = tuple(pattern.casefold() for pattern in redact)
        self._events = 0

    def line(
        self,
        way: Way,
        seq: int,
        line: bytes,
        info: LineInfo,
        *,
        now_ms: int,
        decision: Decision = Decision.FORWARDED,
        reason: str = "",
        policy_hash: bytes = b"",
        answers: int | None = None,
        duration_ms: int | None = None,
        error_code: int | None = None,
        line_hash: bytes | None = None,
    ) -> AuditEntry:
        """The entry of the next line that crossed, which becomes part of the transcript.

        `line_hash` is given where it was computed already.
        """
        transcript = self.transcript
        if line_hash is None:
            line_hash = transcript.line_hash(way, seq, line)
        transcript.advance(way, seq, line_hash)
        facts = (
            (Tag.METHOD, info.method),
            (Tag.NAME, info.uri if info.name is None else info.name),
            (Tag.ID_RAW, info.id_raw),
            (Tag.DECISION, decision),
            (Tag.REASON, reason or None),
            (Tag.POLICY_HASH, policy_hash or None),
            (Tag.ANSWERS, answers),
            (Tag.DURATION, duration_ms),
            (Tag.ERROR_CODE, error_code),
            (Tag.ARGUMENTS, self._arguments(line, info) if self._content == "args" else None),
        )
        ours = way is self._our_way
        sealed = b""
        if self._content == "full" and len(line) <= SMALL_LINE_BYTES:
            sealed = transcript.line_salt(way, seq) + line
        return AuditEntry(
            kind=EntryKind.MCP_RESULT if info.kind is Kind.RESPONSE else EntryKind.MCP_CALL,
            msg_id=msg_id(transcript.session, way, seq),
            direction=Direction.OUT if ours else Direction.IN,
            counterparty=self._remote,
            time_ms=now_ms,
            sender=self._local if ours else self._remote,
            recipient=self._remote if ours else self._local,
            type=info.kind,
            size=len(line),
            sent_ms=now_ms,
            detail=encode_detail({tag: value for tag, value in facts if value is not None}),
            sealed=sealed,
            sealed_hash=line_hash,
            session_commit=transcript.session_commit,
        )

    def event(
        self, meta: MetaType, *, salt: bytes, now_ms: int, line: bytes | None = None, **fields: int | str | bytes
    ) -> AuditEntry:
        """The entry of something that is no line that crossed. `fields` are tags in lower case.

        `salt` is 32 random bytes; `line` the one that was dropped. The last entry has the heads.
        """
        facts: dict[Tag, int | str | bytes] = {Tag[name.upper()]: value for name, value in fields.items()}
        if self.server:
            facts.setdefault(Tag.SERVER, self.server)
        if meta is MetaType.CLOSED:
            facts[Tag.HEADS] = self.transcript.summary()
        self._events += 1
        return _event_entry(
            meta,
            facts,
            local=self._local,
            remote=self._remote,
            message_id=msg_id(self.transcript.session, 0, self._events),
            session_commit=self.transcript.session_commit,
            salt=salt,
            now_ms=now_ms,
            line=line,
        )

    def _arguments(self, line: bytes, info: LineInfo) -> bytes | None:
        """What a request calls its tool with, where that can be read, without the values that are to be kept out."""
        if info.kind is not Kind.REQUEST or len(line) > SMALL_LINE_BYTES or is_deep(line):
            return None
        try:
            message = json.loads(decode_text(line).lstrip("\ufeff"))
        except ValueError:  # a number too long for an int
            return None
        params = message.get("params")
        arguments = params.get("arguments") if isinstance(params, dict) else None
        if arguments is None:
            return None
        text = json.dumps(self._redacted(arguments), ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")

    def _redacted(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "[redacted]" if self._hides(key) else self._redacted(each) for key, each in value.items()}
        return [self._redacted(each) for each in value] if isinstance(value, list) else value

    def _hides(self, key: str) -> bool:
        return any(fnmatchcase(key.casefold(), pattern) for pattern in self._redact)


def refusal_entry(
    local: PeerId,
    remote: PeerId,
    *,
    session: bytes,
    salt: bytes,
    now_ms: int,
    server: str = "",
    reason: str,
    count: int = 1,
) -> AuditEntry:
    """The entry of `count` refused openings; `session` and `salt` are random, 16 and 32 bytes."""
    facts: dict[Tag, int | str | bytes] = {Tag.SERVER: server, Tag.REASON: reason, Tag.COUNT: count}
    return _event_entry(
        MetaType.REFUSED,
        facts,
        local=local.raw,
        remote=remote.raw,
        message_id=msg_id(session, 0, 1),
        session_commit=_session_commit(salt, session),
        salt=salt,
        now_ms=now_ms,
        line=None,
    )


def _event_entry(
    meta: MetaType,
    facts: Mapping[Tag, int | str | bytes],
    *,
    local: bytes,
    remote: bytes,
    message_id: bytes,
    session_commit: bytes,
    salt: bytes,
    now_ms: int,
    line: bytes | None,
) -> AuditEntry:
    detail = encode_detail(facts)
    return AuditEntry(
        kind=EntryKind.MCP_CALL,
        msg_id=message_id,
        direction=Direction.OUT,
        counterparty=remote,
        time_ms=now_ms,
        sender=local,
        recipient=remote,
        type=meta,
        size=0 if line is None else len(line),
        sent_ms=now_ms,
        detail=detail,
        sealed_hash=sealed_hash(salt, detail if line is None else line),
        session_commit=session_commit,
    )
