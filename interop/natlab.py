"""Networks with real NATs: namespaces, bridges and nftables, for the length of a block. Linux and root only.

    wan 198.100.0.0/24 (public)    relay .1    nat a .11    nat b .12    public host .21
    lan a 10.71.0.0/24             nat .1      host .2
    lan b 10.72.0.0/24             nat .1      host .2

The routers translate addresses and drop what nobody asked for, without a word.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from interop.process import Adapter

__all__ = ["HOSTS", "Lab", "LabFailed", "absent", "open_lab"]

HOSTS = {"relay": "198.100.0.1", "public": "198.100.0.21", "a": "10.71.0.2", "b": "10.72.0.2"}
"""The hosts by name, and their addresses."""
ROUTERS = {"a": "198.100.0.11", "b": "198.100.0.12"}
COMMAND_SECONDS = 20.0
TOOLS = ("ip", "nft")

RULES = """
table ip talos {{
  chain out {{ type nat hook postrouting priority srcnat; oifname "wan0" masquerade {how}; }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "wan0" ct state established,related accept
    iifname "wan0" drop
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "wan0" ct state established,related accept
    iifname "wan0" drop
  }}
}}
"""


class LabFailed(Exception):
    """A command that builds the network failed; the text says which."""


def absent() -> str | None:
    """Why no such network can be built here; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in TOOLS:
        if shutil.which(tool) is None:
            return f"{tool} is not on PATH"
    try:
        with open_lab():
            return None
    except LabFailed as failed:
        return f"network namespaces cannot be had here: {failed}"


@dataclass(frozen=True, slots=True)
class Lab:
    """A network that stands."""

    prefix: str

    def inside(self, host: str, adapter: Adapter) -> Adapter:
        """The adapter's program, run on that host."""
        return replace(adapter, command=(*self.command(host), *adapter.command))

    def command(self, host: str) -> tuple[str, ...]:
        """What has to stand before a command that runs on that host."""
        return ("ip", "netns", "exec", f"{self.prefix}{host}")


@contextmanager
def open_lab(*, symmetric: bool = False) -> Iterator[Lab]:
    """The network of the module's picture; with `symmetric`, NATs give each destination another port."""
    prefix = f"talos{secrets.token_hex(2)}-"
    with ExitStack() as stack:
        for name in ("wan", *HOSTS, "nat-a", "nat-b"):
            _run("ip", "netns", "add", f"{prefix}{name}")
            stack.callback(_run, "ip", "netns", "del", f"{prefix}{name}")
            _run("ip", "-n", f"{prefix}{name}", "link", "set", "lo", "up")
        wan = f"{prefix}wan"
        _run("ip", "-n", wan, "link", "add", "br0", "type", "bridge")
        _run("ip", "-n", wan, "link", "set", "br0", "up")
        for host in ("relay", "public"):
            _join(prefix, wan, host, f"{HOSTS[host]}/24", bridge="br0")
        for side, router in ROUTERS.items():
            _join(prefix, wan, f"nat-{side}", f"{router}/24", bridge="br0")
            _lan(prefix, side)
            rules = RULES.format(how="fully-random" if symmetric else "")
            _run("ip", "netns", "exec", f"{prefix}nat-{side}", "nft", "-f", "-", stdin=rules)
        yield Lab(prefix)


def _join(prefix: str, wan: str, name: str, addr: str, *, bridge: str) -> None:
    """A cable from the namespace `name` into the bridge."""
    end = f"w-{name}"
    _run(
        "ip", "-n", wan, "link", "add", "name", end, "type", "veth", "peer", "name", "wan0", "netns", f"{prefix}{name}"
    )
    _run("ip", "-n", wan, "link", "set", end, "master", bridge, "up")
    _run("ip", "-n", f"{prefix}{name}", "addr", "add", addr, "dev", "wan0")
    _run("ip", "-n", f"{prefix}{name}", "link", "set", "wan0", "up")


def _lan(prefix: str, side: str) -> None:
    """One host behind its router."""
    nat, host, addr = f"{prefix}nat-{side}", f"{prefix}{side}", HOSTS[side]
    gateway = addr.rpartition(".")[0] + ".1"
    _run("ip", "-n", nat, "link", "add", "name", "lan0", "type", "veth", "peer", "name", "eth0", "netns", host)
    for namespace, device, own in ((nat, "lan0", gateway), (host, "eth0", addr)):
        _run("ip", "-n", namespace, "addr", "add", f"{own}/24", "dev", device)
        _run("ip", "-n", namespace, "link", "set", device, "up")
    _run("ip", "-n", host, "route", "add", "default", "via", gateway)
    _run("ip", "netns", "exec", nat, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def _run(*command: str, stdin: str = "") -> None:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, timeout=COMMAND_SECONDS)
    if done.returncode != 0:
        raise LabFailed(f"{' '.join(command)}: {done.stderr.strip()[:200]}")
