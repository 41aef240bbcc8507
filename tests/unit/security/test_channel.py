"""The driver that all security protocols share, where the suite does not reach."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from talos.abc import Role
from talos.errors import ConfigError, HandshakeError, LocalProtocolError, RemoteProtocolError
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.security.channel import SEND_BATCH_BYTES, RecordChannel
from talos.security.layer import Authenticated
from talos.security.noise import Noise
from talos.security.noise.record import RESERVED_NONCE, NoiseRecords, RecordReader, RecordWriter
from talos.security.plaintext import Plaintext, PlaintextMachine, PlaintextRecords
from talos.security.tls import Tls
from talos.wire.length_prefix import frame
from talos.wire.pb import plaintext_pb2

KEY = PrivateKey.from_seed(bytes([1]) * 32)
OTHER = PrivateKey.from_seed(bytes([2]) * 32)


def channel_over(stream: trio.abc.Stream, *, nonce: int = 0, plaintext: bytes = b"") -> RecordChannel:
    records = NoiseRecords(RecordWriter(bytes(32), nonce), RecordReader(bytes(32), nonce))
    peer = Authenticated(KEY.public_key, PeerId.from_key(KEY.public_key), None, records, plaintext)
    return RecordChannel(stream, peer)


def two_channels(nonce: int = 0) -> tuple[RecordChannel, RecordChannel]:
    left, right = trio.testing.memory_stream_pair()
    return channel_over(left, nonce=nonce), channel_over(right, nonce=nonce)


async def test_the_channel_ends_before_the_last_nonce() -> None:
    sender, receiver = two_channels(RESERVED_NONCE - 1)
    await sender.send_all(b"last")
    assert await receiver.receive_some() == b"last"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await sender.send_all(b"x")


async def test_what_came_with_the_handshake_is_read_first() -> None:
    left, right = trio.testing.memory_stream_pair()
    receiver = channel_over(left, plaintext=b"early")
    await channel_over(right).send_all(b"later")
    assert await receiver.receive_some(2) == b"ea"
    assert await receiver.receive_some() == b"rly"
    assert await receiver.receive_some() == b"later"


async def test_a_forged_record_ends_both_directions() -> None:
    left, right = trio.testing.memory_stream_pair()
    receiver = channel_over(left)
    record = bytearray(RecordWriter(bytes(32)).seal(b"intact") + b"\x00\x10" + bytes(16))
    await right.send_all(record)
    assert await receiver.receive_some() == b"intact"
    for _ in range(2):
        with pytest.raises(RemoteProtocolError, match="does not decrypt"):
            await receiver.receive_some()
    with pytest.raises(trio.BrokenResourceError, match="does not decrypt"):
        await receiver.send_all(b"x")


async def test_an_end_within_a_record_is_broken_for_good() -> None:
    left, right = trio.testing.memory_stream_pair()
    receiver = channel_over(left)
    await right.send_all(RecordWriter(bytes(32)).seal(b"cut")[:-1])
    await right.aclose()
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError, match="cut off"):
            await receiver.receive_some()


async def test_long_data_goes_out_in_batches() -> None:
    sizes: list[int] = []

    class Recorder(trio.abc.SendStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            sizes.append(len(data))

        async def wait_send_all_might_not_block(self) -> None: ...

        async def aclose(self) -> None: ...

    _, idle = trio.testing.memory_stream_one_way_pair()
    sender = channel_over(trio.StapledStream(Recorder(), idle))
    await sender.send_all(bytes(SEND_BATCH_BYTES * 2 + 1))
    await sender.send_all(bytes(100))
    assert sizes == [SEND_BATCH_BYTES + 4 * 18] * 2 + [19, 118]


async def test_closing_gives_up_on_a_peer_that_reads_nothing(autojump_clock: trio.testing.MockClock) -> None:
    left, right = trio.testing.lockstep_stream_pair()
    channels: dict[Role, trio.abc.Stream] = {}

    async def secure(key: PrivateKey, stream: trio.abc.Stream, role: Role) -> None:
        channels[role] = await Tls(key).secure(stream, role, None)
        if role is Role.DIALER:
            await channels[role].receive_some()  # the listener's tickets, then its farewell

    async with trio.open_nursery() as nursery:
        nursery.start_soon(secure, KEY, left, Role.DIALER)
        await secure(OTHER, right, Role.LISTENER)
        await trio.testing.wait_all_tasks_blocked()
        await channels[Role.LISTENER].aclose()
    started = trio.current_time()
    with trio.fail_after(10):
        await channels[Role.DIALER].aclose()
    assert trio.current_time() - started < 3


@pytest.mark.parametrize("make", [Noise, Tls])
async def test_a_peer_that_goes_during_the_handshake(make: type[Noise | Tls]) -> None:
    for role in Role:
        ours, theirs = trio.testing.memory_stream_pair()
        await theirs.aclose()
        with pytest.raises(HandshakeError):
            await make(KEY).secure(ours, role, None)


async def test_an_alert_that_nobody_reads() -> None:
    """The listener's alert cannot be sent any more; the reason is raised all the same."""

    refused: list[bytes] = []

    class Gone(trio.abc.SendStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            refused.append(bytes(data))
            raise trio.BrokenResourceError

        async def wait_send_all_might_not_block(self) -> None: ...

        async def aclose(self) -> None: ...

    into, outof = trio.testing.memory_stream_one_way_pair()
    await into.send_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
    with pytest.raises(HandshakeError, match="TLS handshake failed"):
        await Tls(KEY).secure(trio.StapledStream(Gone(), outof), Role.LISTENER, None)
    assert refused[0][:1] == b"\x15"


async def test_a_connection_that_breaks_under_a_reader() -> None:
    class Breaking(trio.abc.ReceiveStream):
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            raise trio.BrokenResourceError("reset by the network")

        async def aclose(self) -> None: ...

    sink, _ = trio.testing.memory_stream_one_way_pair()
    for confirmed, error in ((True, "reset by the network"), (False, "did not accept the handshake")):
        channel = channel_over(trio.StapledStream(sink, Breaking()))
        channel._layer = Unconfirmed(confirmed)
        with pytest.raises(trio.BrokenResourceError, match=error) as caught:
            await channel.receive_some()
        assert isinstance(caught.value, HandshakeError) is not confirmed


class Unconfirmed(PlaintextRecords):
    def __init__(self, confirmed: bool) -> None:
        self.confirmed = confirmed


async def test_nothing_else_is_done_while_closed_or_busy() -> None:
    sender, receiver = two_channels()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await receiver.receive_some()
        await sender.send_all(b"done")
    await sender.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await sender.wait_send_all_might_not_block()


# -- plaintext ------------------------------------------------------------------------------------------


def test_plaintext_must_be_meant() -> None:
    with pytest.raises(ConfigError, match="insecure=True"):
        Plaintext(KEY)


def exchange(**changes: bytes) -> bytes:
    message = plaintext_pb2.Exchange(id=PeerId.from_key(KEY.public_key).to_bytes())
    message.pubkey.ParseFromString(KEY.public_key.to_bytes())
    for name, value in changes.items():
        setattr(message, name, value)
    return frame(message.SerializeToString())


def test_plaintext_exchange_is_one_embedded_message() -> None:
    sent = PlaintextMachine(KEY.public_key).data_to_send()
    key = KEY.public_key.to_bytes()
    peer = PeerId.from_key(KEY.public_key).to_bytes()
    assert sent[1:] == b"\x0a" + bytes([len(peer)]) + peer + b"\x12" + bytes([len(key)]) + key
    assert sent == exchange()


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x20",  # 4097 bytes
        frame(b""),
        frame(b"\xff"),
        frame(b"\x12\x00"),
        exchange(id=PeerId.from_key(OTHER.public_key).to_bytes()),
        exchange(id=b""),
        frame(b"\x12\x04\x08\x01\x12\x00"),
    ],
    ids=range(7),
)
def test_plaintext_refuses(data: bytes) -> None:
    machine = PlaintextMachine(OTHER.public_key)
    with pytest.raises(HandshakeError):
        machine.receive_data(data)
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"")


def test_plaintext_keeps_what_follows() -> None:
    machine = PlaintextMachine(OTHER.public_key)
    data = exchange() + b"raw bytes"
    events = [event for n in range(len(data)) if n < len(exchange()) for event in machine.receive_data(data[n : n + 1])]
    assert len(events) == 1
    [event] = PlaintextMachine(OTHER.public_key).receive_data(data)
    assert event.plaintext == b"raw bytes"
