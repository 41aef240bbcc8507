"""Who may connect: asking gates, joining them, and the block list that ships."""

from __future__ import annotations

import os
import tempfile
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from talos.errors import ConfigError, RefusedByGate
from talos.host.contain import Owner, contain_sync
from talos.host.source import in_prefixes, ip_of
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable
    from ipaddress import IPv4Network, IPv6Network

    from multiaddr import Multiaddr

    from talos.abc import Event, Gate, GateStep

__all__ = ["BlockList", "check", "join"]

MAX_FILE_BYTES = 1 << 20


def check(
    gate: Gate | None, step: GateStep, peer: PeerId | None, addr: Multiaddr, emit: Callable[[Event], None]
) -> None:
    """RefusedByGate when `gate` says anything but True, or raises. No gate lets everybody in."""
    if gate is None:
        return
    if contain_sync(Owner("gate", emit), gate.allow, step, peer, addr) is not True:
        raise RefusedByGate(f"gate refused {peer or addr} at {step.value}")


def join(*gates: Gate) -> Gate:
    """A gate that lets in whom all of `gates` let in, asked in order."""
    return _Joined(gates)


class _Joined:
    def __init__(self, gates: tuple[Gate, ...]) -> None:
        self._gates = gates

    def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:
        return all(gate.allow(step, peer, addr) is True for gate in self._gates)


class BlockList:
    """A gate that refuses listed peers and IP prefixes.

    With a `path` it begins with what that file holds and writes each change there, durable before the method
    returns. A file is text: a line each of `peer <id>` or `prefix <cidr>`. ConfigError when it holds anything else.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._peers: set[PeerId] = set()
        self._prefixes: set[IPv4Network | IPv6Network] = set()
        if path is not None and path.exists():
            self._read(path)

    @property
    def peers(self) -> frozenset[PeerId]:
        return frozenset(self._peers)

    @property
    def prefixes(self) -> frozenset[str]:
        return frozenset(map(str, self._prefixes))

    def allow(self, step: GateStep, peer: PeerId | None, addr: Multiaddr) -> bool:  # noqa: ARG002 - the seam's shape
        """Blocked is blocked at every step."""
        if peer is not None and peer in self._peers:
            return False
        return not (self._prefixes and in_prefixes(ip_of(addr), self._prefixes))

    def block_peer(self, peer: PeerId) -> None:
        self._change(self._peers | {peer}, self._prefixes)

    def unblock_peer(self, peer: PeerId) -> None:
        self._change(self._peers - {peer}, self._prefixes)

    def block_prefix(self, prefix: str) -> None:
        """`10.0.0.0/8`, `2001:db8::/32` or one address; ConfigError when it is none."""
        self._change(self._peers, self._prefixes | {_network(prefix)})

    def unblock_prefix(self, prefix: str) -> None:
        self._change(self._peers, self._prefixes - {_network(prefix)})

    def _change(self, peers: set[PeerId], prefixes: set[IPv4Network | IPv6Network]) -> None:
        """The new lists are in force only when they are on disk."""
        if self._path is not None:
            lines = [f"peer {peer}" for peer in sorted(peers)] + sorted(f"prefix {prefix}" for prefix in prefixes)
            _write_atomically(self._path, "".join(f"{line}\n" for line in lines))
        self._peers, self._prefixes = peers, prefixes

    def _read(self, path: Path) -> None:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ConfigError(f"block list {path} is larger than {MAX_FILE_BYTES} bytes")
        for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
            match line.split():
                case []:
                    pass
                case ["peer", text]:
                    self._peers.add(PeerId.parse(text))
                case ["prefix", text]:
                    self._prefixes.add(_network(text))
                case _:
                    raise ConfigError(f"block list {path}, line {number}: neither `peer` nor `prefix`")


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ip_network(text)
    except ValueError as error:
        raise ConfigError(f"not an IP prefix: {error}") from error


def _write_atomically(path: Path, text: str) -> None:
    """The file holds the old text or the new one, whatever happens; mode 0600."""
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
