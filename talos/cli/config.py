"""`config.toml` and the TALOS_… variables: the environment stands over the file, the file over the defaults.

A key that nobody knows is an error with the nearest that is known, for it is a typing mistake.
"""

from __future__ import annotations

import os
import tomllib
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from talos.cli.exits import Failure
from talos.cli.frame import nearest
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.identity.home import Home

__all__ = ["Config", "McpConfig", "NodeConfig", "load"]

MAX_BYTES = 1 << 20
PREFIX = "TALOS_"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """`[node]`"""

    port: int = 8766
    """The TCP port of every address; 0 takes a free one."""
    listen: tuple[str, ...] = ()
    """Multiaddrs to listen on instead of all of IPv4 and IPv6."""

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ValueError(f"port is 0 to 65535, not {self.port}")


@dataclass(frozen=True, slots=True, kw_only=True)
class McpConfig:
    """`[mcp]`"""

    policy: str = "mcp.toml"
    """The file of servers and grants, by its place in the home."""
    audit: str = "calls"
    """What is durable in the record before it goes on: `calls`, `each` line, or nothing (`off`)."""

    def __post_init__(self) -> None:
        if self.audit not in ("calls", "each", "off"):
            raise ValueError(f'audit is "calls", "each" or "off", not "{self.audit}"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the sections say."""

    node: NodeConfig = NodeConfig()
    mcp: McpConfig = McpConfig()


def load(home: Home, environment: Mapping[str, str] = os.environ) -> Config:
    """The configuration of `home`; Failure `config_invalid` names the file or variable and the key."""
    config = Config()
    for section, values in _from_file(home).items():
        config = _with(config, section, values, str(home.config))
    for name, text in environment.items():
        section, key = _of_variable(name)
        if section:
            config = _with(config, section, {key: _from_text(section, key, text)}, name)
    return config


def _from_file(home: Home) -> dict[str, Any]:
    try:
        data = private_file.read(home.config, MAX_BYTES, "configuration")
    except FileNotFoundError:
        return {}
    try:
        return tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # TOML's own error and bad UTF-8 among them
        raise _invalid(str(home.config), str(error)) from None


def _of_variable(name: str) -> tuple[str, str]:
    """Section and key of `TALOS_NODE_PORT`; empty for variables that are none of ours."""
    for section in _SECTIONS:
        head = f"{PREFIX}{section.upper()}_"
        if name.startswith(head):
            return section, name.removeprefix(head).lower()
    return "", ""


def _from_text(section: str, key: str, text: str) -> object:
    default = getattr(getattr(Config(), section), key, "")
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    return int(text) if isinstance(default, int) and text.isascii() and text.isdigit() else text


def _with(config: Config, section: str, values: object, where: str) -> Config:
    if section not in _SECTIONS:
        raise _unknown(section, _SECTIONS, where)
    if not isinstance(values, dict):
        raise _invalid(where, f"[{section}] is a section")
    current = getattr(config, section)
    known = {field.name: getattr(current, field.name) for field in fields(current)}
    checked = {}
    for key, value in values.items():
        if key not in known:
            raise _unknown(f"{section}.{key}", [f"{section}.{name}" for name in known], where)
        checked[key] = _typed(known[key], value, f"{section}.{key}", where)
    try:
        return replace(config, **{section: replace(current, **checked)})
    except ValueError as error:
        raise _invalid(where, f"{section}.{error}") from None


def _typed(default: object, value: object, key: str, where: str) -> object:
    if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if type(value) is not type(default):
        kind = {tuple: "a list of texts", int: "a number", str: "a text"}[type(default)]
        raise _invalid(where, f"{key} is {kind}")
    return value


def _unknown(key: str, known: list[str] | tuple[str, ...], where: str) -> Failure:
    meant = nearest(key, known)
    return _invalid(where, f'unknown "{key}"', hint=f'did you mean "{meant}"?' if meant else "")


def _invalid(where: str, what: str, hint: str = "") -> Failure:
    return Failure("config_invalid", f"{where}: {what}", hint=hint)


_SECTIONS = tuple(field.name for field in fields(Config))
