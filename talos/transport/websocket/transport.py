"""The WebSocket transport: addresses, TLS and the socket below."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from talos.abc import ByteTransport
from talos.addr import is_websocket, parse, websocket_of
from talos.errors import DialError, ListenError
from talos.transport.tcp import Tcp
from talos.transport.websocket.config import WebSocketConfig, client_context, server_context
from talos.transport.websocket.stream import WebSocketStream

if TYPE_CHECKING:
    import ssl

    from multiaddr import Multiaddr

    from talos.addr import WebSocketAddr
    from talos.transport.sockets import SocketListener, SocketStream

__all__ = ["WebSocket", "WebSocketListener"]

_SUFFIX = {False: parse("/ws"), True: parse("/tls/ws")}
"""What stands behind the addresses of those who dialled."""


class WebSocketListener:
    """A `ByteListener`; neither TLS nor the upgrade is run by `accept`, but by the first use of what it gives."""

    def __init__(
        self, listener: SocketListener, place: WebSocketAddr, config: WebSocketConfig, tls: ssl.SSLContext | None
    ) -> None:
        self._listener = listener
        self._place = place
        self._config = config
        self._tls = None if tls is None else partial(_serve_tls, tls)

    @property
    def addr(self) -> Multiaddr:
        """Where it listens, port filled in."""
        return self._listener.addr.encapsulate(self._place.suffix)

    async def accept(self) -> tuple[WebSocketStream, Multiaddr]:
        """As `ByteListener.accept`."""
        socket, remote = await self._listener.accept()
        from talos.transport.websocket.session import ServerSession

        session = ServerSession(self._config, self._place.path)
        stream = WebSocketStream(socket, session, self._config, self._place.suffix, self._tls)
        return stream, remote.encapsulate(_SUFFIX[self._place.secure])

    async def aclose(self) -> None:
        """Stops listening; accepted streams live on."""
        await self._listener.aclose()


class WebSocket(ByteTransport):
    """Dials and listens for WebSockets on TCP ports, with web TLS (/wss, /tls/ws) or without (/ws).

    A dial runs the upgrade, so it ends when the other end has answered it. Web TLS authenticates a host name, not a
    peer: security and a muxer run inside, as over TCP.
    """

    def __init__(self, config: WebSocketConfig | None = None, tcp: Tcp | None = None) -> None:
        self._config = config or WebSocketConfig()
        self._tcp = tcp or Tcp()
        self._contexts: dict[bool, ssl.SSLContext] = {}

    def matches(self, addr: Multiaddr) -> bool:
        """Whether it is a WebSocket address with nothing behind."""
        return is_websocket(addr)

    async def dial(self, addr: Multiaddr) -> WebSocketStream:
        """Opens a connection; DialError, also for a certificate that does not hold or a server that refuses."""
        from talos.transport.websocket.session import ClientSession  # the library, which few nodes need

        place = websocket_of(addr)
        tls = partial(_dial_tls, self._context(listening=False), place.server_name) if place.secure else None
        try:
            socket = await self._tcp.dial(place.below)
        except DialError as error:
            raise DialError(f"{addr}: {error}", error.causes) from error
        try:
            stream = WebSocketStream(socket, ClientSession(self._config, place), self._config, place.suffix, tls)
            await stream.open()
        except trio.BrokenResourceError as error:
            socket.close()
            raise DialError(f"{addr}: {error}") from error
        except BaseException:
            socket.close()
            raise
        return stream

    async def listen(self, addr: Multiaddr) -> WebSocketListener:
        """Listens on an IP address; port 0 takes a free one. ConfigError for /wss without a usable certificate."""
        place = websocket_of(addr)
        tls = self._context(listening=True) if place.secure else None
        try:
            listener = await self._tcp.listen(place.below)
        except ListenError as error:
            raise ListenError(f"{addr}: {error}") from error
        return WebSocketListener(listener, place, self._config, tls)

    def _context(self, *, listening: bool) -> ssl.SSLContext:
        """Made once, for reading authorities takes long; ConfigError."""
        if listening not in self._contexts:
            self._contexts[listening] = (server_context if listening else client_context)(self._config)
        return self._contexts[listening]


def _serve_tls(context: ssl.SSLContext, socket: SocketStream) -> trio.SSLStream[SocketStream]:
    return trio.SSLStream(socket, context, server_side=True, https_compatible=True)


def _dial_tls(context: ssl.SSLContext, name: str, socket: SocketStream) -> trio.SSLStream[SocketStream]:
    return trio.SSLStream(socket, context, server_hostname=name, https_compatible=True)
