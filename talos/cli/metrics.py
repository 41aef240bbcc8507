"""Numbers for Prometheus: one page over HTTP, on loopback, for who has the token of this run.

The token is a file of the home (0600), which Prometheus reads as `credentials_file`. A request gets 5 s and 16 KiB.
"""

from __future__ import annotations

import hmac
import secrets
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from talos.errors import ConfigError, ListenError
from talos.host.block import background
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

__all__ = ["open_metrics"]

REQUEST_SECONDS = 5.0
MAX_REQUEST_BYTES = 16 * 1024
MAX_REQUESTS = 16
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed"}


@asynccontextmanager
async def open_metrics(listen: str, token_file: Path, text: Callable[[], str]) -> AsyncIterator[str]:
    """Serves `text()` at `/metrics` while the block lasts; gives the URL. ConfigError unless `listen` is loopback."""
    host, port = _address(listen)
    with _token(token_file) as token:
        try:
            listeners = await trio.open_tcp_listeners(port, host=host)
        except OSError as error:
            raise ListenError(f"metrics cannot be served on {listen}: {error.strerror}") from error
        bound = listeners[0].socket.getsockname()[1]
        answer = partial(_answer, trio.CapacityLimiter(MAX_REQUESTS), token, text)
        async with background() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, listeners)
            yield f"http://{f'[{host}]' if ':' in host else host}:{bound}/metrics"


@contextmanager
def _token(path: Path) -> Iterator[str]:
    """A new one in its file, gone with the block."""
    token = secrets.token_hex(32)
    private_file.make_directory(path.parent)
    private_file.write(path, token.encode() + b"\n", replace=True)
    try:
        yield token
    finally:
        path.unlink(missing_ok=True)


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    try:
        loopback = ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = False
    if not loopback or not (port.isascii() and port.isdigit() and int(port) < 65_536):
        raise ConfigError(f"metrics are served on a loopback address and port as 127.0.0.1:9469, not on {listen!r}")
    return host.strip("[]"), int(port)


async def _answer(slots: trio.CapacityLimiter, token: str, text: Callable[[], str], stream: trio.SocketStream) -> None:
    """One request, one answer; whoever is slow or breaks off has none."""
    async with stream:
        try:
            slots.acquire_nowait()
        except trio.WouldBlock:
            return
        try:
            with trio.move_on_after(REQUEST_SECONDS):
                status = _judge(await _head(stream), token)
                body = text() if status == 200 else f"{_REASONS[status]}\n"
                await stream.send_all(_response(status, body.encode()))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        finally:
            slots.release()


async def _head(stream: trio.SocketStream) -> bytes:
    """The request line and headers; what came so far when they do not end within bounds."""
    head = bytearray()
    while b"\r\n\r\n" not in head and len(head) < MAX_REQUEST_BYTES:
        piece = await stream.receive_some(4096)
        if not piece:
            break
        head += piece
    return bytes(head)


def _judge(head: bytes, token: str) -> int:
    request, _, rest = head.partition(b"\r\n")
    parts = request.split(b" ")
    if b"\r\n\r\n" not in head or len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        return 400
    headers = [line.partition(b":") for line in rest.split(b"\r\n")]
    given = [value.strip() for name, _, value in headers if name.strip().lower() == b"authorization"]
    if len(given) != 1 or not hmac.compare_digest(given[0], b"Bearer " + token.encode()):
        return 401
    if parts[0] != b"GET":
        return 405
    return 200 if parts[1].partition(b"?")[0] == b"/metrics" else 404


def _response(status: int, body: bytes) -> bytes:
    headers = {
        "Content-Type": "text/plain; version=0.0.4; charset=utf-8",
        "Content-Length": str(len(body)),
        "Cache-Control": "no-store",
        "Connection": "close",
        **({"WWW-Authenticate": "Bearer"} if status == 401 else {}),
    }
    head = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return "\r\n".join(head).encode() + body
