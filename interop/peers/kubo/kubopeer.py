"""Kubo behind the contract of interop/peers/README.md: the `ipfs` daemon, driven over its HTTP interface.

It runs on its LAN swarm, the one that takes private addresses, told to take loopback ones too. Records are
checked by kubo itself, which knows /pk/ and /ipns/ alone; it provides only what it has, so `provide` takes the
block by `--content`.
"""

import argparse
import base64
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

IPFS = Path(__file__).resolve().parent / "ipfs"
SWARM = "/ipfs/lan/kad/1.0.0"
READY_SECONDS = 30.0
ASK_SECONDS = 60.0
STOP_SECONDS = 3.0
POLL_SECONDS = 0.1
ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
# What kubo calls the events of a query.
FINAL_PEER, PROVIDER, VALUE = 2, 4, 5

Result = dict[str, Any]


class Refused(Exception):
    """What the contract asks to be told on stderr."""


def base58(data: bytes) -> str:
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = ALPHABET[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def cid(key: str) -> str:
    """Version 1, raw, of a multihash."""
    return "b" + base64.b32encode(b"\x01\x55" + bytes.fromhex(key)).decode().lower().rstrip("=")


def record_key(key: str) -> str:
    """Kubo wants the peer id in /pk/ as text."""
    namespace, name = bytes.fromhex(key)[1:].split(b"/", 1)
    return f"/{namespace.decode()}/{base58(name)}"


class Daemon:
    """A running daemon."""

    def __init__(self, process: "subprocess.Popen[str]", api: str) -> None:
        self.process = process
        self.addrs: list[str] = []
        self._api = api

    def ask(self, command: str, *arguments: str, file: bytes | None = None, **options: str) -> list[Any]:
        """The JSON values of the answer. Refused with kubo's own words."""
        query = urllib.parse.urlencode([("arg", argument) for argument in arguments] + list(options.items()))
        boundary = secrets.token_hex(16)
        body = b"" if file is None else _form(file, boundary)
        request = urllib.request.Request(
            f"{self._api}/api/v0/{command}?{query}",
            data=body,
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"} if file is not None else {},
        )
        try:
            with urllib.request.urlopen(request, timeout=ASK_SECONDS) as answer:
                lines = answer.read().splitlines()
        except urllib.error.HTTPError as error:
            raise Refused(f"{command}: {error.read().decode(errors='replace').strip()}") from error
        return [json.loads(line) for line in lines if line.strip()]

    def join(self, address: str) -> None:
        """Connects, and waits until the table has somebody."""
        self.ask("swarm/connect", address)
        deadline = time.monotonic() + READY_SECONDS
        while not any(bucket["Peers"] for table in self.ask("stats/dht", "lan") for bucket in table["Buckets"] or ()):
            if time.monotonic() > deadline:
                raise Refused("no bootstrap peer serves this DHT")
            time.sleep(POLL_SECONDS)

    def named(self, kind: int, events: list[Any]) -> list[Any]:
        return [found for event in events if event.get("Type") == kind for found in event.get("Responses") or ()]


def _form(file: bytes, boundary: str) -> bytes:
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
    return head.encode() + file + f"\r\n--{boundary}--\r\n".encode()


def prepared(repo: Path, listen: str, routing: str) -> dict[str, str]:
    """A repository of its own, with no peers, no gateway and no discovery."""
    environment = {**os.environ, "IPFS_PATH": str(repo), "IPFS_TELEMETRY": "off", "GOLOG_LOG_LEVEL": "error"}

    def ipfs(*words: str) -> None:
        done = subprocess.run([IPFS, *words], env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Refused(f"ipfs {words[0]}: {done.stderr.strip()}")

    ipfs("init", "--profile=test", "--empty-repo")
    path = repo / "config"
    config = json.loads(path.read_text())
    config["Addresses"]["Swarm"] = [listen]
    config["Addresses"]["Gateway"] = None
    config["Routing"] = {"Type": routing, "LoopbackAddressesOnLanDHT": True}
    config["Provide"] = {"Enabled": True, "DHT": {"SweepEnabled": False}}
    path.write_text(json.dumps(config))
    return environment


@contextmanager
def daemon(listen: str, routing: str) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="talos-kubo-") as folder:
        repo = Path(folder) / "repo"
        environment = prepared(repo, listen, routing)
        process = subprocess.Popen(
            [IPFS, "daemon"], env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=None, text=True
        )
        try:
            yield _ready(process, repo)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _ready(process: "subprocess.Popen[str]", repo: Path) -> Daemon:
    """Reads what the daemon says until it is ready; the caller's deadline ends a daemon that never is."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Daemon is ready"):
            _, _, host, _, port = (repo / "api").read_text().strip().split("/")[:5]
            node = Daemon(process, f"http://{host}:{port}")
            (own,) = node.ask("id")
            node.addrs = own["Addresses"]
            return node
    raise Refused("the daemon ended before it was ready")


def find_peer(node: Daemon, options: argparse.Namespace, peer: str) -> Result:  # noqa: ARG001 - one shape for all
    for found in node.named(FINAL_PEER, node.ask("routing/findpeer", peer)):
        return {"peer_id": found["ID"], "addrs": found["Addrs"]}
    raise Refused("peer not found")


def put(node: Daemon, options: argparse.Namespace, key: str, value: str) -> Result:  # noqa: ARG001
    node.ask("routing/put", record_key(key), file=bytes.fromhex(value))
    return {"key": key, "ok": True}


def get(node: Daemon, options: argparse.Namespace, key: str) -> Result:  # noqa: ARG001
    for event in node.ask("routing/get", record_key(key)):
        if event.get("Type") == VALUE:
            return {"key": key, "value": base64.b64decode(event["Extra"]).hex()}
    raise Refused("no value")


def provide(node: Daemon, options: argparse.Namespace, key: str) -> Result:
    if options.content is None:
        raise Refused("kubo provides what it has: --content")
    (block,) = node.ask("block/put", file=bytes.fromhex(options.content), **{"cid-codec": "raw"})
    if block["Key"] != cid(key):
        raise Refused("the key is not the SHA-256 of the content")
    node.ask("routing/provide", cid(key))
    (own,) = node.ask("id")
    return {"key": key, "peer_id": own["ID"], "ok": True}


def find_providers(node: Daemon, options: argparse.Namespace, key: str) -> Result:  # noqa: ARG001
    found = sorted({each["ID"] for each in node.named(PROVIDER, node.ask("routing/findprovs", cid(key)))})
    if not found:
        raise Refused("no providers")
    return {"key": key, "providers": found}


# Each with the number of words behind its name.
OPERATIONS: dict[str, tuple[int, Callable[..., Result]]] = {
    "find-peer": (1, find_peer),
    "put": (2, put),
    "get": (1, get),
    "provide": (1, provide),
    "find-providers": (1, find_providers),
}


def listen(options: argparse.Namespace) -> None:
    with daemon(options.listen, "dhtserver") as node:
        for address in options.bootstrap:
            node.join(address)
        for addr in node.addrs:
            print(addr)
        print("ready", flush=True)
        sys.stdin.read()


def dial(options: argparse.Namespace) -> None:
    count, operation = OPERATIONS[options.operation]
    if len(options.words) != count:
        raise Refused(f"{options.operation} takes {count} words")
    with daemon(options.listen, "dhtclient") as node:
        node.join(options.address)
        start = os.times()
        result = operation(node, options, *options.words)
        result["cpu_seconds"] = os.times().user - start.user
        print(json.dumps(result), flush=True)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refused(message)


def parse() -> argparse.Namespace:
    shared = Parser(add_help=False)
    shared.add_argument("--stack", default="tcp/noise/yamux")
    shared.add_argument("--listen", default="/ip4/127.0.0.1/tcp/0")
    shared.add_argument("--dht", required=True)
    parser = Parser(prog="kubo")
    commands = parser.add_subparsers(required=True)
    listener = commands.add_parser("listen", parents=[shared])
    listener.add_argument("--bootstrap", action="append", default=[])
    listener.set_defaults(run=listen)
    dialer = commands.add_parser("dial", parents=[shared])
    dialer.add_argument("address")
    dialer.add_argument("operation", choices=OPERATIONS)
    dialer.add_argument("words", nargs="*")
    dialer.add_argument("--content")
    dialer.set_defaults(run=dial)
    options = parser.parse_args()
    if options.dht != SWARM:
        raise Refused(f"kubo is on {SWARM} alone")
    return options


def main() -> int:
    try:
        options = parse()
        options.run(options)
    except (Refused, OSError) as error:
        print(f"kubo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
