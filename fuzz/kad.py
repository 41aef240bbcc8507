"""Kademlia messages as they come, cut to the size of an answer; and their records, under keys of all namespaces."""

from __future__ import annotations

from talos.dht.records import Namespaces, default_namespaces
from talos.dht.wire import MAX_ANSWER_BYTES, MAX_PEER_ADDRS, MAX_PEERS, MAX_PROVIDERS, decode, encode, encode_answer
from talos.errors import LocalProtocolError, RecordRejected, RemoteProtocolError

NAMESPACES = Namespaces(
    default_namespaces("/ipfs/kad/1.0.0"), max_bytes=10_240, emit=lambda _event: None, clock=lambda: 1.8e9
)


def target(data: bytes) -> None:
    """A message that comes back as it was, or RemoteProtocolError; its record is judged or refused."""
    try:
        message = decode(data)
    except RemoteProtocolError:
        return
    if decode(encode(message)) != message:
        raise AssertionError("a message changed on its way")
    if len(message.closer) > MAX_PEERS or len(message.providers) > MAX_PROVIDERS:
        raise AssertionError("more peers were taken than are")
    if any(len(info.addrs) > MAX_PEER_ADDRS for info in (*message.closer, *message.providers)):
        raise AssertionError("more addresses were taken than are")
    for limit in (200, MAX_ANSWER_BYTES):
        try:
            if len(encode_answer(message, limit)) > limit:
                raise AssertionError("an answer is over its limit")
        except LocalProtocolError:
            continue
    if message.record is not None:
        judge(message.record.key, message.record.value)


def judge(key: bytes, value: bytes) -> None:
    """Valid, and then the best of itself; or RecordRejected."""
    try:
        NAMESPACES.validate(key, value)
    except RecordRejected:
        return
    if NAMESPACES.best(key, [value, value]) != value:
        raise AssertionError("a value is not the best of itself")
