"""Single layers of Talos, altered: what an attacker puts in place of the honest ones."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from OpenSSL import SSL

from talos.abc import Role
from talos.addr import parse
from talos.host.config import NodeConfig, Stack
from talos.identity import der
from talos.identity.certificate import EXTENSION_OID, SIGNATURE_PREFIX
from talos.security.channel import open_channel
from talos.security.noise import Noise, machine, wire
from talos.security.noise.config import NoiseConfig
from talos.security.noise.record import RecordReader, RecordWriter
from talos.security.noise.xx import KeyPair
from talos.security.tls import Tls

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec
    from multiaddr import Multiaddr

    from talos.abc import ProtocolId, SecureChannel
    from talos.host.config import SecurityFactory
    from talos.identity.keys import PrivateKey
    from talos.identity.peer_id import PeerId
    from talos.security.layer import Authenticated, Bytes

ROOMY = NoiseConfig(max_handshake_message=65_535)
LOOPBACK = parse("/ip4/127.0.0.1/tcp/0")


def stacked(security: SecurityFactory, *, listen: bool = False) -> NodeConfig:
    """A node over TCP whose only security is `security`."""
    return NodeConfig(stack=Stack(security=(security,)), listen=(LOOPBACK,) if listen else ())


# ------------------------------------------------------------------------------------------ noise


class AlteredNoise(Noise):
    """Noise whose payload, given the static public key, and key shares are the attacker's."""

    def __init__(
        self,
        key: PrivateKey,
        *,
        payload: Callable[[PrivateKey, bytes], bytes] | None = None,
        ephemeral: bytes | None = None,
        static: bytes | None = None,
    ) -> None:
        super().__init__(key, ROOMY)
        self._key = key
        self._altered = payload
        self._own_ephemeral = ephemeral
        if static is not None:
            self._static = KeyPair(self._static.private, static)

    async def secure(
        self, stream: trio.abc.Stream, role: Role, expected: PeerId | None, *, muxers: Sequence[ProtocolId] = ()
    ) -> SecureChannel:
        ephemeral = KeyPair.of(X25519PrivateKey.generate())
        if self._own_ephemeral is not None:
            ephemeral = replace(ephemeral, public=self._own_ephemeral)
        return await open_channel(
            stream,
            self._machine(
                dialer=role is Role.DIALER,
                static=self._static,
                ephemeral=ephemeral,
                payload=self._payload_of(muxers),
                config=ROOMY,
                muxers=muxers,
                expected=expected,
            ),
        )

    def _payload_of(self, muxers: Sequence[ProtocolId]) -> bytes:
        if self._altered is not None:
            return self._altered(self._key, self._static.public)
        return self._payload_for(tuple(muxers))

    def _machine(self, **arguments: Any) -> machine.NoiseMachine:
        return machine.NoiseMachine(**arguments)


class LateNoise(AlteredNoise):
    """Noise whose nonces begin at `first` and not at 0; both sides have to."""

    protocol_id: ProtocolId = "/noise/late"
    first = (1 << 64) - 1 - 20

    def _machine(self, **arguments: Any) -> machine.NoiseMachine:
        return _LateMachine(**arguments)


class _LateMachine(machine.NoiseMachine):
    def receive_data(self, data: Bytes) -> list[Authenticated]:
        halves: dict[str, Any] = {
            "RecordReader": partial(RecordReader, nonce=LateNoise.first),
            "RecordWriter": partial(RecordWriter, nonce=LateNoise.first),
        }
        with mock.patch.multiple(machine, **halves):
            return super().receive_data(data)


def proof(key: PrivateKey, static: bytes) -> tuple[bytes, bytes]:
    """Identity key and signature, as they should be."""
    return key.public_key.to_bytes(), key.sign(wire.SIGNATURE_PREFIX + static)


# ------------------------------------------------------------------------------------------ TLS


@dataclass(frozen=True)
class Shown:
    """What a TLS attacker shows: certificates, the first of which is under `key`."""

    certificates: Sequence[x509.Certificate]
    key: ec.EllipticCurvePrivateKey | None


class AlteredTls(Tls):
    """TLS with the certificates of `shown`."""

    def __init__(self, key: PrivateKey, shown: Callable[[PrivateKey], Shown]) -> None:
        super().__init__(key)
        self._context = self._context_of(shown(key))

    @staticmethod
    def _context_of(shown: Shown) -> SSL.Context:
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_verify(SSL.VERIFY_NONE, lambda *_: True)
        context.set_alpn_select_callback(lambda _connection, _offered: b"libp2p")
        for number, certificate in enumerate(shown.certificates):
            if number:
                context.add_extra_chain_cert(certificate)
            else:
                context.use_certificate(certificate)
        if shown.key is not None:
            context.use_privatekey(shown.key)
        return context


def certificate_of(
    key: PrivateKey,
    certificate_key: ec.EllipticCurvePrivateKey,
    *,
    extension: bytes | None = None,
    days: tuple[float, float] = (-1, 1),
) -> x509.Certificate:
    """A certificate, honest but for what is given; `extension` b"" leaves it out."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "libp2p")])
    spki = certificate_key.public_key().public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(certificate_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    if extension is None:
        extension = signed_key(key.public_key.to_bytes(), key.sign(SIGNATURE_PREFIX + spki))
    if extension:
        oid = x509.ObjectIdentifier(EXTENSION_OID)
        builder = builder.add_extension(x509.UnrecognizedExtension(oid, extension), critical=False)
    return builder.sign(certificate_key, hashes.SHA256())


def signed_key(key: bytes, signature: bytes) -> bytes:
    """The libp2p extension's value."""
    return der.encode(der.SEQUENCE, der.encode(der.OCTET_STRING, key), der.encode(der.OCTET_STRING, signature))


def extension_in(certificate: bytes) -> bytes:
    """The libp2p extension's value of a certificate that somebody showed."""
    found = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_oid(
        x509.ObjectIdentifier(EXTENSION_OID)
    )
    assert isinstance(found.value, x509.UnrecognizedExtension)
    return found.value.value


# ------------------------------------------------------------------------------------------ the path between


@asynccontextmanager
async def listening(serve: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[Multiaddr]:
    """Raw TCP: `serve` has each connection; the block is given the address."""

    async def contained(stream: trio.SocketStream) -> None:
        try:
            await serve(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError, EOFError):
            pass

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, contained, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        yield parse(f"/ip4/127.0.0.1/tcp/{port}")
        nursery.cancel_scope.cancel()


NOISE_HEADER_BYTES, TLS_HEADER_BYTES = 2, 5
"""Either ends in a length of two bytes."""


class Splitter:
    """Cuts one direction into the messages of multistream (header and agreement), then of noise, or records of TLS."""

    def __init__(self, *, tls: bool) -> None:
        self._header = TLS_HEADER_BYTES if tls else NOISE_HEADER_BYTES
        self._buffer = bytearray()
        self._lines = 2

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        messages = []
        while (length := self._next_length()) is not None and len(self._buffer) >= length:
            messages.append(bytes(self._buffer[:length]))
            del self._buffer[:length]
            self._lines -= 1
        return messages

    def _next_length(self) -> int | None:
        buffer = self._buffer
        if self._lines > 0:
            return 1 + buffer[0] if buffer else None
        header = self._header
        return header + int.from_bytes(buffer[header - 2 : header], "big") if len(buffer) >= header else None


FROM_DIALER, FROM_LISTENER = "dialer", "listener"
PREAMBLE = 2
"""Messages of multistream before those of noise, either way."""


@asynccontextmanager
async def between(
    socket_address: tuple[str, int], alter: Callable[[str, int, bytes], Sequence[bytes] | None], *, tls: bool = False
) -> AsyncIterator[Multiaddr]:
    """Sits on the path: `alter(from, number, message)` says what to send instead; None cuts the connection."""

    async def carry(side: str, source: trio.SocketStream, target: trio.SocketStream) -> None:
        splitter, number = Splitter(tls=tls), 0
        async for chunk in source:
            for message in splitter.feed(bytes(chunk)):
                instead = alter(side, number, message)
                number += 1
                if instead is None:
                    await trio.aclose_forcefully(target)
                    await trio.aclose_forcefully(source)
                    return
                for piece in instead:
                    await target.send_all(piece)
        await target.aclose()

    async def contained(side: str, source: trio.SocketStream, target: trio.SocketStream) -> None:
        try:
            await carry(side, source, target)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(source)
            await trio.aclose_forcefully(target)

    async def serve(dialer: trio.SocketStream) -> None:
        async with await trio.open_tcp_stream(*socket_address) as listener, trio.open_nursery() as nursery:
            nursery.start_soon(contained, FROM_DIALER, dialer, listener)
            nursery.start_soon(contained, FROM_LISTENER, listener, dialer)

    async with listening(serve) as addr:
        yield addr
