"""Envelopes: the known answer, and everything that is not it."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

import pytest

from talos.errors import EnvelopeRejected, LocalProtocolError
from talos.identity.keys import PrivateKey
from talos.messaging.canonical import canonical, conversation
from talos.messaging.code import Code, MessageType, Suite
from talos.messaging.envelope import (
    MAX_ENVELOPE_BYTES,
    Outgoing,
    open_inner,
    open_outer,
    seal_broadcast,
    seal_message,
    sealed_hash,
    verify,
)
from talos.messaging.payload import ChunkInfo, Payload
from talos.messaging.seal import Sealed, open_sealed, seal

ALICE, BOB = PrivateKey.from_seed(b"\1" * 32), PrivateKey.from_seed(b"\2" * 32)
BOB_SECRET = b"\3" * 32
BOB_X25519 = bytes.fromhex("5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22")
TEXT = b"\x0a\x0atext/plain\x12\x0cI am online."
NOW = 1_767_225_600_000


class Given:
    """Keys and nonces in the order in which an envelope asks for them."""

    def __init__(self) -> None:
        self._keys = iter((b"\4" * 32, b"\6" * 32, b"\5" * 32))
        self._nonces = iter((b"\7" * 12, b"\x08" * 12))

    def key(self) -> bytes:
        return next(self._keys)

    def nonce(self) -> bytes:
        return next(self._nonces)


def draft(**changes: object) -> Payload:
    made = Payload(
        id=bytes.fromhex("00112233445546678899aabbccddeeff"),
        type=MessageType.TEXT,
        sender=ALICE.public_key.data,
        recipient=BOB.public_key.data,
        timestamp_ms=NOW,
        epoch=NOW,
        seq=1,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def letter(**changes: object) -> Outgoing:
    return seal_message(draft(**changes), TEXT, ALICE, BOB_X25519)


def read(envelope: bytes) -> bytes:
    """As a receiver does it: outer layer, form, signature, inner layer."""
    payload = Payload.decode(open_outer(envelope, BOB.public_key.data, (BOB_SECRET,)).payload)
    m, _ = verify(payload)
    return open_inner(payload, m, (BOB_SECRET,)).content


def test_known_answer() -> None:
    made = seal_message(draft(), TEXT, ALICE, BOB_X25519, keys=Given())
    payload, m = made.payload, canonical(made.payload)
    assert (len(m), len(payload.content), len(payload.encode()), len(made.envelope)) == (208, 106, 362, 1086)
    assert sha256(m).hexdigest() == "507148cb9bd2306438d0526fefac1d1795a4fcb643ec0de1fef1d24aee5c2f2d"
    assert payload.commit.hex() == "32ce1b0e88daad6fc020e12bdd4da97648399ac1ef9a8f583f6e4a9baaf76ecb"
    assert made.digest.hex() == "d44bbbc3eee5864939d59fed9ad06663e3980c243002a8802fae4a85e4257d7c"
    assert payload.signature.hex() == (
        "80f200e668f2affb826d655ca00ee52b2ab2b524a56ddebbec72868f5cbde1ca"
        "baaffe9fc2246d782285f6c8762144f6461381c71b45e71dba5437c95906f00b"
    )
    assert sha256(made.envelope).hexdigest() == "4488bfda51a4d2feefb7a2224b382025d4570ab712a66342d90d5477694dfa0a"
    assert sealed_hash(made.envelope).hex() == "c6b14a4e16214afbf70a07c600af241a3c09d2dafeb89892d4e1ade0e2d8a0c0"
    assert read(made.envelope) == TEXT


def test_every_altered_byte_is_noticed() -> None:
    envelope = letter().envelope
    for position in range(len(envelope)):
        altered = bytearray(envelope)
        altered[position] ^= 1
        with pytest.raises(EnvelopeRejected):
            read(bytes(altered))


@pytest.mark.parametrize("size", [0, 1, 300, 60_000, 64 * 1024])
def test_envelopes_show_size_classes_only(size: int) -> None:
    made = seal_message(draft(), bytes(size), ALICE, BOB_X25519)
    padded = len(made.envelope) - 62
    assert padded % 1024 == 0
    assert len(made.envelope) <= MAX_ENVELOPE_BYTES
    assert read(made.envelope) == bytes(size)


def test_what_fits_no_envelope_is_refused_here() -> None:
    with pytest.raises(LocalProtocolError, match="too long"):
        seal_message(draft(), bytes(88 * 1024), ALICE, BOB_X25519)
    with pytest.raises(LocalProtocolError, match="does not fit"):
        seal_message(draft(), bytes(80_000), ALICE, BOB_X25519, key_record=bytes(12_000))


def test_the_message_is_for_its_recipient_alone() -> None:
    envelope = letter().envelope
    for identity, secrets in ((ALICE, (BOB_SECRET,)), (BOB, (b"\x09" * 32,)), (BOB, ())):
        with pytest.raises(EnvelopeRejected) as caught:
            open_outer(envelope, identity.public_key.data, secrets)
        assert caught.value.code == Code.UNKNOWN_KEY


def test_an_older_key_still_opens() -> None:
    made = letter()
    outer = open_outer(made.envelope, BOB.public_key.data, (b"\x09" * 32, BOB_SECRET))
    payload = Payload.decode(outer.payload)
    assert open_inner(payload, canonical(payload), (b"\x09" * 32, BOB_SECRET)).content == TEXT


def test_a_signature_cannot_be_replaced() -> None:
    """Another sender who signs the same ciphertext: the content no longer opens."""
    stolen = letter().payload
    mine = PrivateKey.from_seed(b"\x0a" * 32)
    forged = replace(stolen, sender=mine.public_key.data)
    signed = replace(forged, signature=mine.sign(b"talos/msg-sig/v1\n" + _digest(forged)))
    m, _ = verify(signed)
    with pytest.raises(EnvelopeRejected, match="do not open"):
        open_inner(signed, m, (BOB_SECRET,))


def test_two_readings_of_one_ciphertext_are_refused() -> None:
    payload = letter().payload
    m, _ = verify(payload)
    other = replace(payload, commit=bytes(31) + b"\1")
    assert open_inner(payload, m, (BOB_SECRET,)).content == TEXT
    with pytest.raises(EnvelopeRejected, match="committed"):
        open_inner(other, m, (BOB_SECRET,))
    with pytest.raises(EnvelopeRejected, match="do not open"):
        open_inner(replace(payload, content=b"short"), m, (BOB_SECRET,))


def test_only_the_sender_signs() -> None:
    with pytest.raises(LocalProtocolError, match="signed by its sender"):
        seal_message(draft(), TEXT, BOB, BOB_X25519)
    with pytest.raises(EnvelopeRejected) as caught:
        verify(replace(letter().payload, sender=bytes(32)))
    assert caught.value.code == Code.BAD_SIGNATURE


CHUNK = ChunkInfo(stream_id=bytes(16), index=0, total=2, size=3)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"id": b"short"}, "id of 5"),
        ({"id": bytes(16)}, "random UUID"),
        ({"prev": b""}, "prev of 0"),
        ({"type": 0}, "type 0"),
        ({"type": 128}, "type 128"),
        ({"recipient": b"?"}, "recipient of 1"),
        ({"channel": "x" * 65}, "too long"),
        ({"seq": 0}, "without its number"),
        ({"epoch": 0}, "without its number"),
        ({"type": MessageType.ACK}, "without its number"),
        ({"prev": b"\1" * 32}, "names one before"),
        ({"recipient": b"*"}, "is sealed"),
        ({"chunk_info": CHUNK}, "place without"),
        ({"type": MessageType.STREAM_CHUNK, "seq": 0, "epoch": 0}, "place without"),
        ({"type": 4, "seq": 0, "epoch": 0, "chunk_info": replace(CHUNK, hash=b"")}, "another length"),
        ({"type": 4, "seq": 0, "epoch": 0, "chunk_info": replace(CHUNK, index=2)}, "chunk 2 of 2"),
    ],
)
def test_malformed_messages(changes: dict[str, object], fault: str) -> None:
    payload = replace(letter().payload, **changes)  # type: ignore[arg-type]
    with pytest.raises(EnvelopeRejected, match=fault) as caught:
        Payload.decode(payload.encode())
    assert caught.value.code == Code.BAD_PAYLOAD


def test_unknown_suite_and_version() -> None:
    payload = letter().payload
    with pytest.raises(EnvelopeRejected) as caught:
        Payload.decode(replace(payload, suite=3).encode())
    assert caught.value.code == Code.UNSUPPORTED
    with pytest.raises(EnvelopeRejected) as caught:
        open_outer(b"\2\1" + letter().envelope[2:], BOB.public_key.data, (BOB_SECRET,))
    assert caught.value.code == Code.UNSUPPORTED


@pytest.mark.parametrize(("size", "code"), [(0, 18), (61, 18), (62, 16), (1085, 16), (1087, 16), (90_175, 17)])
def test_sizes_that_are_none(size: int, code: int) -> None:
    data = (b"\1\1" if size >= 62 else b"") + bytes(max(0, size - 2) if size >= 62 else size)
    with pytest.raises(EnvelopeRejected) as caught:
        open_outer(data, BOB.public_key.data, (BOB_SECRET,))
    assert caught.value.code == code


@pytest.mark.parametrize("padded", [b"\0\0\0\1" + b"x" + b"\1" + bytes(1018), b"\xff" * 4 + bytes(1020)])
def test_padding_is_zero(padded: bytes) -> None:
    mark = b"\1\1"
    sealed = seal(
        BOB_X25519,
        b"talos/envelope/v1\n",
        mark + BOB.public_key.data,
        padded,
        ephemeral=b"\5" * 32,
        nonce=bytes(12),
    )
    with pytest.raises(EnvelopeRejected, match="padding"):
        open_outer(mark + sealed.ephemeral + bytes(12) + sealed.ciphertext, BOB.public_key.data, (BOB_SECRET,))


@pytest.mark.parametrize("junk", [b"\xff", b"\x0a\xff"])
def test_what_is_no_protobuf(junk: bytes) -> None:
    with pytest.raises(EnvelopeRejected):
        open_outer(b"\1\0" + junk, b"", ())
    with pytest.raises(EnvelopeRejected):
        Payload.decode(junk)


def test_small_order_keys() -> None:
    with pytest.raises(LocalProtocolError, match="small order"):
        seal_message(draft(), TEXT, ALICE, bytes(32))
    assert open_sealed(BOB_SECRET, b"", b"", Sealed(bytes(32), bytes(16)), nonce=bytes(12)) is None


def test_broadcast_is_open_to_all() -> None:
    made = seal_broadcast(draft(channel="news"), TEXT, ALICE)
    payload = Payload.decode(open_outer(made.envelope, b"", ()).payload)
    m, found = verify(payload)
    assert found == made.digest
    assert payload.suite == Suite.PLAIN
    assert open_inner(payload, m, ()).content == TEXT
    with pytest.raises(LocalProtocolError, match="65536 fit"):
        seal_broadcast(draft(), bytes(65_500), ALICE)
    with pytest.raises(EnvelopeRejected) as caught:
        open_outer(made.envelope + bytes(65_536), b"", ())
    assert caught.value.code == Code.TOO_LARGE


def test_chunks_are_signed_with_their_place() -> None:
    chunk = replace(CHUNK, hash=b"\x0c" * 32, last=True)
    made = seal_message(
        draft(type=MessageType.STREAM_CHUNK, seq=0, epoch=0, chunk_info=chunk), b"abc", ALICE, BOB_X25519
    )
    again = Payload.decode(made.payload.encode())
    assert again == made.payload
    with pytest.raises(EnvelopeRejected, match="did not sign"):
        verify(replace(again, chunk_info=replace(chunk, index=1)))


def test_a_conversation_has_one_name() -> None:
    assert conversation(b"a", b"b") == conversation(b"b", b"a") != conversation(b"a", b"c")


def _digest(payload: Payload) -> bytes:
    return sha256(canonical(payload) + sha256(payload.content).digest()).digest()
