"""IPNS records (ipfs/specs, IPNS record): `/ipns/<peer id bytes>`, a pointer that the peer's key signed.

What counts is the CBOR in `data` and its signature, V2; the older fields beside it have to say the same. Of two records
the higher sequence number is better, then the later validity.
"""

from __future__ import annotations

import re
from calendar import timegm
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from talos.errors import RecordRejected, RemoteProtocolError
from talos.identity.keys import PublicKey
from talos.identity.peer_id import PeerId
from talos.wire import fields

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["MAX_BYTES", "IpnsRecord", "parse", "select", "validate"]

PREFIX = b"/ipns/"
MAX_BYTES = 10 * 1024
SIGNATURE_PREFIX = b"ipns-signature:"
MAX_FIELDS = 64
MAX_CACHED = 256

_VALUE, _SIGNATURE_V1, _VALIDITY_TYPE, _VALIDITY, _SEQUENCE, _TTL, _KEY, _SIGNATURE_V2, _DATA = range(1, 10)
_NUMBERS = frozenset((_VALIDITY_TYPE, _SEQUENCE, _TTL))
_END_OF_LIFE = 0
_NANO = 1_000_000_000
_TIME = re.compile(
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?(?:Z|([+-])([01]\d|2[0-3]):([0-5]\d))", re.ASCII
)  # no repetition within another: linear in at most 64 bytes
_MAX_TIME_BYTES = 64

Scalar: TypeAlias = int | bytes | str | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class IpnsRecord:
    """A record of sound form. Its signature is checked against a name."""

    value: bytes
    validity: bytes
    expires_ns: int
    """When it ends, in Unix nanoseconds."""
    sequence: int
    ttl: int
    public_key: bytes | None
    signature: bytes
    data: bytes


def validate(key: bytes, value: bytes, now: float) -> None:
    """RecordRejected, RemoteProtocolError or BadSignature unless `value` is a record of the key's peer, valid now."""
    if not key.startswith(PREFIX):
        raise RecordRejected("no IPNS name")
    record = parse(value)
    _public_key(record, PeerId.from_bytes(key.removeprefix(PREFIX))).verify(
        SIGNATURE_PREFIX + record.data, record.signature
    )
    if record.expires_ns <= int(now * _NANO):
        raise RecordRejected("IPNS record has expired")


def select(_key: bytes, values: Sequence[bytes]) -> int:
    """The place of the best of valid records; the first of equal ones."""
    return max(range(len(values)), key=lambda place: (*_rank(values[place]), -place))


def _rank(value: bytes) -> tuple[int, int]:
    record = parse(value)
    return record.sequence, record.expires_ns


@lru_cache(maxsize=MAX_CACHED)
def parse(value: bytes) -> IpnsRecord:
    """The record in `value`; RemoteProtocolError when it is too long, malformed or contradicts itself."""
    if len(value) > MAX_BYTES:
        raise RemoteProtocolError(f"IPNS record of {len(value)} bytes is over the limit of {MAX_BYTES}")
    found = _fields(value)
    data, signature = found.get(_DATA), found.get(_SIGNATURE_V2)
    if not (isinstance(data, bytes) and isinstance(signature, bytes) and data and signature):
        raise RemoteProtocolError("IPNS record without data or its signature")
    document = _read_map(data)
    pointer, validity = document.get("Value"), document.get("Validity")
    sequence, ttl = document.get("Sequence"), document.get("TTL")
    if not (isinstance(pointer, bytes) and isinstance(validity, bytes) and _is_number(sequence) and _is_number(ttl)):
        raise RemoteProtocolError("IPNS data without one of its fields, or with one of another type")
    validity_type = document.get("ValidityType")
    if not _is_number(validity_type) or validity_type != _END_OF_LIFE:
        raise RemoteProtocolError("IPNS record whose validity is of an unknown type")
    assert isinstance(sequence, int)
    assert isinstance(ttl, int)
    signed: dict[int, object] = {
        _VALUE: pointer,
        _VALIDITY: validity,
        _VALIDITY_TYPE: validity_type,
        _SEQUENCE: sequence,
        _TTL: ttl,
    }
    if _SIGNATURE_V1 in found or _VALUE in found:
        _check_same(found, signed)
    public_key = found.get(_KEY)
    return IpnsRecord(
        value=pointer,
        validity=validity,
        expires_ns=_nanoseconds(validity),
        sequence=sequence,
        ttl=ttl,
        public_key=public_key if isinstance(public_key, bytes) else None,
        signature=signature,
        data=data,
    )


def _fields(value: bytes) -> dict[int, int | bytes]:
    found: dict[int, int | bytes] = {}
    for number, content in fields.read(value):
        if not _VALUE <= number <= _DATA:
            continue
        if number in found or not isinstance(content, int if number in _NUMBERS else bytes):
            raise RemoteProtocolError(f"field {number} of an IPNS record is repeated or of another type")
        assert content is not None
        found[number] = content
    return found


def _check_same(found: dict[int, int | bytes], signed: dict[int, object]) -> None:
    """The older fields say what the signed data say; a number that is left out is zero."""
    for number, content in signed.items():
        if found.get(number, 0 if number in _NUMBERS else b"") != content:
            raise RemoteProtocolError(f"field {number} of an IPNS record is not what was signed")


def _public_key(record: IpnsRecord, name: PeerId) -> PublicKey:
    if not record.public_key:
        inlined = name.public_key()
        if inlined is None:
            raise RecordRejected("IPNS record without the key that its name is the hash of")
        return inlined
    key = PublicKey.from_bytes(record.public_key)
    if PeerId.from_key(key) != name:
        raise RecordRejected("IPNS record with the key of another peer")
    return key


def _nanoseconds(text: bytes) -> int:
    """RFC 3339 in Unix nanoseconds; RemoteProtocolError for what is no time."""
    match = _TIME.fullmatch(text) if len(text) <= _MAX_TIME_BYTES else None
    if match is None:
        raise RemoteProtocolError("IPNS validity is no RFC 3339 time")
    moment, fraction, sign, hours, minutes = match.groups()
    try:
        seconds = timegm(datetime.strptime(moment.decode(), "%Y-%m-%dT%H:%M:%S").timetuple())  # noqa: DTZ007 - UTC below
    except ValueError as error:
        raise RemoteProtocolError("IPNS validity is no RFC 3339 time") from error
    if sign:
        offset = int(hours) * 3600 + int(minutes) * 60
        seconds += offset if sign == b"-" else -offset
    return seconds * _NANO + int((fraction or b"").ljust(9, b"0"))


def _is_number(value: Scalar) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


# ------------------------------------------------------------------------------------ CBOR: one flat map

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _MAP, _SIMPLE = 0, 1, 2, 3, 5, 7
_CONSTANTS: dict[int, Scalar] = {20: False, 21: True, 22: None}


def _read_map(data: bytes) -> dict[str, Scalar]:
    """The map that `data` consists of: text keys, each once; numbers, byte strings, texts, booleans, null."""
    reader = _Cbor(data)
    major, count = reader.head()
    if major != _MAP or count > MAX_FIELDS:
        raise RemoteProtocolError("IPNS data is no map, or one of too many fields")
    document: dict[str, Scalar] = {}
    for _ in range(count):
        key = reader.scalar()
        if not isinstance(key, str) or key in document:
            raise RemoteProtocolError("IPNS data with a key that is repeated or no text")
        document[key] = reader.scalar()
    reader.end()
    return document


class _Cbor:
    """Reads DAG-CBOR: definite lengths, in the shortest form."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def head(self) -> tuple[int, int]:
        """Major type and argument."""
        first = self._take(1)[0]
        major, short = first >> 5, first & 31
        if short < 24:
            return major, short
        if short > 27:
            raise RemoteProtocolError("CBOR of indefinite length")
        size = 1 << (short - 24)
        argument = int.from_bytes(self._take(size), "big")
        if argument < (24 if size == 1 else 1 << (4 * size)) and major != _SIMPLE:
            raise RemoteProtocolError("CBOR number that is not in its shortest form")
        return major, argument

    def scalar(self) -> Scalar:
        major, argument = self.head()
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self._take(argument)
        if major == _TEXT:
            try:
                return self._take(argument).decode()
            except UnicodeDecodeError as error:
                raise RemoteProtocolError("CBOR text that is not UTF-8") from error
        if major == _SIMPLE and argument in _CONSTANTS:
            return _CONSTANTS[argument]
        raise RemoteProtocolError("CBOR of a kind that no IPNS record holds")

    def end(self) -> None:
        if self._at != len(self._data):
            raise RemoteProtocolError("bytes behind the IPNS data")

    def _take(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        if self._at > len(self._data):
            raise RemoteProtocolError("CBOR is cut off")
        return self._data[start : self._at]
