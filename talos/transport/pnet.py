"""Private networks (libp2p pnet, 3A): one XSalsa20 keystream a direction under everything else.

Only who has the network's key can speak to its members. It hides, but does not authenticate: security runs above.
Each side writes a random nonce of 24 bytes, then every byte is XORed.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import operator
import secrets
import struct
from typing import TYPE_CHECKING

import trio

from talos.abc import ByteListener, ByteTransport
from talos.errors import ConfigError, HandshakeError, NotSupported

if TYPE_CHECKING:
    from collections.abc import Callable

    from multiaddr import Multiaddr

    Crypt = Callable[[bytes | bytearray | memoryview], bytes]

__all__ = ["NetworkKey", "Private", "PrivateStream", "hsalsa20", "xsalsa20"]

KEY_BYTES = 32
NONCE_BYTES = 24
KEY_FILE_HEADER = b"/key/swarm/psk/1.0.0/"
MAX_KEY_FILE_BYTES = 256

_MULTISTREAM = b"\x13/multistream/1.0.0\n"
"""What either side sends first; anything else was encrypted with another key."""
_PIECE_BYTES = 256 * 1024

_SIGMA = struct.unpack("<4I", b"expand 32-byte k")
_QUARTERS = (
    # columns, then rows, of the 4 x 4 state
    ((0, 4, 8, 12), (5, 9, 13, 1), (10, 14, 2, 6), (15, 3, 7, 11)),
    ((0, 1, 2, 3), (5, 6, 7, 4), (10, 11, 8, 9), (15, 12, 13, 14)),
)


def hsalsa20(key: bytes, nonce: bytes) -> bytes:
    """The sub-key of a 32-byte key and the first 16 bytes of the nonce (Bernstein, "Extending the Salsa20 nonce")."""
    k, n = struct.unpack("<8I", key), struct.unpack("<4I", nonce)
    x = [_SIGMA[0], *k[:4], _SIGMA[1], *n, _SIGMA[2], *k[4:], _SIGMA[3]]
    for _double_round in range(10):
        for quarters in _QUARTERS:
            for a, b, c, d in quarters:
                x[b] ^= _rotate(x[a] + x[d], 7)
                x[c] ^= _rotate(x[b] + x[a], 9)
                x[d] ^= _rotate(x[c] + x[b], 13)
                x[a] ^= _rotate(x[d] + x[c], 18)
    return struct.pack("<8I", x[0], x[5], x[10], x[15], *x[6:10])


def _rotate(value: int, bits: int) -> int:
    value &= 0xFFFFFFFF
    return value << bits & 0xFFFFFFFF | value >> 32 - bits


def xsalsa20(key: bytes, nonce: bytes) -> Crypt:
    """A function that XORs what it is given with the next bytes of the keystream."""
    try:
        from Crypto.Cipher import Salsa20
    except ModuleNotFoundError as error:
        raise NotSupported("private networks need pycryptodome: install talos[pnet]") from error
    encrypt: Crypt = Salsa20.new(hsalsa20(key, nonce[:16]), nonce[16:]).encrypt
    return encrypt


class NetworkKey:
    """The 32-byte secret that the members of a private network share; it never shows itself but through `secret`."""

    __slots__ = ("secret",)

    def __init__(self, secret: bytes) -> None:
        if len(secret) != KEY_BYTES:
            raise ConfigError(f"a network key has {KEY_BYTES} bytes, not {len(secret)}")
        self.secret = secret

    @classmethod
    def generate(cls) -> NetworkKey:
        """A new key."""
        return cls(secrets.token_bytes(KEY_BYTES))

    @classmethod
    def parse(cls, data: bytes) -> NetworkKey:
        """The key in a key file: header, encoding and key, one a line; lines may end in CRLF."""
        if len(data) > MAX_KEY_FILE_BYTES:
            raise ConfigError(f"network key file is longer than {MAX_KEY_FILE_BYTES} bytes")
        header, _, rest = data.partition(b"\n")
        encoding, _, body = rest.partition(b"\n")
        if header.rstrip(b"\r") != KEY_FILE_HEADER:
            raise ConfigError(f"network key file does not begin with {KEY_FILE_HEADER.decode()}")
        try:
            match encoding.rstrip(b"\r"):
                case b"/bin/":
                    return cls(body)
                case b"/base16/":
                    return cls(binascii.unhexlify(body.strip()))
                case b"/base64/":
                    return cls(base64.b64decode(body.strip(), validate=True))
                case _:
                    raise ConfigError("network key file names no encoding of /base16/, /base64/ and /bin/")
        except ValueError:
            # Nothing of the cause is kept: it may quote the key.
            raise ConfigError("network key is not in the encoding that its file names") from None

    def to_file(self) -> bytes:
        """The contents of a key file, in base16, which every implementation reads; a secret, so mode 0600."""
        return KEY_FILE_HEADER + b"\n/base16/\n" + self.secret.hex().encode() + b"\n"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, NetworkKey):
            return NotImplemented
        return hmac.compare_digest(self.secret, other.secret)

    def __hash__(self) -> int:
        return hash(self.secret)

    def __repr__(self) -> str:
        return "<network key>"


class PrivateStream(trio.abc.Stream):
    """A stream that only members of the network can read; owns `stream`.

    The first bytes received must be a multistream header, else HandshakeError. One task may send while another
    receives. A cancelled `send_all` leaves sending unusable, a cancelled `receive_some` loses nothing.
    """

    def __init__(self, stream: trio.abc.Stream, key: NetworkKey) -> None:
        self._stream = stream
        self._key = key
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._encrypt = xsalsa20(key.secret, self._nonce)
        self._decrypt: Crypt | None = None
        self._peer_nonce = bytearray()
        self._expected = _MULTISTREAM
        """What of the multistream header is still to come."""
        self._greeted = False
        self._greeting = trio.Lock()
        self._sending = self._receiving = self._send_cut = self._closed = False
        self._refused = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As `trio.abc.SendStream`."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await self._greet()
            if not len(data):
                await self._stream.send_all(data)
                return
            self._send_cut = True
            with memoryview(data) as view:
                for start in range(0, len(view), _PIECE_BYTES):
                    await self._stream.send_all(self._encrypt(view[start : start + _PIECE_BYTES]))
            self._send_cut = False
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """As `trio.abc.SendStream`."""
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await self._stream.wait_send_all_might_not_block()
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """As `trio.abc.ReceiveStream`."""
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        self._receiving = True
        try:
            if self._refused:
                await trio.lowlevel.checkpoint()
                self._refuse()
            decrypt = self._decrypt or await self._begin()
            if decrypt is None:
                return b""
            data = decrypt(await self._stream.receive_some(max_bytes))
            if self._expected:
                self._check_header(data)
            return data
        finally:
            self._receiving = False

    async def aclose(self) -> None:
        """Closes the stream below."""
        self._closed = True
        await self._stream.aclose()

    async def _greet(self) -> None:
        """Sends our nonce before anything else is sent or awaited: a peer may wait for it before it speaks."""
        if not self._greeted:
            await trio.lowlevel.checkpoint_if_cancelled()
            async with self._greeting:
                await self._send_nonce()
        if self._closed:
            raise trio.ClosedResourceError("the stream was closed")
        if self._send_cut:
            raise trio.BrokenResourceError("an earlier send on this stream was cut off")

    async def _send_nonce(self) -> None:
        if not (self._greeted or self._send_cut):
            self._send_cut = True
            await self._stream.send_all(self._nonce)
            self._greeted, self._send_cut = True, False

    async def _begin(self) -> Crypt | None:
        """Receives the peer's nonce; None when the stream ends before it."""
        if not self._greeted:
            try:
                await self._greet()
            except trio.BrokenResourceError:
                pass  # what the peer had sent before it went can still be read
        while len(self._peer_nonce) < NONCE_BYTES:
            data = await self._stream.receive_some(NONCE_BYTES - len(self._peer_nonce))
            if not data:
                if self._peer_nonce:
                    raise trio.BrokenResourceError("stream ended inside the nonce of the private network")
                return None
            self._peer_nonce += data
        self._decrypt = xsalsa20(self._key.secret, bytes(self._peer_nonce))
        return self._decrypt

    def _check_header(self, data: bytes) -> None:
        expected, self._expected = self._expected, self._expected[len(data) :]
        if not expected.startswith(data[: len(expected)]):
            self._refused = True
            self._refuse()

    def _refuse(self) -> None:
        raise HandshakeError("the peer does not speak multistream: different network key?")


class PrivateListener:
    """Accepts streams of the private network."""

    def __init__(self, listener: ByteListener, key: NetworkKey) -> None:
        self._listener = listener
        self._key = key

    @property
    def addr(self) -> Multiaddr:
        """As the listener below."""
        return self._listener.addr

    async def accept(self) -> tuple[trio.abc.Stream, Multiaddr]:
        """As the listener below; nothing is sent or read here."""
        stream, remote = await self._listener.accept()
        return PrivateStream(stream, self._key), remote

    async def aclose(self) -> None:
        """Stops listening; accepted streams live on."""
        await self._listener.aclose()


class Private(ByteTransport):
    """Any byte transport, for the members of one private network only.

    A transport with security of its own, such as QUIC, cannot be private: ConfigError. NotSupported when the
    extra `talos[pnet]` is not installed.
    """

    def __init__(self, transport: ByteTransport, key: NetworkKey) -> None:
        if not isinstance(transport, ByteTransport):
            raise ConfigError(
                f"{type(transport).__name__} cannot run under a network key, only transports of plain bytes"
            )
        xsalsa20(key.secret, bytes(NONCE_BYTES))  # a missing extra shows here, not at the first connection
        self._transport = transport
        self._key = key

    def matches(self, addr: Multiaddr) -> bool:
        """As the transport below."""
        return self._transport.matches(addr)

    async def dial(self, addr: Multiaddr) -> trio.abc.Stream:
        """As the transport below."""
        return PrivateStream(await self._transport.dial(addr), self._key)

    async def listen(self, addr: Multiaddr) -> PrivateListener:
        """As the transport below."""
        return PrivateListener(await self._transport.listen(addr), self._key)

    async def punch(self, addr: Multiaddr) -> trio.abc.Stream:
        """As the transport below."""
        return PrivateStream(await self._transport.punch(addr), self._key)
