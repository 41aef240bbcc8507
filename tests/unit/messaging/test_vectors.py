"""The known answer of docs/protocols/messaging.md, from its file alone: what another implementer has."""

from __future__ import annotations

import hmac
import json
from hashlib import sha256
from pathlib import Path

from talos.identity.keys import PrivateKey
from talos.messaging import frames
from talos.messaging.canonical import SIGNATURE_DOMAIN, canonical, channel_conversation, conversation, digest
from talos.messaging.channel import EVERYBODY_TOPIC as TOPIC
from talos.messaging.code import AckState, Code
from talos.messaging.content import Ack, Text
from talos.messaging.envelope import (
    open_inner,
    open_outer,
    plain_envelope,
    seal_broadcast,
    seal_message,
    sealed_hash,
    verify,
)
from talos.messaging.payload import BROADCAST, Payload

KNOWN = json.loads((Path(__file__).parents[2] / "vectors" / "messaging" / "known_answer.json").read_text())
GIVEN = KNOWN["given"]
HEX = {name: bytes.fromhex(value) for name, value in KNOWN.items() if isinstance(value, str)}
SECRET = bytes.fromhex(GIVEN["recipient_x25519_secret"])


class Given:
    """Secrets in the order in which an envelope asks for them."""

    def __init__(self) -> None:
        self._keys = [bytes.fromhex(GIVEN[name]) for name in ("outer_ephemeral", "frank", "inner_ephemeral")]
        self._nonces = [bytes.fromhex(GIVEN[name]) for name in ("outer_nonce", "inner_nonce")]

    def key(self) -> bytes:
        return self._keys.pop()

    def nonce(self) -> bytes:
        return self._nonces.pop()


def test_the_envelope_is_made_byte_by_byte() -> None:
    sender = PrivateKey.from_seed(bytes.fromhex(GIVEN["sender_seed"]))
    draft = Payload(
        id=bytes.fromhex(GIVEN["id"]),
        type=GIVEN["type"],
        sender=HEX["sender"],
        recipient=HEX["recipient"],
        timestamp_ms=GIVEN["timestamp_ms"],
        epoch=GIVEN["epoch"],
        seq=GIVEN["seq"],
    )
    text = Text(body=GIVEN["text"]["body"].encode(), media_type=GIVEN["text"]["media_type"]).encode()
    assert text == HEX["text_pb"]
    made = seal_message(draft, text, sender, HEX["recipient_x25519"], keys=Given())
    assert made.envelope == HEX["envelope"]
    assert (made.digest, made.payload.signature, made.payload.commit) == (
        HEX["digest"],
        HEX["signature"],
        HEX["commit"],
    )
    assert sender.public_key.data == HEX["sender"]


def test_a_broadcast_is_made_and_opened_byte_by_byte() -> None:
    known = KNOWN["broadcast"]
    sender = PrivateKey.from_seed(bytes.fromhex(GIVEN["sender_seed"]))
    draft = Payload(
        id=bytes.fromhex(GIVEN["id"]),
        type=GIVEN["type"],
        sender=HEX["sender"],
        recipient=BROADCAST,
        timestamp_ms=GIVEN["timestamp_ms"],
        epoch=GIVEN["epoch"],
        seq=GIVEN["seq"],
    )
    made = seal_broadcast(draft, HEX["text_pb"], sender)
    found = {
        "topic": TOPIC,
        "m": canonical(made.payload).hex(),
        "digest": made.digest.hex(),
        "signature": made.payload.signature.hex(),
        "conversation": channel_conversation("").hex(),
        "envelope": made.envelope.hex(),
        "sealed_hash": sealed_hash(made.envelope).hex(),
    }
    assert found == known
    payload = Payload.decode(open_outer(bytes.fromhex(known["envelope"]), b"", ()).payload)
    assert verify(payload) == (bytes.fromhex(known["m"]), bytes.fromhex(known["digest"]))
    assert open_inner(payload, bytes.fromhex(known["m"]), ()).content == HEX["text_pb"]
    assert plain_envelope(payload.without_content(), payload.content) == made.envelope


def test_the_envelope_is_opened_step_by_step() -> None:
    body = open_outer(HEX["envelope"], HEX["recipient"], (SECRET,))
    assert body.payload == HEX["payload_pb"]
    payload = Payload.decode(body.payload)
    assert (canonical(payload), payload.content) == (HEX["m"], HEX["content"])
    assert verify(payload) == (HEX["m"], HEX["digest"])
    assert digest(HEX["m"], HEX["content"]) == sha256(HEX["m"] + sha256(HEX["content"]).digest()).digest()
    opened = open_inner(payload, HEX["m"], (SECRET,))
    assert opened.content == HEX["text_pb"]
    assert hmac.digest(opened.frank, opened.content, "sha256") == HEX["commit"]
    assert SIGNATURE_DOMAIN == b"talos/msg-sig/v1\n"
    assert sealed_hash(HEX["envelope"]) == HEX["sealed_hash"]
    assert conversation(HEX["recipient"], HEX["sender"]) == HEX["conversation"]


def test_frames_and_acknowledgements_have_one_form() -> None:
    assert frames.decode(HEX["deliver_frame"]) == frames.Deliver(HEX["envelope"])
    result = frames.Result(sealed_hash=HEX["sealed_hash"], code=Code.BAD_TIMESTAMP, clock_ms=GIVEN["timestamp_ms"])
    assert frames.decode(HEX["result_frame"]) == result
    assert frames.encode(result) == HEX["result_frame"]
    (item,) = Ack.decode(HEX["ack_pb"]).items
    assert (item.id, item.digest, item.state) == (bytes.fromhex(GIVEN["id"]), HEX["digest"], AckState.DELIVERED)
    assert Ack((item,)).encode() == HEX["ack_pb"]
