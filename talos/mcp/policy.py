"""Who may use which server: the policy file and its quick form, without reading files (docs/protocols/mcp.md, policy).

Deny by default: what is not granted is refused, and a file with anything that this release does not enforce is no
policy at all.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from talos.errors import ConfigError, NotSupported
from talos.identity.peer_id import PeerId
from talos.mcp.limits import GrantLimits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Grant", "Policy", "ServerSpec", "parse_policy", "quick_policy"]

MAX_POLICY_BYTES = 1024 * 1024

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PEER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LATER_GRANT_KEYS = frozenset(("tools", "resources", "prompts", "methods", "pins"))
_LATER_SERVER_KEYS = frozenset(("url", "header_env"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSpec:
    """How a server is started. Nothing in it ever comes from a peer."""

    name: str
    command: tuple[str, ...]
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    pass_env: tuple[str, ...] = ()
    """Variables that are handed on from our own environment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grant:
    """One peer may use one server."""

    peer: PeerId | None
    """None: any peer."""
    server: str
    limits: GrantLimits = field(default_factory=GrantLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A checked policy; made by `parse_policy` or `quick_policy`."""

    servers: Mapping[str, ServerSpec]
    grants: tuple[Grant, ...]
    allow_any: bool
    text: bytes
    """As it was read; of the quick form the file that says the same."""

    @property
    def policy_hash(self) -> bytes:
        """SHA-256 of the text."""
        return hashlib.sha256(self.text).digest()

    def granted(self, peer: PeerId) -> tuple[Grant, ...]:
        """The grants of `peer`, one for each server: its own before the one for any peer."""
        found: dict[str, Grant] = {}
        for grant in self.grants:
            if grant.peer == peer or (grant.peer is None and grant.server not in found):
                found[grant.server] = grant
        return tuple(found.values())

    def knows(self, peer: PeerId) -> bool:
        """Whether `peer` has any grant."""
        return bool(self.granted(peer))

    def grant_for(self, peer: PeerId, server: str) -> Grant | None:
        """The grant of `peer` for `server`, or for its only server when `server` is empty; None: refuse."""
        grants = self.granted(peer)
        if not server:
            return grants[0] if len(grants) == 1 else None
        return next((grant for grant in grants if grant.server == server), None)


def parse_policy(data: bytes) -> Policy:
    """The policy that the TOML text `data` is. ConfigError names what is wrong; NotSupported what is not built yet."""
    if len(data) > MAX_POLICY_BYTES:
        raise ConfigError(f"policy is over {MAX_POLICY_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"policy is not TOML: {error}") from error
    if document.get("connect"):
        raise NotSupported("policy: [connect] rules are not built yet")
    _only(document, {"version", "allow_any", "servers", "peers", "grants", "connect"}, "policy")
    if document.get("version") != 1 or document["version"] is True:
        raise ConfigError("policy: version must be 1")
    allow_any = document.get("allow_any", False)
    if not isinstance(allow_any, bool):
        raise ConfigError("policy: allow_any must be true or false")
    servers = {name: _server(name, spec) for name, spec in _table(document, "servers", "policy").items()}
    peers = {name: _peer(name, spec) for name, spec in _table(document, "peers", "policy").items()}
    raw_grants = document.get("grants", [])
    if not isinstance(raw_grants, list) or not raw_grants:
        raise ConfigError("policy: nobody is granted anything: add a [[grants]]")
    grants = tuple(_grant(raw, servers, peers, allow_any=allow_any) for raw in raw_grants)
    pairs = [(grant.peer, grant.server) for grant in grants]
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise ConfigError(f"policy: two grants of {pair[1]!r} for {pair[0] or 'any peer'}")
    return Policy(servers=servers, grants=grants, allow_any=allow_any, text=data)


def quick_policy(
    command: str | Sequence[str],
    peers: Sequence[PeerId],
    *,
    name: str = "default",
    allow_any: bool = False,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_env: Sequence[str] = (),
) -> Policy:
    """One server for these peers. ConfigError as for the file that says the same."""
    lines = ["version = 1"]
    if allow_any:
        lines.append("allow_any = true")
    lines += [f"[servers.{_quoted(name)}]", f"command = {_toml(_command(name, command))}"]
    if cwd is not None:
        lines.append(f"cwd = {_quoted(cwd)}")
    if env:
        pairs = ", ".join(f"{_quoted(key)} = {_quoted(value)}" for key, value in sorted(env.items()))
        lines.append(f"env = {{ {pairs} }}")
    if pass_env:
        lines.append(f"pass_env = {_toml(pass_env)}")
    unique = sorted(set(peers))
    for index, peer in enumerate(unique):
        lines += [f"[peers.peer{index}]", f'id = "{peer}"']
    names = [f"peer{index}" for index in range(len(unique))] + (["*"] if allow_any else [])
    for peer_name in names:
        lines += ["[[grants]]", f'peer = "{peer_name}"', f"server = {_quoted(name)}"]
    return parse_policy(("\n".join(lines) + "\n").encode("utf-8", "surrogateescape"))


# ----------------------------------------------------------------------------------- the parts of the file


def _server(name: str, spec: Any) -> ServerSpec:
    where = f"policy: server {name!r}"
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has up to 64 of a-z 0-9 . _ - and begins with a letter or digit")
    _is_table(spec, where)
    if later := sorted(_LATER_SERVER_KEYS & spec.keys()):
        raise NotSupported(f"{where}: {later[0]} is not built yet")
    _only(spec, {"command", "cwd", "env", "pass_env"}, where)
    env, cwd = spec.get("env", {}), spec.get("cwd")
    if cwd is not None:
        _text(cwd, f"{where}: cwd")
    _is_table(env, f"{where}: env")
    for key, value in env.items():
        _env_name(key, where)
        _text(value, f"{where}: env {key}", empty=True)
    return ServerSpec(
        name=name,
        command=tuple(_command(name, spec.get("command"))),
        cwd=cwd,
        env=dict(env),
        pass_env=tuple(_env_name(key, where) for key in _texts(spec.get("pass_env", []), f"{where}: pass_env")),
    )


def _command(name: str, command: Any) -> list[str]:
    """A list as it is; a text split as a shell would, but no shell ever sees it."""
    where = f"policy: server {name!r}: command"
    if isinstance(command, str):
        try:
            command = shlex.split(command)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from error
    words = _texts(command, where, empty=True)
    if not words or not words[0]:
        raise ConfigError(f"{where} is missing")
    return words


def _peer(name: str, spec: Any) -> PeerId:
    where = f"policy: peer {name!r}"
    if not _PEER_NAME.fullmatch(name):
        raise ConfigError(f"{where}: a name has up to 64 of A-Z a-z 0-9 . _ - and begins with a letter or digit")
    _is_table(spec, where)
    _only(spec, {"id"}, where)
    text = _text(spec.get("id"), f"{where}: id")
    try:
        return PeerId.parse(text)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _grant(raw: Any, servers: Mapping[str, ServerSpec], peers: Mapping[str, PeerId], *, allow_any: bool) -> Grant:
    where = "policy: grant"
    _is_table(raw, where)
    if later := sorted(_LATER_GRANT_KEYS & raw.keys()):
        raise NotSupported(f"{where}: {later[0]} rules are not built yet")
    _only(raw, {"peer", "server", "limits"}, where)
    name, server = _text(raw.get("peer"), f"{where}: peer"), _text(raw.get("server"), f"{where}: server")
    if server not in servers:
        raise ConfigError(f"{where}: there is no server {server!r}")
    if name == "*":
        if not allow_any:
            raise ConfigError(f'{where}: peer "*" needs allow_any = true')
        peer = None
    elif name in peers:
        peer = peers[name]
    else:
        raise ConfigError(f"{where}: there is no peer {name!r}")
    return Grant(peer=peer, server=server, limits=_limits(raw.get("limits", {}), f"{where} of {name!r}: limits"))


_LIMIT_TYPES: Mapping[str, tuple[type, ...]] = {
    "sessions": (int,),
    "in_flight": (int,),
    "rate": (int, float),
    "burst": (int,),
    "call_timeout": (int, float),
}


def _limits(raw: Any, where: str) -> GrantLimits:
    _is_table(raw, where)
    _only(raw, set(_LIMIT_TYPES), where)
    for key, value in raw.items():
        if isinstance(value, bool) or not isinstance(value, _LIMIT_TYPES[key]):
            raise ConfigError(f"{where}: {key} must be a number")
    try:
        return GrantLimits(**raw)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


# ----------------------------------------------------------------------------------- shapes


def _only(table: Mapping[str, Any], known: set[str], where: str) -> None:
    if unknown := sorted(table.keys() - known):
        raise ConfigError(f"{where}: unknown key {unknown[0]!r}")


def _table(document: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = document.get(key, {})
    _is_table(table, f"{where}: {key}")
    return dict(table)


def _is_table(value: Any, where: str) -> None:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table")


def _text(value: Any, where: str, *, empty: bool = False) -> str:
    if not isinstance(value, str) or "\0" in value or not (value or empty):
        raise ConfigError(f"{where} must be a text")
    return value


def _texts(value: Any, where: str, *, empty: bool = False) -> list[str]:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} must be a list of texts")
    return [_text(each, where, empty=empty) for each in value]


def _env_name(name: str, where: str) -> str:
    if not _ENV_NAME.fullmatch(name):
        raise ConfigError(f"{where}: {name!r} is no name of a variable")
    if name.startswith("TALOS_") or name == "MCP_TUNNEL_TAG":
        raise ConfigError(f"{where}: {name} is not handed on")
    return name


def _toml(values: Sequence[str]) -> str:
    return "[" + ", ".join(map(_quoted, values)) + "]"


def _quoted(text: str) -> str:
    """A basic string of TOML: JSON's escapes are among its own, but for DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
