"""The frames of `/talos/message/1.0.0`: an envelope one way, what became of it the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from google.protobuf.message import DecodeError

from talos.errors import RemoteProtocolError
from talos.messaging.code import Code
from talos.wire.pb import messaging_pb2 as pb

__all__ = ["MAX_FRAME_BYTES", "PROTOCOL_ID", "Deliver", "Frame", "Result", "decode", "encode"]

PROTOCOL_ID = "/talos/message/1.0.0"
MAX_FRAME_BYTES = 128 * 1024
HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class Deliver:
    """An envelope for the peer."""

    envelope: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the peer says of the envelope with this hash; results come in any order."""

    sealed_hash: bytes
    code: int
    """A `Code`, or a number of a later version: final then."""
    ack_envelope: bytes = b""
    key_record: bytes = b""
    retry_after_ms: int = 0
    clock_ms: int = 0

    @property
    def ok(self) -> bool:
        return self.code in (Code.OK, Code.STORED)


Frame: TypeAlias = Deliver | Result


def encode(frame: Frame) -> bytes:
    if isinstance(frame, Deliver):
        return pb.MessageFrame(deliver=pb.Deliver(envelope=frame.envelope)).SerializeToString()
    result = pb.Result(
        sealed_hash=frame.sealed_hash,
        code=frame.code,
        ack_envelope=frame.ack_envelope,
        key_record=frame.key_record,
        retry_after_ms=frame.retry_after_ms,
        clock_ms=frame.clock_ms,
    )
    return pb.MessageFrame(result=result).SerializeToString()


def decode(data: bytes) -> Frame:
    """The one frame in `data`; RemoteProtocolError when it is none."""
    try:
        found = pb.MessageFrame.FromString(data)
    except DecodeError as error:
        raise RemoteProtocolError("a message frame that is no protobuf") from error
    match found.WhichOneof("body"):
        case "deliver":
            return Deliver(found.deliver.envelope)
        case "result":
            return _result(found.result)
        case _:
            raise RemoteProtocolError("a message frame that is empty")


def _result(found: pb.Result) -> Result:
    if len(found.sealed_hash) != HASH_BYTES:
        raise RemoteProtocolError(f"a result about a hash of {len(found.sealed_hash)} bytes")
    return Result(
        sealed_hash=found.sealed_hash,
        code=found.code,
        ack_envelope=found.ack_envelope,
        key_record=found.key_record,
        retry_after_ms=found.retry_after_ms,
        clock_ms=found.clock_ms,
    )
