"""DNS messages (RFC 1035, RFC 6762) as far as discovery needs them, by dnspython."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.TXT import TXT

from talos.errors import RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address, IPv6Address

__all__ = ["Answer", "Message", "Pointer", "Question", "Text", "decode", "encode_answer", "encode_query"]

MAX_QUESTIONS = 16
MAX_RECORDS = 256
"""In a message. They are read at some ten microseconds each, and nobody needs more."""
_CLASS_BITS = 0x7FFF
"""The highest bit of a class is a flag in mDNS: cache-flush in records, a wish for unicast in questions."""


@dataclass(slots=True)
class Question:
    """A name in lower case without the final dot, and a type's name (`PTR`, `ANY`, …)."""

    name: str
    kind: str


@dataclass(slots=True)
class Pointer:
    """A PTR record."""

    name: str
    target: str
    ttl: int


@dataclass(slots=True)
class Text:
    """A TXT record."""

    name: str
    strings: tuple[bytes, ...]
    ttl: int


@dataclass(slots=True)
class Message:
    """What was asked or told; records of other types are left out."""

    number: int
    is_answer: bool
    questions: list[Question]
    pointers: list[Pointer]
    texts: list[Text]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """All that a peer tells of itself, of which each question gets its part."""

    service: str
    meta_service: str
    instance: str
    """`<name>.<service>`."""
    host: str
    """`<name>.local`."""
    port: int
    strings: tuple[bytes, ...]
    ips: tuple[IPv4Address | IPv6Address, ...]


def decode(data: bytes) -> Message:
    """RemoteProtocolError for what is no DNS message, or one of too many questions or records."""
    questions, *records = struct.unpack_from(">4H", data.ljust(12, b"\0"), 4)
    if questions > MAX_QUESTIONS or sum(records) > MAX_RECORDS:
        raise RemoteProtocolError("DNS message with too many questions or records")
    try:
        parsed = dns.message.from_wire(data, one_rr_per_rrset=True, ignore_trailing=True, continue_on_error=True)
        for problem in parsed.errors:
            # mDNS compresses names where plain DNS must not (RFC 6762, section 18.14): such a record is left out.
            if not isinstance(problem.exception, dns.name.DecompressionForbidden):
                raise RemoteProtocolError("not a DNS message") from problem.exception
        if parsed.opcode() != dns.opcode.QUERY:
            raise RemoteProtocolError("DNS message that neither asks nor answers")
        message = Message(
            parsed.id,
            bool(parsed.flags & dns.flags.QR),
            [Question(_text(q.name), dns.rdatatype.to_text(q.rdtype)) for q in parsed.question],
            [],
            [],
        )
        for rrset in (*parsed.answer, *parsed.additional):
            _take(message, rrset)
    except dns.exception.DNSException as error:
        raise RemoteProtocolError(f"not a DNS message: {type(error).__name__}") from error
    return message


def _take(message: Message, rrset: dns.rrset.RRset) -> None:
    if rrset.rdclass & _CLASS_BITS != dns.rdataclass.IN:
        return
    for record in rrset:
        if isinstance(record, PTR):
            message.pointers.append(Pointer(_text(rrset.name), _text(record.target), rrset.ttl))
        elif isinstance(record, TXT):
            message.texts.append(Text(_text(rrset.name), tuple(record.strings), rrset.ttl))


def _text(name: dns.name.Name) -> str:
    return name.to_text(omit_final_dot=True).lower()


def encode_query(service: str) -> bytes:
    """Asks everybody for the instances of `service`."""
    query = dns.message.Message(id=0)
    query.flags = dns.flags.Flag(0)
    query.question.append(dns.rrset.RRset(_name(service), dns.rdataclass.IN, dns.rdatatype.PTR))
    return query.to_wire()


def encode_answer(
    told: Answer, questions: Sequence[Question], ttl: int, *, max_size: int, number: int = 0, echo: bool = False
) -> bytes | None:
    """The answer to those of `questions` that are about us; None when none is.

    `number` and `echo` (the questions stand in it again) are for programs that know only plain DNS. Strings that do
    not fit `max_size` are left out, the last ones first.
    """
    strings = told.strings
    while True:
        message = _message(told, strings, questions, ttl)
        if message is None:
            return None
        message.id = number
        if echo:
            for question in questions:
                kind = dns.rdatatype.from_text(question.kind)
                message.question.append(dns.rrset.RRset(_name(question.name), dns.rdataclass.IN, kind))
        try:
            return message.to_wire(max_size=max_size)
        except dns.exception.TooBig:
            strings = strings[:-1]


def _message(
    told: Answer, strings: tuple[bytes, ...], questions: Iterable[Question], ttl: int
) -> dns.message.Message | None:
    pointer = _pointer(told.service, told.instance, ttl)
    meta = _pointer(told.meta_service, told.service, ttl)
    text = dns.rrset.from_rdata(_name(told.instance), ttl, TXT(dns.rdataclass.IN, dns.rdatatype.TXT, strings or (b"",)))
    server = dns.rrset.from_text(_name(told.instance), ttl, "IN", "SRV", f"0 0 {told.port} {told.host}.")
    hosts = [
        dns.rrset.from_text(_name(told.host), ttl, "IN", "A" if ip.version == 4 else "AAAA", str(ip)) for ip in told.ips
    ]
    message = dns.message.Message()
    message.flags = dns.flags.QR | dns.flags.AA
    available = [pointer, meta, text, server, *hosts]
    for question in questions:
        wanted = [r for r in available if _is_asked(r, question) and r not in message.answer]
        message.answer += wanted
        if pointer in wanted:
            message.additional += [record for record in (text, server, *hosts) if record not in message.answer]
    return message if message.answer else None


def _is_asked(record: dns.rrset.RRset, question: Question) -> bool:
    return question.kind in (dns.rdatatype.to_text(record.rdtype), "ANY") and question.name == _text(record.name)


def _pointer(name: str, target: str, ttl: int) -> dns.rrset.RRset:
    return dns.rrset.from_text(_name(name), ttl, "IN", "PTR", f"{target}.")


def _name(text: str) -> dns.name.Name:
    return dns.name.from_text(text)
