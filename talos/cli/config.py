"""`config.toml` and the TALOS_… variables: the environment stands over the file, the file over the defaults.

A key that nobody knows is an error with the nearest that is known, for it is a typing mistake.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from talos.cli.exits import Failure
from talos.cli.frame import nearest
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.identity.home import Home

__all__ = [
    "ChainConfig",
    "Config",
    "DhtConfig",
    "FilesConfig",
    "GossipConfig",
    "LogConfig",
    "McpConfig",
    "MessagesConfig",
    "NodeConfig",
    "RelayConfig",
    "WebSocketConfig",
    "listen_addrs",
    "load",
    "origins",
    "values",
]

MAX_BYTES = 1 << 20
MAX_DEPTH = 16
PREFIX = "TALOS_"
EVERYWHERE = ("/ip4/0.0.0.0/tcp/{port}", "/ip6/::/tcp/{port}")


def _one_of(key: str, value: str, *known: str) -> None:
    if value not in known:
        named = " or ".join([", ".join(f'"{word}"' for word in known[:-1]), f'"{known[-1]}"'])
        raise ValueError(f'{key} is {named}, not "{value}"')


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`[node]`"""

    port: int = 8766
    """The TCP port of every address; 0 takes a free one."""
    listen: tuple[str, ...] = ()
    """Multiaddrs to listen on instead of all of IPv4 and IPv6."""
    bootstrap: tuple[str, ...] = ()
    """Peers to begin with: tickets, or multiaddrs that end in `/p2p/…`."""
    mdns: bool = False
    """Whether peers are looked for on the local network, which tells everybody there who we are."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port is 0 to 65535, not {self.port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSocketConfig:
    """`[websocket]`: for addresses in `/wss`. Files are named by their place in the home, in PEM."""

    certificate: str = ""
    """The chain that listeners show; needed to listen on `/wss`."""
    private_key: str = ""
    """Its key; empty: in the same file."""
    authorities: str = ""
    """Who vouches for the servers that are dialled, instead of the system's authorities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtConfig:
    """`[dht]`"""

    mode: str = "auto"
    """`client` asks only, `server` answers too; `auto`: a server where others can reach us."""
    network: str = "talos"
    """`talos`, or `ipfs` for the public swarm."""

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, "auto", "client", "server")
        _one_of("network", self.network, "talos", "ipfs")


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """`[relay]`"""

    use: str = "auto"
    """Whether we are reached through relays: `auto` when others cannot dial us, `always`, or `never`."""
    relays: tuple[str, ...] = ()
    """Those to use before any other: tickets, or multiaddrs that end in `/p2p/…`."""
    serve: bool = False
    """Whether we relay for others, and tell those who ask whether they can be dialled."""
    reservations: int = 128
    """How many others may be reached through us."""
    seconds: int = 120
    """How long one connection through us may last; 0: without an end."""
    bytes: int = 131_072
    """How much it may carry each way; 0: without an end."""

    def __post_init__(self) -> None:
        _one_of("use", self.use, "auto", "always", "never")
        if self.reservations < 1 or self.seconds < 0 or self.bytes < 0:
            raise ValueError("reservations is 1 and more, seconds and bytes are 0 and more")


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """`[gossip]`"""

    topics: tuple[str, ...] = ()
    """What the agent subscribes to for its life."""
    floodsub: bool = False
    """Whether peers that speak nothing better are spoken to by floodsub."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagesConfig:
    """`[messages]`"""

    strangers: str = "accept"
    """What becomes of messages of those who are not contacts: `accept`, `ask` first, `refuse`."""
    read_receipts: bool = False
    """Whether senders are told when their message was shown."""
    channels: tuple[str, ...] = ()
    """Names of the channels that are listened to, as `talos send '#NAME'` has them."""

    def __post_init__(self) -> None:
        _one_of("strangers", self.strangers, "accept", "ask", "refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig:
    """`[files]`"""

    from_: str = "anyone"
    """Whose files are taken: `anyone`, `contacts`, `nobody`; `ask`: contacts at once, others when they are let in."""
    downloads: str = "downloads"
    """Where they are put, by its place in the home."""
    types: str = "all"
    """`known`: nothing but images, audio, video and documents, by their content."""

    def __post_init__(self) -> None:
        _one_of("from", self.from_, "anyone", "contacts", "ask", "nobody")
        _one_of("types", self.types, "all", "known")
        if not self.downloads:
            raise ValueError("downloads is a directory")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainConfig:
    """`[chain]`"""

    bits: int = 8
    """Work that each of our own blocks costs."""
    mode: str = "feed"
    """`feed`: one author, and what was announced is never replaced; `shared`: several, and most work wins."""
    replicas: tuple[str, ...] = ()
    """Peers, by id or alias, who keep a copy and are asked what they hold."""
    retention: int = 0
    """Days after which blocks may go into an archive; 0: none ever does."""

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, "feed", "shared")
        if self.retention < 0:
            raise ValueError(f"retention is days, or 0 for ever, not {self.retention}")
        if not 8 <= self.bits <= 32:
            raise ValueError(f"bits is 8 to 32, not {self.bits}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """`[log]`"""

    level: str = "warning"
    """From which on records are written."""
    file: str = ""
    """Where, by its place in the home; empty: to stderr."""

    def __post_init__(self) -> None:
        _one_of("level", self.level, "debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class McpConfig:
    """`[mcp]`"""

    policy: str = "mcp.toml"
    """The file of servers and grants, by its place in the home."""
    audit: str = "calls"
    """What is durable in the record before it goes on: `calls`, `each` line, or nothing (`off`)."""

    def __post_init__(self) -> None:
        _one_of("audit", self.audit, "calls", "each", "off")


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the sections say."""

    node: NodeConfig = NodeConfig()
    websocket: WebSocketConfig = WebSocketConfig()
    dht: DhtConfig = DhtConfig()
    relay: RelayConfig = RelayConfig()
    gossip: GossipConfig = GossipConfig()
    messages: MessagesConfig = MessagesConfig()
    files: FilesConfig = FilesConfig()
    chain: ChainConfig = ChainConfig()
    mcp: McpConfig = McpConfig()
    log: LogConfig = LogConfig()


def load(home: Home, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration of `home`; Failure `config_invalid` names the file and line, or the variable, and the key."""
    config = Config()
    document, text = _from_file(home)
    for section, values in document.items():
        config = _with(config, section, values, _File(str(home.config), text))
    for name, value in environment.items():
        section, key = _of_variable(name)
        if section:
            config = _with(config, section, {key: _from_text(section, key, value)}, _Variable(name))
    return config


def values(config: Config) -> dict[str, object]:
    """By `section.key`."""
    return {
        f"{section.name}.{key.name.rstrip('_')}": getattr(getattr(config, section.name), key.name)
        for section in fields(config)
        for key in fields(getattr(config, section.name))
    }


def origins(home: Home, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Where each `section.key` comes from: the variable's name, the file's path, or `default`."""
    document, _ = _from_file(home)
    found = dict.fromkeys(values(Config()), "default")
    found |= {f"{section}.{key}": str(home.config) for section, values in document.items() for key in values}
    named = {name: _of_variable(name) for name in environment}
    return found | {f"{section}.{key}": name for name, (section, key) in named.items() if section}


def listen_addrs(config: Config, port: int | None, listen: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Flags stand over the configuration; a port alone means every interface."""
    if listen and port is not None:
        raise Failure("usage", "--port and --listen exclude each other")
    if listen or (config.node.listen and port is None):
        return listen or config.node.listen
    return tuple(text.format(port=config.node.port if port is None else port) for text in EVERYWHERE)


class _File:
    """Where a mistake of the file is."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._text = text

    def place(self, section: str, key: str = "") -> str:
        """The path and, where it can be told, the line of a section or of a key in it."""
        current = ""
        for number, line in enumerate(self._text.splitlines(), 1):
            header = _HEADER.match(line)
            found = _KEY.match(line)
            if header:
                current = header.group(1)
            name = f"{current}.{found.group(1)}" if found and current else found.group(1) if found else current
            if (header or found) and name == (f"{section}.{key}" if key else section):
                return f"{self._path} line {number}"
        return self._path


class _Variable:
    """Where a mistake of the environment is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def place(self, section: str, key: str = "") -> str:  # noqa: ARG002 - as _File has it
        return self._name


_Where: TypeAlias = _File | _Variable


def _from_file(home: Home) -> tuple[dict[str, Any], str]:
    try:
        data = private_file.read(home.config, MAX_BYTES, "configuration")
    except FileNotFoundError:
        return {}, ""
    try:
        text = data.decode()
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML's own error and bad UTF-8 among them
        raise _invalid(str(home.config), str(error)) from None
    if _depth(document) > MAX_DEPTH:
        raise _invalid(str(home.config), f"nested deeper than {MAX_DEPTH}")
    return document, text


def _depth(value: object) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [each for item in inner for each in (item.values() if isinstance(item, dict) else item)]
    return depth


def _of_variable(name: str) -> tuple[str, str]:
    """Section and key of `TALOS_NODE_PORT`; empty for variables that are none of ours."""
    for section in (*_SECTIONS, *_LATER_SECTIONS):
        head = f"{PREFIX}{section.upper()}_"
        if name.startswith(head):
            key = name.removeprefix(head).lower()
            if key in _BY_HAND or (section, key) in _BY_HAND_IN:
                raise _invalid(name, "a weakening is never taken from the environment", hint="type it as an option")
            return (section, key) if section in _SECTIONS else ("", "")
    return "", ""


def _from_text(section: str, key: str, text: str) -> object:
    current = getattr(Config(), section)
    default = getattr(current, _attribute(current, key), "")
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(default, bool):
        return {"true": True, "false": False}.get(text, text)
    return int(text) if isinstance(default, int) and text.isascii() and text.isdigit() else text


def _with(config: Config, section: str, values: object, where: _Where) -> Config:
    if section not in _SECTIONS:
        raise _unknown(section, _SECTIONS, where.place(section))
    if not isinstance(values, dict):
        raise _invalid(where.place(section), f"[{section}] is a section")
    current = getattr(config, section)
    known = {field.name.rstrip("_"): getattr(current, field.name) for field in fields(current)}
    for key, value in values.items():
        place = where.place(section, key)
        if key not in known:
            raise _unknown(f"{section}.{key}", [f"{section}.{name}" for name in known], place)
        try:
            current = replace(
                current, **{_attribute(current, key): _typed(known[key], value, f"{section}.{key}", place)}
            )
        except ValueError as error:
            raise _invalid(place, f"{section}.{error}") from None
    return replace(config, **{section: current})


def _attribute(section: object, key: str) -> str:
    """`from` is a word of Python's own."""
    return key if hasattr(section, key) else f"{key}_"


def _typed(default: object, value: object, key: str, where: str) -> object:
    if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if type(value) is not type(default):
        kind = {tuple: "a list of texts", bool: "true or false", int: "a number", str: "a text"}[type(default)]
        raise _invalid(where, f"{key} is {kind}")
    return value


def _unknown(key: str, known: list[str] | tuple[str, ...], where: str) -> Failure:
    meant = nearest(key, known)
    return _invalid(where, f'unknown "{key}"', hint=f'did you mean "{meant}"?' if meant else "")


def _invalid(where: str, what: str, hint: str = "") -> Failure:
    return Failure("config_invalid", f"{where}: {what}", hint=hint)


_SECTIONS = tuple(field.name for field in fields(Config))
_LATER_SECTIONS = ("metrics", "ui")
_BY_HAND = frozenset({"insecure", "allow_any", "exempt_loopback"})
"""What weakens the agent is typed."""
_BY_HAND_IN = frozenset({("metrics", "auth")})
_HEADER = re.compile(r"\s*\[\s*([A-Za-z0-9_-]+)\s*\]")
_KEY = re.compile(r"\s*([A-Za-z0-9_.-]+)\s*=")
