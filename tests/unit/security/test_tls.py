"""TLS beyond the suite: versions, ALPN, tickets, the dialer that is not yet confirmed."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from talos.abc import Role
from talos.errors import ConfigError, HandshakeError, LocalProtocolError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.security.channel import HandshakeRefused
from talos.security.tls import Tls, TlsConfig
from talos.security.tls.machine import FALLBACK, TlsMachine, TlsRecords

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trio.testing import MockClock

    from talos.security.layer import Authenticated, RecordLayer

DIALER = Tls(PrivateKey.from_seed(bytes([1]) * 32))
LISTENER = Tls(PrivateKey.from_seed(bytes([2]) * 32))


def machine(tls: Tls, *, dialer: bool, muxers: Sequence[str] = (), config: TlsConfig | None = None) -> TlsMachine:
    from datetime import UTC, datetime

    return TlsMachine(tls._context, dialer=dialer, now=datetime.now(UTC), config=config or TlsConfig(), muxers=muxers)


def shake(
    dialer: TlsMachine | None = None, listener: TlsMachine | None = None
) -> tuple[Authenticated, Authenticated, bytes]:
    """Both events, and what the listener sends once it is done."""
    dialer, listener = dialer or machine(DIALER, dialer=True), listener or machine(LISTENER, dialer=False)
    assert listener.receive_data(dialer.data_to_send()) == []
    [at_dialer] = dialer.receive_data(listener.data_to_send())
    [at_listener] = listener.receive_data(dialer.data_to_send())
    return at_dialer, at_listener, listener.data_to_send()


def raw(context: SSL.Context, *, dialer: bool) -> SSL.Connection:
    connection = SSL.Connection(context)
    (connection.set_connect_state if dialer else connection.set_accept_state)()
    return connection


def start(connection: SSL.Connection) -> bytes:
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65_536)


def test_a_dialer_is_confirmed_by_the_first_record() -> None:
    at_dialer, at_listener, tickets = shake()
    assert at_listener.layer.confirmed
    assert not at_dialer.layer.confirmed
    assert at_dialer.layer.receive_data(tickets) == b""
    assert at_dialer.layer.receive_data(at_listener.layer.seal(b"hello")) == b"hello"
    assert at_dialer.layer.confirmed


def test_tickets_resume_nothing() -> None:
    """OpenSSL sends tickets all the same; whoever shows one has to show its certificate again."""
    at_dialer, _, tickets = shake()
    records = at_dialer.layer
    assert isinstance(records, TlsRecords)
    records.receive_data(tickets)
    session = records._ssl.get_session()
    assert session is not None
    again = machine(DIALER, dialer=True)
    again._ssl = raw(DIALER._context, dialer=True)
    again._ssl.set_session(session)
    start_bytes = start(again._ssl)
    listener = machine(LISTENER, dialer=False)
    assert listener.receive_data(start_bytes) == []
    [event] = again.receive_data(listener.data_to_send())
    assert event.remote_key == at_dialer.remote_key
    [seen] = listener.receive_data(again.data_to_send())
    assert seen.remote_key.to_bytes() == PrivateKey.from_seed(bytes([1]) * 32).public_key.to_bytes()


@pytest.mark.parametrize("version", [SSL.TLS1_1_VERSION, SSL.TLS1_2_VERSION])
def test_older_versions_are_refused(version: int) -> None:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_cipher_list(b"ALL:@SECLEVEL=0")
    context.set_max_proto_version(version)
    listener = machine(LISTENER, dialer=False)
    with pytest.raises(HandshakeError, match="TLS handshake failed"):
        listener.receive_data(start(raw(context, dialer=True)))
    assert listener.data_to_send()[:1] == b"\x15", "an alert tells why"


def test_a_dialer_without_alpn_negotiates_the_muxer_later() -> None:
    dialer = machine(DIALER, dialer=True)
    dialer._ssl = raw(DIALER._context, dialer=True)
    hello = start(dialer._ssl)
    listener = machine(LISTENER, dialer=False, muxers=["/yamux/1.0.0"])
    listener.receive_data(hello)
    [at_dialer] = dialer.receive_data(listener.data_to_send())
    [at_listener] = listener.receive_data(dialer.data_to_send())
    assert at_dialer.early_muxer is at_listener.early_muxer is None


def test_alpn_without_overlap_aborts() -> None:
    hello = raw(DIALER._context, dialer=True)
    hello.set_alpn_protos([b"h2", b"http/1.1"])
    listener = machine(LISTENER, dialer=False)
    with pytest.raises(HandshakeError, match="no muxer in common"):
        listener.receive_data(start(hello))


def test_the_dialers_offer() -> None:
    """Muxers in preference, the fallback last, no server name."""
    hello = machine(DIALER, dialer=True, muxers=["/yamux/1.0.0", "/mplex/6.7.0"]).data_to_send()
    offer = b"".join(bytes([len(p)]) + p for p in (b"/yamux/1.0.0", b"/mplex/6.7.0", FALLBACK))
    assert b"\x00\x10" + (len(offer) + 2).to_bytes(2, "big") + len(offer).to_bytes(2, "big") + offer in hello


def test_a_flood_before_authentication_is_bounded() -> None:
    listener = machine(LISTENER, dialer=False, config=TlsConfig(max_handshake_bytes=16_384))
    hello = b"\x16\x03\x01\x40\x00\x01\x00\x3f\xfc" + bytes(16_000)
    listener.receive_data(hello)
    with pytest.raises(HandshakeError, match="too many bytes"):
        listener.receive_data(bytes(1000))
    with pytest.raises(LocalProtocolError):
        listener.receive_data(b"")


def test_the_end_of_the_stream() -> None:
    with pytest.raises(HandshakeError, match="stream ended"):
        machine(LISTENER, dialer=False).end()


def test_a_refused_certificate_gets_no_answer() -> None:
    dialer, listener = machine(DIALER, dialer=True), machine(LISTENER, dialer=False)
    listener._expected = PeerId.from_key(PrivateKey.from_seed(bytes([7]) * 32).public_key)
    listener.receive_data(dialer.data_to_send())
    dialer.receive_data(listener.data_to_send())
    with pytest.raises(HandshakeError, match="expected peer"):
        listener.receive_data(dialer.data_to_send())
    assert listener.data_to_send() == b""


def test_records_behind_the_handshake() -> None:
    dialer, listener = machine(DIALER, dialer=True), machine(LISTENER, dialer=False)
    listener.receive_data(dialer.data_to_send())
    [at_dialer] = dialer.receive_data(listener.data_to_send())
    last = dialer.data_to_send()
    [at_listener] = listener.receive_data(last + at_dialer.layer.seal(b"early"))
    assert at_listener.plaintext == b"early"


def test_a_forged_record_behind_the_handshake() -> None:
    dialer, listener = machine(DIALER, dialer=True), machine(LISTENER, dialer=False)
    listener.receive_data(dialer.data_to_send())
    dialer.receive_data(listener.data_to_send())
    [event] = listener.receive_data(dialer.data_to_send() + b"\x17\x03\x03\x00\x20" + bytes(32))
    assert event.plaintext == b""
    assert event.layer.failure is not None


def test_any_chunking() -> None:
    at_dialer, at_listener, _ = shake()
    data = bytes(range(256)) * 700
    sealed = at_dialer.layer.seal(data)
    for size in (1, 7, 16_384, 70_000, 200_000):
        opened = b"".join(at_listener.layer.receive_data(sealed[n : n + size]) for n in range(0, len(sealed), size))
        assert opened == data
        sealed = at_dialer.layer.seal(data)


def _ended(layer: RecordLayer) -> bool:
    return layer.ended


def test_close_notify() -> None:
    at_dialer, at_listener, _ = shake()
    assert at_listener.layer.cut_by_end()
    farewell = bytes(at_dialer.layer.seal(b"last")) + at_dialer.layer.farewell()
    assert at_listener.layer.receive_data(farewell + b"ignored") == b"last"
    assert _ended(at_listener.layer)
    assert not at_listener.layer.cut_by_end()


def test_a_forged_record() -> None:
    at_dialer, at_listener, _ = shake()
    intact, forged = bytes(at_dialer.layer.seal(b"intact")), bytearray(at_dialer.layer.seal(b"forged"))
    forged[-1] ^= 1
    assert at_listener.layer.receive_data(intact + bytes(forged)) == b"intact"
    assert at_listener.layer.failure is not None
    with pytest.raises(RemoteProtocolError):
        at_listener.layer.receive_data(b"")
    assert at_listener.layer.farewell()[:1] in {b"", b"\x17"}, "at most an alert"
    at_dialer.layer.farewell()
    with pytest.raises(LocalProtocolError, match="cannot send"):
        at_dialer.layer.seal(b"after the farewell")


async def test_a_refused_dialer_learns_it_at_its_first_read(autojump_clock: MockClock) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stranger = PeerId.from_key(PrivateKey.from_seed(bytes([7]) * 32).public_key)

    async def listen() -> None:
        with pytest.raises(HandshakeError):
            await LISTENER.secure(theirs, Role.LISTENER, stranger)
        await theirs.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        channel = await DIALER.secure(ours, Role.DIALER, None)
    for _ in range(2):
        with pytest.raises(HandshakeRefused) as caught:
            await channel.receive_some()
    assert isinstance(caught.value, HandshakeError)
    assert isinstance(caught.value, trio.BrokenResourceError)
    await channel.aclose()


async def test_muxers_that_alpn_cannot_carry() -> None:
    for muxers in (["/x"] * 17, [""], ["x" * 256]):
        stream, _ = trio.testing.memory_stream_pair()
        with pytest.raises(ConfigError, match="ALPN"):
            await DIALER.secure(stream, Role.DIALER, None, muxers=muxers)


def test_config_limits() -> None:
    for limits in ({"max_handshake_bytes": 100}, {"max_muxers": 0}):
        with pytest.raises(ConfigError):
            TlsConfig(**limits)


def test_a_missing_extra_is_named() -> None:
    program = """
import sys
sys.modules["OpenSSL"] = None
from talos.errors import NotSupported
from talos.identity.keys import PrivateKey
from talos.security.tls import Tls
try:
    Tls(PrivateKey.generate())
except NotSupported as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert "talos[tls]" in done.stdout
