"""The opening and the frames of `/talos/mcp/1.0.0`: bytes ↔ dataclasses (docs/protocols/mcp.md)."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from talos.errors import LocalProtocolError, RemoteProtocolError
from talos.mcp.limits import MAX_LINE_RANGE, MAX_WINDOW_RANGE, McpLimits
from talos.wire import varint
from talos.wire.pb import mcp_pb2 as pb

__all__ = [
    "MAX_DETAIL_BYTES",
    "MAX_OPENING_BYTES",
    "MAX_RECEIPT_BYTES",
    "PROTOCOL_ID",
    "VERSION",
    "Accept",
    "CloseCode",
    "FrameKind",
    "Open",
    "Receipt",
    "Status",
    "frame",
    "line_header",
]

PROTOCOL_ID = "/talos/mcp/1.0.0"
VERSION = 1

MAX_OPENING_BYTES = 4096
"""Of Open and of Accept, without the length before it."""
MAX_RECEIPT_BYTES = 1024
MAX_DETAIL_BYTES = 256
"""Of the texts that go with an Accept or a CLOSE, as UTF-8."""
MAX_LINGER_MS = 3_600_000
SESSION_BYTES = 16
TOKEN_BYTES = 32
NONCE_BYTES = 32

_SERVER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_DEFAULTS = McpLimits()


class Status(enum.IntEnum):
    """What serve says to an Open."""

    UNSET = 0
    OK = 1
    REFUSED = 2
    """No grant for this peer, or no such server: the same answer for both."""
    VERSION = 3
    BUSY = 4
    FAILED = 5
    NO_SESSION = 6
    STALE = 7


class CloseCode(enum.IntEnum):
    """Why a session is over; a peer may send numbers that are not here."""

    DONE = 0
    GOING_AWAY = 1
    SERVER = 2
    """It failed or died; the text has its status or signal."""
    PROTOCOL = 3
    LIMIT = 4
    IDLE = 5
    AUDIT = 6
    RECEIPTS = 7
    WITHDRAWN = 8


class FrameKind(enum.IntEnum):
    """Kinds up to 0x7f that are not here are protocol errors, those above are ignored."""

    LINE = 1
    ACK = 2
    PING = 3
    PONG = 4
    EOF = 5
    RECEIPT = 6
    CLOSE = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """Connect's first message. `decode` takes any shape, for other answers come before a bad one: then `check`."""

    version: int = VERSION
    server: str = ""
    """Empty: the only one granted to this peer."""
    session: bytes = b""
    resume_token: bytes = b""
    attach: int = 0
    received: int = 0
    max_line: int = _DEFAULTS.max_line
    window: int = _DEFAULTS.window
    nonce: bytes = b""
    features: tuple[str, ...] = ()
    agent: str = ""

    def encode(self) -> bytes:
        """Without its length. LocalProtocolError over 4,096 bytes."""
        return _bounded(
            pb.Open(
                version=self.version,
                server=self.server,
                session=self.session,
                resume_token=self.resume_token,
                attach=self.attach,
                received=self.received,
                max_line=self.max_line,
                window=self.window,
                nonce=self.nonce,
                features=self.features,
                agent=self.agent,
            ).SerializeToString(),
            MAX_OPENING_BYTES,
        )

    @classmethod
    def decode(cls, data: bytes) -> Open:
        """RemoteProtocolError when it is no such message."""
        try:
            message = pb.Open.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError("mcp: malformed Open") from error
        return cls(
            version=message.version,
            server=message.server,
            session=message.session,
            resume_token=message.resume_token,
            attach=message.attach,
            received=message.received,
            max_line=message.max_line,
            window=message.window,
            nonce=message.nonce,
            features=tuple(message.features),
            agent=message.agent,
        )

    @property
    def resumes(self) -> bool:
        """Whether an older session is to go on."""
        return bool(self.session)

    def check(self) -> None:
        """RemoteProtocolError when a field has not the shape that the format gives it."""
        if self.server:
            _check_name(self.server)
        _check_sizes(self.max_line, self.window)
        if self.resumes:
            _check_length("session", self.session, SESSION_BYTES)
            _check_length("resume_token", self.resume_token, TOKEN_BYTES)
            _check_length("nonce", self.nonce, 0)
            if not self.attach:
                raise RemoteProtocolError("mcp: a resume without attach")
            return
        _check_length("resume_token", self.resume_token, 0)
        _check_length("nonce", self.nonce, NONCE_BYTES)
        if self.attach or self.received:
            raise RemoteProtocolError("mcp: a new session with the fields of a resume")


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """Serve's answer. `decode` makes REFUSED of a status that it does not know, and checks the shape."""

    status: Status
    session: bytes = b""
    resume_token: bytes = b""
    received: int = 0
    max_line: int = 0
    window: int = 0
    linger_ms: int = 0
    nonce: bytes = b""
    features: tuple[str, ...] = ()
    server: str = ""
    detail: str = ""

    def encode(self) -> bytes:
        """Without its length. LocalProtocolError over 4,096 bytes."""
        return _bounded(
            pb.Accept(
                status=pb.Status.ValueType(self.status),
                session=self.session,
                resume_token=self.resume_token,
                received=self.received,
                max_line=self.max_line,
                window=self.window,
                linger_ms=self.linger_ms,
                nonce=self.nonce,
                features=self.features,
                server=self.server,
                detail=self.detail,
            ).SerializeToString(),
            MAX_OPENING_BYTES,
        )

    @classmethod
    def decode(cls, data: bytes) -> Accept:
        """RemoteProtocolError when it is no such message; `check` comes after."""
        try:
            message = pb.Accept.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError("mcp: malformed Accept") from error
        known = Status.OK <= message.status <= Status.STALE
        return cls(
            status=Status(message.status) if known else Status.REFUSED,
            session=message.session,
            resume_token=message.resume_token,
            received=message.received,
            max_line=message.max_line,
            window=message.window,
            linger_ms=message.linger_ms,
            nonce=message.nonce,
            features=tuple(message.features),
            server=message.server,
            detail=message.detail,
        )

    def check(self) -> None:
        """RemoteProtocolError when a field has not the shape that an answer to a new session has."""
        if len(self.detail.encode()) > MAX_DETAIL_BYTES:
            raise RemoteProtocolError(f"mcp: a detail of over {MAX_DETAIL_BYTES} bytes")
        if self.status is not Status.OK:
            return
        _check_name(self.server)
        _check_sizes(self.max_line, self.window)
        _check_length("session", self.session, SESSION_BYTES)
        _check_length("resume_token", self.resume_token, TOKEN_BYTES)
        _check_length("nonce", self.nonce, NONCE_BYTES)
        if self.received:
            raise RemoteProtocolError("mcp: a new session that has received lines")
        if self.linger_ms > MAX_LINGER_MS:
            raise RemoteProtocolError(f"mcp: a linger of {self.linger_ms} ms")


@dataclass(frozen=True, slots=True)
class Receipt:
    """A signed statement of what crossed; the signed bytes travel as they are."""

    body: bytes
    sig: bytes
    reply: bool = False

    def encode(self) -> bytes:
        """LocalProtocolError over 1,024 bytes."""
        return _bounded(
            pb.Receipt(body=self.body, sig=self.sig, reply=self.reply).SerializeToString(), MAX_RECEIPT_BYTES
        )

    @classmethod
    def decode(cls, data: bytes) -> Receipt:
        """RemoteProtocolError when it is none, or over 1,024 bytes."""
        if len(data) > MAX_RECEIPT_BYTES:
            raise RemoteProtocolError(f"mcp: a receipt of {len(data)} bytes")
        try:
            message = pb.Receipt.FromString(data)
        except DecodeError as error:
            raise RemoteProtocolError("mcp: malformed receipt") from error
        return cls(message.body, message.sig, message.reply)


def frame(kind: FrameKind, body: bytes) -> bytes:
    """A whole frame: length of kind and body, kind, body."""
    return varint.encode(len(body) + 1) + bytes((kind,)) + body


def line_header(seq: int, ack: int, size: int) -> bytes:
    """What stands before the `size` bytes of a line."""
    numbers = varint.encode(seq) + varint.encode(ack)
    return varint.encode(1 + len(numbers) + size) + b"\x01" + numbers


def _bounded(data: bytes, limit: int) -> bytes:
    if len(data) > limit:
        raise LocalProtocolError(f"mcp: message of {len(data)} bytes is over the limit of {limit}")
    return data


def _check_name(server: str) -> None:
    if not _SERVER_NAME.fullmatch(server):
        raise RemoteProtocolError("mcp: malformed server name")


def _check_sizes(max_line: int, window: int) -> None:
    for name, value, (least, most) in (("max_line", max_line, MAX_LINE_RANGE), ("window", window, MAX_WINDOW_RANGE)):
        if not least <= value <= most:
            raise RemoteProtocolError(f"mcp: {name} {value} is not within {least} and {most}")


def _check_length(name: str, value: bytes, length: int) -> None:
    if len(value) != length:
        raise RemoteProtocolError(f"mcp: {name} has {len(value)} bytes instead of {length}")
