"""The identity matrix: whoever cannot prove the expected identity gets no channel, over noise and tls, in and out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from cryptography import x509
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL

from talos.abc import Role
from talos.errors import BadSignature, HandshakeError, PeerIdMismatch
from talos.identity import certificate, der
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.security.noise import Noise, wire
from talos.security.noise.xx import HandshakeState, KeyPair
from talos.security.tls import Tls
from talos.wire import varint

if TYPE_CHECKING:
    from collections.abc import Callable

VICTIM = PrivateKey.from_seed(bytes([1]) * 32)
ATTACKER = PrivateKey.from_seed(bytes([2]) * 32)
FRIEND = PrivateKey.from_seed(bytes([3]) * 32)
FRIEND_ID = PeerId.from_key(FRIEND.public_key)
ATTACKER_ID = PeerId.from_key(ATTACKER.public_key)

Proof = tuple[bytes, bytes]


@dataclass(frozen=True)
class Fault:
    name: str
    prove: Callable[[bytes, bytes], Proof | None]
    """Key and signature, given what is to be signed here and what would be signed for another key."""
    error: type[HandshakeError] = BadSignature
    expected: PeerId | None = None
    copies: int = 1


def rsa_key(bits: int) -> bytes:
    modulus = (1 << bits - 1) | 1
    numbers = rsa.RSAPublicNumbers(65_537, modulus)
    data = numbers.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    return b"\x08\x00\x12" + varint.encode(len(data)) + data


def ed25519(point: bytes) -> bytes:
    return b"\x08\x01\x12\x20" + point


KEY = ATTACKER.public_key.to_bytes()
NEUTRAL = b"\x01" + bytes(31)
FAULTS = [
    Fault("nothing", lambda here, there: None, HandshakeError),
    Fault("empty key", lambda here, there: (b"", ATTACKER.sign(here)), HandshakeError),
    Fault("empty signature", lambda here, there: (KEY, b"")),
    Fault("bad signature", lambda here, there: (KEY, bytes(64))),
    Fault("signature over another key", lambda here, there: (KEY, ATTACKER.sign(there))),
    Fault("signature without the prefix", lambda here, there: (KEY, ATTACKER.sign(here[24:]))),
    Fault("another peer's key", lambda here, there: (FRIEND.public_key.to_bytes(), ATTACKER.sign(here))),
    Fault("victim's proof re-used", lambda here, there: (VICTIM.public_key.to_bytes(), VICTIM.sign(there))),
    Fault("expected id differs", lambda here, there: (KEY, ATTACKER.sign(here)), PeerIdMismatch, FRIEND_ID),
    Fault("key of 31 bytes", lambda here, there: (KEY[:-1], ATTACKER.sign(here)), HandshakeError),
    Fault("key with a tail", lambda here, there: (KEY + b"\x00", ATTACKER.sign(here)), HandshakeError),
    Fault("rsa 1024", lambda here, there: (rsa_key(1024), bytes(128)), HandshakeError),
    Fault("rsa 8193", lambda here, there: (rsa_key(8193), bytes(1025)), HandshakeError),
    Fault("small-order key", lambda here, there: (ed25519(NEUTRAL), NEUTRAL + bytes(32))),
    Fault("two certificates", lambda here, there: (KEY, ATTACKER.sign(here)), HandshakeError, copies=2),
]
HONEST = Fault("honest", lambda here, there: (KEY, ATTACKER.sign(here)), expected=ATTACKER_ID)


async def attack_noise(stream: trio.abc.Stream, role: Role, fault: Fault) -> None:
    """Speaks perfect Noise with whatever payload the fault makes."""

    async def read() -> bytes:
        data = bytearray()
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            data += await stream.receive_some() or b"\x00\x00\x00"
        return bytes(data[2:])

    def frame(message: bytes) -> bytes:
        return len(message).to_bytes(2, "big") + message

    static = KeyPair.from_bytes(bytes([5]) * 32)
    state = HandshakeState(initiator=role is Role.DIALER, static=static, ephemeral=KeyPair.from_bytes(bytes([6]) * 32))
    proof = fault.prove(wire.SIGNATURE_PREFIX + static.public, wire.SIGNATURE_PREFIX + bytes(32))
    payload = b"" if proof is None else wire.encode(*proof)
    if role is Role.DIALER:
        await stream.send_all(frame(state.write_message(b"")))
        state.read_message(await read())
    else:
        state.read_message(await read())
    await stream.send_all(frame(state.write_message(payload)))


def forged_context(fault: Fault) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_alpn_select_callback(lambda _connection, offered: offered[-1])
    key, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    spki, foreign = (
        certificate.SIGNATURE_PREFIX
        + k.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
        for k in (key, other)
    )
    if (proof := fault.prove(spki, foreign)) is None:
        return context
    value = der.encode(der.SEQUENCE, b"".join(der.encode(der.OCTET_STRING, part) for part in proof))
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "forged")])
    now = datetime.now(UTC)
    shown = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(1), now + timedelta(1))
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(certificate.EXTENSION_OID), value), critical=False
        )
        .sign(key, SHA256())
    )
    context.use_certificate(shown)
    context.use_privatekey(key)
    for _ in range(fault.copies - 1):
        context.add_extra_chain_cert(shown)
    return context


async def attack_tls(stream: trio.abc.Stream, role: Role, fault: Fault) -> None:
    """Runs OpenSSL with the forged certificate, accepting everybody."""
    connection = SSL.Connection(forged_context(fault))
    if role is Role.DIALER:
        connection.set_connect_state()
        connection.set_alpn_protos([b"libp2p"])
    else:
        connection.set_accept_state()
    finished = False
    while not finished:
        try:
            connection.do_handshake()
            finished = True
        except SSL.WantReadError:
            pass
        except SSL.Error:
            break
        try:
            await stream.send_all(connection.bio_read(65_536))
        except SSL.WantReadError:
            pass
        if not finished:
            connection.bio_write(await stream.receive_some() or b"\x00" * 5)


SECURITIES = {"noise": (Noise, attack_noise), "tls": (Tls, attack_tls)}


async def meet(security: str, victim_role: Role, fault: Fault) -> PeerId | HandshakeError:
    """Whom the victim takes the attacker for, or why it does not."""
    make, attack = SECURITIES[security]
    ours, theirs = trio.testing.memory_stream_pair()
    outcome: list[PeerId | HandshakeError] = []

    async def attacker() -> None:
        try:
            await attack(theirs, victim_role.other, fault)
        except (trio.BrokenResourceError, HandshakeError):
            pass  # the victim hung up
        await theirs.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(attacker)
        try:
            channel = await make(VICTIM).secure(ours, victim_role, fault.expected)
            outcome.append(channel.remote_peer)
        except HandshakeError as error:
            outcome.append(error)
        await ours.aclose()
    return outcome[0]


CELLS = [
    pytest.param(security, role, fault, id=f"{security}-we-{role.value}-{fault.name}")
    for security in SECURITIES
    for role in Role
    for fault in FAULTS
    if security == "tls" or fault.copies == 1  # noise has no certificates
]


@pytest.mark.parametrize(("security", "role", "fault"), CELLS)
async def test_identity_matrix(security: str, role: Role, fault: Fault) -> None:
    error = await meet(security, role, fault)
    assert isinstance(error, fault.error), repr(error)
    if isinstance(error, PeerIdMismatch):
        assert (error.expected, error.actual) == (FRIEND_ID, ATTACKER_ID)


@pytest.mark.parametrize("role", Role, ids=lambda role: f"we-{role.value}")
@pytest.mark.parametrize("security", SECURITIES)
async def test_the_attackers_tools_work_when_honest(security: str, role: Role) -> None:
    """Else the matrix would prove nothing."""
    assert await meet(security, role, HONEST) == ATTACKER_ID
