"""TR08–TR12, TR17: who cannot prove an identity, or proves another one, gets no connection, whichever side dialled."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec

from talos.addr import with_peer
from talos.errors import TalosError
from talos.host.config import NodeConfig, Stack
from talos.identity import certificate, der
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.security.noise import Noise, wire
from talos.security.plaintext import Plaintext
from talos.security.tls import Tls
from talos.wire.pb.keys_pb2 import KeyType
from talos.wire.pb.keys_pb2 import PublicKey as PublicKeyMessage
from tests.attacks.harness import SOON_SECONDS, Victim, attacked
from tests.attacks.hostile import (
    AlteredNoise,
    AlteredTls,
    Shown,
    certificate_of,
    extension_in,
    listening,
    proof,
    signed_key,
    stacked,
)
from tests.attacks.nodes import attacker_node, echo_once, open_echo, receive_exactly
from tests.attacks.test_handshake import HEADER, line

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.host.config import SecurityFactory

UNRATED = {"ip": {"exempt_loopback": True}}
OTHER = PrivateKey.generate()
CPU_SECONDS = 0.020
VISITS = 5
"""Of one key. What the process does beside refusing it (it tells its status, echoes to a bystander) is in the figures;
work on the key would be in each of them."""

NEUTRAL_POINT = b"\x01" + bytes(31)
EVERY_MESSAGE = NEUTRAL_POINT + bytes(32)
"""A signature that holds for every message under the neutral point, where nobody looks at the key."""
SMALL_ORDER = {
    "neutral point": NEUTRAL_POINT,
    "order 4": bytes(32),
    "order 2": (2**255 - 20).to_bytes(32, "little"),
    "order 8": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    "not canonical": (2**255 - 19 + 3).to_bytes(32, "little"),
    "not canonical, neutral": (2**255 - 18).to_bytes(32, "little"),
}


def ed25519(point: bytes) -> bytes:
    """The protobuf form of a key that need not be one."""
    return PublicKeyMessage(Type=KeyType.Ed25519, Data=point).SerializeToString()


def rsa(bits: int) -> bytes:
    """The same, of an RSA key of that size."""
    modulus = secrets.randbits(bits) | 1 << bits - 1 | 1
    numbers = der.encode(der.SEQUENCE, integer(modulus), integer(65537))
    algorithm = bytes.fromhex("300d06092a864886f70d0101010500")
    spki = der.encode(der.SEQUENCE, algorithm, der.encode(0x03, b"\x00" + numbers))
    return PublicKeyMessage(Type=KeyType.RSA, Data=spki).SerializeToString()


def integer(value: int) -> bytes:
    return der.encode(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def altered_payload(change: Callable[[bytes, bytes], tuple[bytes, bytes]]) -> SecurityFactory:
    """Noise whose (key, signature) of the payload are changed."""
    return partial(AlteredNoise, payload=lambda key, static: wire.encode(*change(*proof(key, static))))


BAD_NOISE: dict[str, tuple[str, SecurityFactory]] = {
    "no payload": ("BadSignature", partial(AlteredNoise, payload=lambda _key, _static: b"")),
    "no signature": ("BadSignature", altered_payload(lambda key, _: (key, b""))),
    "no key": ("BadSignature", altered_payload(lambda _, signature: (b"", signature))),
    "bad signature": ("BadSignature", altered_payload(lambda key, sig: (key, sig[:-1] + bytes([sig[-1] ^ 1])))),
    "short signature": ("BadSignature", altered_payload(lambda key, signature: (key, signature[:10]))),
    "signature over another static key": (
        "BadSignature",
        partial(AlteredNoise, payload=lambda key, _: wire.encode(*proof(key, secrets.token_bytes(32)))),
    ),
    "signature without its prefix": (
        "BadSignature",
        partial(AlteredNoise, payload=lambda key, static: wire.encode(proof(key, static)[0], key.sign(static))),
    ),
    "another peer's key": ("BadSignature", altered_payload(lambda _, sig: (OTHER.public_key.to_bytes(), sig))),
    "no protobuf": ("HandshakeError", partial(AlteredNoise, payload=lambda _key, _static: b"\xff" * 40)),
}


def claiming(key: bytes, signature: bytes) -> SecurityFactory:
    """Noise with such a key and signature in the payload."""
    return altered_payload(lambda _key, _signature: (key, signature))


RSA_BITS = (512, 1024, 8193, 65_536)
REFUSED_KEYS: dict[str, SecurityFactory] = {
    **{f"RSA of {bits} bits": claiming(rsa(bits), bytes(bits // 8)) for bits in RSA_BITS},
    **{f"Ed25519, {name}": claiming(ed25519(point), EVERY_MESSAGE) for name, point in SMALL_ORDER.items()},
    "X25519 ephemeral of zero result": partial(AlteredNoise, ephemeral=bytes(32)),
    "X25519 static of zero result": partial(
        AlteredNoise,
        static=bytes(32),
        payload=lambda key, _: wire.encode(*proof(key, bytes(32))),
    ),
}


def shown(
    *, count: int = 1, extension: bytes | None = None, days: tuple[float, float] = (-1, 1)
) -> Callable[[PrivateKey], Shown]:
    """What a TLS attacker shows."""

    def show(key: PrivateKey) -> Shown:
        certificate_key = ec.generate_private_key(ec.SECP256R1())
        made = certificate_of(key, certificate_key, extension=extension, days=days)
        return Shown([made] * count, certificate_key if count else None)

    return show


BAD_TLS: dict[str, Callable[[PrivateKey], Shown]] = {
    "no certificate": shown(count=0),
    "two certificates": shown(count=2),
    "no extension": shown(extension=b""),
    "expired": shown(days=(-10, -1)),
    "not yet valid": shown(days=(1, 10)),
    "empty extension": shown(extension=b"\x30\x00"),
    **{f"RSA of {bits} bits": shown(extension=signed_key(rsa(bits), bytes(64))) for bits in RSA_BITS},
    **{
        f"Ed25519, {name}": shown(extension=signed_key(ed25519(point), EVERY_MESSAGE))
        for name, point in SMALL_ORDER.items()
    },
}


async def visit(node: Victim, config: NodeConfig) -> PeerId:
    """Dials the victim with an altered layer; nobody there may answer. The attacker's identity."""
    async with attacker_node(config) as host:
        with pytest.raises((TalosError, trio.BrokenResourceError, EOFError)):  # noqa: PT012  # wherever it ends
            with trio.fail_after(SOON_SECONDS):
                async with await open_echo(host, node.addr) as stream:
                    await echo_once(stream, b"let me in")
        return host.peer_id


async def lure(node: Victim, config: NodeConfig) -> tuple[PeerId, str]:
    """Lets the victim dial such a node: who that was, and the name of the error."""
    async with attacker_node(config) as host:
        answer = await node.dial(host.addrs[0], peer=host.peer_id)
        (why, _text) = answer["causes"][str(host.addrs[0]).partition("/p2p/")[0]]
        return host.peer_id, why


def failed_once_more(before: dict[str, Any], status: dict[str, Any]) -> bool:
    """Whether one inbound connection more than before came to nothing."""
    return bool(sum(status["failed"].values()) == sum(before["failed"].values()) + 1)


async def check_nobody_came(node: Victim, attackers: list[PeerId]) -> None:
    """No event, no address-book entry, no connection of any of them."""
    status = await node.status()
    for attacker in attackers:
        assert str(attacker) not in status["peers"]
        assert str(attacker) not in status["known"]


async def test_tr08_noise_payloads_that_prove_nothing() -> None:
    async with attacked(limits=UNRATED) as node:
        attackers = []
        for name, (error, security) in BAD_NOISE.items():
            before = (await node.status())["failed"]
            attackers.append(await visit(node, stacked(security)))
            counted = {"BadSignature": "bad_signature", "HandshakeError": "handshake_error"}[error]
            once_more = {**before, counted: before.get(counted, 0) + 1}
            await node.until(lambda status, once_more=once_more: status["failed"] == once_more)  # type: ignore[misc]

            attacker, why = await lure(node, stacked(security, listen=True))
            attackers.append(attacker)
            assert why == error, name
        await check_nobody_came(node, attackers)


@pytest.mark.parametrize("stack", ["tcp/noise/yamux", "tcp/tls/yamux"])
async def test_tr09_another_identity_than_the_dialled_one(stack: str) -> None:
    security: SecurityFactory = Noise if "noise" in stack else Tls
    async with attacked(stack=stack) as node, attacker_node(stacked(security, listen=True)) as host:
        dialled = PeerId.from_key(OTHER.public_key)
        addr = str(host.addrs[0]).partition("/p2p/")[0]
        answer = await node.dial(addr, peer=dialled)
        assert answer["error"] == "DialError"
        kind, text = answer["causes"][addr]
        assert kind == "PeerIdMismatch"
        assert str(dialled) in text
        assert str(host.peer_id) in text

        again = await node.dial(addr, peer=dialled)
        assert again["seconds"] < 0.1
        assert "backoff" in again["causes"][addr][1]
        await check_nobody_came(node, [dialled, host.peer_id])


async def test_tr10_tr11_tr12_tls_certificates_that_prove_nothing() -> None:
    async with attacked(stack="tcp/tls/yamux", limits=UNRATED) as node:
        stolen = await extension_of(node)
        attackers = []
        cases = {**BAD_TLS, "the victim's extension": shown(extension=stolen)}
        for name, show in cases.items():
            security = partial(AlteredTls, shown=show)
            before = await node.status()
            attackers.append(await visit(node, stacked(security)))
            after = await node.until(partial(failed_once_more, before))
            assert set(after["failed"]) <= {"handshake_error", "bad_signature"}, name
            if name != "no certificate":  # a TLS listener always has one
                attacker, why = await lure(node, stacked(security, listen=True))
                attackers.append(attacker)
                assert why in {"HandshakeError", "BadSignature"}, name
        await check_nobody_came(node, attackers)


async def extension_of(node: Victim) -> bytes:
    """The extension that the victim shows to everybody."""
    seen: list[bytes] = []
    honest = certificate.verify

    def remembering(chain: list[bytes], **arguments: object) -> object:
        seen.extend(chain)
        return honest(chain, **arguments)  # type: ignore[arg-type]

    with mock.patch.object(certificate, "verify", remembering):
        async with attacker_node(stacked(Tls)) as host:
            await host.connect(None, [node.addr])
    return extension_in(seen[0])


async def test_tr11_tr12_keys_that_are_refused_before_any_work() -> None:
    async with attacked(limits=UNRATED) as node:
        attackers = []
        for name, security in REFUSED_KEYS.items():
            costs = []
            for _ in range(VISITS):
                before = await node.status()
                attackers.append(await visit(node, stacked(security)))
                after = await node.until(partial(failed_once_more, before))
                costs.append(after["cpu"] - before["cpu"])
            assert min(costs) < CPU_SECONDS, name

            attacker, why = await lure(node, stacked(security, listen=True))
            attackers.append(attacker)
            assert why in {"HandshakeError", "BadSignature"}, name
        await check_nobody_came(node, attackers)


async def test_tr17_security_is_not_negotiated_away() -> None:
    async with attacked() as node:
        async with node.raw() as stream:
            await stream.send_all(HEADER + line(b"/plaintext/2.0.0"))
            with trio.fail_after(SOON_SECONDS):
                assert await receive_exactly(stream, len(HEADER) + 4) == HEADER + b"\x03na\n"

        plain = NodeConfig(stack=Stack(security=(partial(Plaintext, insecure=True),)), insecure=True)
        attackers = [await visit(node, plain)]

        async def strip(stream: trio.SocketStream) -> None:
            """Says no to whatever is proposed, as if only plaintext were left."""
            await receive_exactly(stream, len(HEADER))
            await stream.send_all(HEADER)
            while True:
                length = (await receive_exactly(stream, 1))[0]
                await receive_exactly(stream, length)
                await stream.send_all(b"\x03na\n")

        async with listening(strip) as addr:
            answer = await node.dial(with_peer(addr, PeerId.from_key(OTHER.public_key)))
            assert answer["causes"][str(addr)][0] == "NegotiationError"

        async def agree(stream: trio.SocketStream) -> None:
            """Answers with plaintext, whatever was proposed."""
            await stream.send_all(HEADER + line(b"/plaintext/2.0.0"))
            await receive_exactly(stream, 1000)

        async with listening(agree) as addr:
            answer = await node.dial(with_peer(addr, PeerId.from_key(OTHER.public_key)))
            assert answer["causes"][str(addr)][0] == "NegotiationError"
        await check_nobody_came(node, attackers)
