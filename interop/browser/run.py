"""One meeting of Talos with js-libp2p in a page of headless Chromium: `python -m interop.browser [--screenshot FILE]`.

The page dials over ws, pings, identifies, and exchanges a message each way in a gossip topic. Its server holds back a
picture of the page until the page has told its result, so the browser takes its screenshot then and ends by itself.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import trio

from interop.peers.build import Recipe, built
from interop.process import PeerFailed
from interop.stack import LISTEN, node_config
from talos import open_host
from talos.gossip import open_gossip

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.gossip import Gossip

__all__ = ["BROWSERS", "Meeting", "find_browser", "meet"]

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PAGE = Path(__file__).with_name("page")
RECIPE = Recipe(
    tools=("node", "npm"),
    steps=(
        ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--engine-strict=false"),
        ("node_modules/.bin/esbuild", "page.js", "--bundle", "--format=esm", "--outfile=page.bundle.js"),
    ),
    program=(),
    version=lambda _source: "",
    kept=("index.html", "page.bundle.js"),
)
STACK = "ws/noise/yamux"
TOPIC = "talos/browser"
QUESTION = "hello from the browser"
ANSWER = "hello from Talos"
MAX_REQUEST_BYTES = 64 * 1024
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".svg": "image/svg+xml"}
DONE = b'<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'
FLAGS = (
    "--headless",
    "--no-sandbox",  # it shows one page of ours, often as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=960,620",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What both ends saw."""

    page: dict[str, Any]
    """The page's own result: `browser` `peer_id` `agent` `rtt_ms` `heard`."""
    heard: tuple[str, str]
    """Author and text of what Talos heard."""
    peer_id: str
    """Talos's."""


def find_browser() -> str | None:
    """The path of an installed Chromium."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


async def meet(browser: str, screenshot: Path) -> Meeting:
    """Builds the page where needed and runs it once; PeerFailed says what went wrong. The caller sets the deadline."""
    folder = await trio.to_thread.run_sync(built, "browser", RECIPE, PAGE)
    async with open_host(node_config(STACK, [LISTEN["ws"]])) as host, open_gossip(host) as gossip:
        server = _Server(folder)
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), server.serve, 0)
            heard: list[tuple[str, str]] = []
            await nursery.start(_answer, gossip, heard)
            query = urlencode({"addr": host.addrs[0], "topic": TOPIC, "text": QUESTION})
            url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/index.html?{query}"
            with tempfile.TemporaryDirectory() as profile:
                command = [browser, *FLAGS, f"--user-data-dir={profile}", f"--screenshot={screenshot}", url]
                done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
            nursery.cancel_scope.cancel()
        if not server.result or "error" in server.result or not heard:
            said = done.stderr.decode("utf-8", "replace").splitlines()[-3:]
            raise PeerFailed(f"the page told {server.result!r}; the browser: {' | '.join(said)}")
        return Meeting(page=server.result, heard=heard[0], peer_id=str(host.peer_id))


async def _answer(
    gossip: Gossip, heard: list[tuple[str, str]], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Answers the first message of the topic."""
    async with gossip.subscribe(TOPIC) as messages:
        task_status.started()
        async for message in messages:
            heard.append((str(message.author), message.data.decode()))
            await gossip.publish(TOPIC, ANSWER.encode())


class _Server:
    """Serves the page to the one browser that is started with its address."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told = trio.Event()
        self.result: dict[str, Any] = {}

    async def serve(self, stream: trio.SocketStream) -> None:
        """One request, one answer."""
        async with stream:
            try:
                method, path, body = await _request(stream)
                await stream.send_all(await self._respond(method, path, body))
            except (trio.BrokenResourceError, ValueError):
                return  # the browser thought better of it

    async def _respond(self, method: str, path: str, body: bytes) -> bytes:
        name = path.partition("?")[0].lstrip("/")
        if method == "POST" and name == "result":
            self.result = json.loads(body)
            self._told.set()
            return _response(204)
        if name == "done.svg":
            await self._told.wait()
            return _response(200, DONE, {"Content-Type": TYPES[".svg"]})
        if name in RECIPE.kept:
            data = await trio.Path(self._folder / name).read_bytes()
            return _response(200, data, {"Content-Type": TYPES[Path(name).suffix]})
        return _response(404)


async def _request(stream: trio.SocketStream) -> tuple[str, str, bytes]:
    """Method, target and body; ValueError for what is no such request."""
    data = bytearray()
    length: int | None = None
    while length is None or len(data) < length:
        piece = await stream.receive_some()
        if not piece or len(data) > MAX_REQUEST_BYTES:
            raise ValueError("the request has no end")
        data += piece
        end = data.find(b"\r\n\r\n")
        if length is None and end >= 0:
            headers = bytes(data[:end]).lower().split(b"\r\n")
            sizes = [int(line.partition(b":")[2]) for line in headers if line.startswith(b"content-length:")]
            length = end + 4 + sum(sizes)
    method, path, _ = bytes(data).split(b"\r\n", 1)[0].decode("ascii").split(" ")
    return method, path, bytes(data[data.find(b"\r\n\r\n") + 4 :])


def _response(status: int, body: bytes = b"", headers: Mapping[str, str] | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + body
