"""Names in multiaddrs: /dns, /dns4 and /dns6 by the system's resolver, /dnsaddr by TXT records.

Only the name component is replaced, what stands behind it is kept; where a certificate will be checked against the
name (/wss), it stays as /sni. Lookups run in threads of their own number, so
that a name server that does not answer blocks nothing else; a thread that is given up keeps its place until it ends.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import trio

from talos.addr import names_of, naming_server, parse
from talos.errors import ConfigError, DialError, NotSupported, TalosError
from talos.transport.sockets import ip_component

if TYPE_CHECKING:
    from multiaddr import Multiaddr

__all__ = ["Resolver", "ResolverConfig", "needs_resolving"]

SockAddr: TypeAlias = tuple[Any, ...]
T = TypeVar("T")
HostLookup: TypeAlias = Callable[[str, int], Sequence[SockAddr]]
TextLookup: TypeAlias = Callable[[str, float], Sequence[str]]

_FAMILIES = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}
_NAMES = (*_FAMILIES, "dnsaddr")
_FIRST_NAMES = frozenset((name,) for name in _NAMES)
_MAX_NAME_CHARACTERS = 253  # RFC 1035
_ENTRY_PREFIX = "dnsaddr="


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolverConfig:
    """Bounds of name resolution."""

    threads: int = 16
    """Lookups at once; further ones wait."""
    timeout_seconds: float = 5.0
    """For one `resolve`, all its lookups together."""
    max_results: int = 100
    """Addresses of one `resolve`; the rest is cut."""
    max_names: int = 16
    """Names looked up in one `resolve`; entries with further ones are left out."""
    max_depth: int = 4
    """/dnsaddr entries that lead to /dnsaddr entries."""

    def __post_init__(self) -> None:
        if min(self.threads, self.max_results, self.max_names, self.max_depth) < 1 or not self.timeout_seconds > 0:
            raise ConfigError("limits of name resolution must be positive")


def needs_resolving(addr: Multiaddr) -> bool:
    """Whether the address begins with a name."""
    return names_of(addr)[:1] in _FIRST_NAMES


def _look_up_host(name: str, family: int) -> Sequence[SockAddr]:
    found = socket.getaddrinfo(name, None, family, socket.SOCK_STREAM)
    return [sockaddr for _family, _type, _protocol, _canonical, sockaddr in found]


def _look_up_text(name: str, timeout_seconds: float) -> Sequence[str]:
    try:
        import dns.exception
        import dns.resolver
    except ImportError as error:
        raise NotSupported("dnsaddr needs dnspython, which is not installed") from error
    try:
        answer = dns.resolver.resolve(name, "TXT", lifetime=timeout_seconds)
    except dns.exception.DNSException as error:
        raise OSError(str(error)) from error
    return [b"".join(record.strings).decode("utf-8", "replace") for record in answer]


class Resolver:
    """Turns addresses with names into addresses without; safe to share between tasks."""

    def __init__(
        self,
        config: ResolverConfig | None = None,
        *,
        look_up_host: HostLookup = _look_up_host,
        look_up_text: TextLookup = _look_up_text,
    ) -> None:
        self.config = config or ResolverConfig()
        self._look_up_host = look_up_host
        self._look_up_text = look_up_text
        self._limiter = trio.CapacityLimiter(self.config.threads)

    async def resolve(self, addr: Multiaddr) -> tuple[Multiaddr, ...]:
        """The addresses behind `addr`, IPv6 before IPv4 for each name; `addr` alone when it has no name.

        DialError when there is none or time is up; NotSupported for /dnsaddr without dnspython. Duplicates are left
        out. Of /dnsaddr entries only those count that end in what stands behind the name, such as /p2p/….
        """
        if not needs_resolving(addr):
            return (addr,)
        search = _Search(self)
        with trio.move_on_after(self.config.timeout_seconds) as scope:
            await search.follow(str(naming_server(addr)), self.config.max_depth)
        if not search.results:
            reason = "time is up" if scope.cancelled_caught else search.reason or "the name has no address"
            raise DialError(f"cannot resolve {addr}: {reason}")
        return tuple(search.results)

    async def hosts(self, name: str, family: int) -> Sequence[SockAddr]:
        """Socket addresses of a host, in the system's order; DialError."""
        return await self._in_thread(lambda: self._look_up_host(name, family))

    async def texts(self, name: str) -> Sequence[str]:
        """TXT records of a name; DialError, NotSupported without dnspython."""
        return await self._in_thread(lambda: self._look_up_text(name, self.config.timeout_seconds))

    async def _in_thread(self, look_up: Callable[[], Sequence[T]]) -> Sequence[T]:
        try:
            return await trio.to_thread.run_sync(look_up, limiter=self._limiter, abandon_on_cancel=True)
        except (OSError, ValueError) as error:  # ValueError: a name that cannot be encoded
            raise DialError(str(error)) from error


class _Search:
    """One `resolve`: what was found so far, and what may still be looked up."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._config = resolver.config
        self._names = 0
        self.results: dict[Multiaddr, None] = {}
        self.reason = ""

    async def follow(self, addr: str, depth: int) -> None:
        """Adds what `addr` leads to; a name that leads nowhere leaves its reason."""
        if len(self.results) >= self._config.max_results:
            return
        _, kind, name, *rest = f"{addr}//".split("/", 3)
        tail = f"/{rest[0]}".rstrip("/")
        if kind not in _NAMES:
            self._add(addr)
            return
        if self._names == self._config.max_names or depth < 0:
            self.reason = self.reason or "too many names behind it"
            return
        self._names += 1
        if not 0 < len(name) <= _MAX_NAME_CHARACTERS:
            self.reason = self.reason or f"not a name: {name[:80]!r}"
            return
        try:
            await (self._follow_text(name, tail, depth) if kind == "dnsaddr" else self._follow_host(kind, name, tail))
        except DialError as error:
            self.reason = self.reason or str(error)

    async def _follow_host(self, kind: str, name: str, tail: str) -> None:
        found = await self._resolver.hosts(name, _FAMILIES[kind])
        for host in sorted(found, key=lambda sockaddr: ":" not in sockaddr[0]):
            self._add(f"{ip_component(host[0], host[3] if len(host) == 4 else 0)}{tail}")

    async def _follow_text(self, name: str, tail: str, depth: int) -> None:
        for record in await self._resolver.texts(f"_dnsaddr.{name}"):
            entry = record.strip().removeprefix(_ENTRY_PREFIX)
            if len(entry) < len(record.strip()) and entry.endswith(tail):
                await self.follow(entry, depth - 1)

    def _add(self, text: str) -> None:
        if len(self.results) >= self._config.max_results:
            return
        try:
            self.results[parse(text)] = None
        except TalosError as error:
            self.reason = self.reason or str(error)
