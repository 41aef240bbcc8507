"""Values by namespace: which are valid, and which of two is better. Unknown namespaces are refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from talos.dht import ipns, key_namespace
from talos.errors import BadSignature, RecordRejected, RemoteProtocolError
from talos.host.contain import Owner, contain_sync
from talos.identity.keys import PublicKey
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from talos.abc import Event

__all__ = ["Namespace", "Namespaces", "accept_anything", "default_namespaces"]

Validate: TypeAlias = Callable[[bytes, bytes, float], None]
Select: TypeAlias = Callable[[bytes, Sequence[bytes]], int]

IPNS_QUORUM = 16


def _first(_key: bytes, _values: Sequence[bytes]) -> int:
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """The rules for the keys `/<name>/…`. Neither function waits; whatever else they raise is contained."""

    validate: Validate
    """Key, value, Unix time in seconds: RecordRejected, RemoteProtocolError or BadSignature when that will not do."""
    select: Select = _first
    """The place of the best of several valid values. Without one, the value that came first stays."""
    quorum: int | None = None
    """Answers to wait for; None: as configured for the node."""
    whole_region: bool = False
    """Kept by and asked of all peers around the key, so that nobody hides it by sitting nearest; several lookups."""


def accept_anything() -> Namespace:
    """A namespace without rules, for interoperability tests: whoever writes last is right."""
    return Namespace(validate=lambda _key, _value, _now: None, select=lambda _key, values: len(values) - 1)


def default_namespaces(protocol_id: str) -> Mapping[str, Namespace]:
    """`pk` and `talos`; in the swarms of IPFS `ipns` too."""
    known = {
        "pk": Namespace(validate=_validate_public_key),
        "talos": Namespace(validate=key_namespace.validate, select=key_namespace.select, whole_region=True),
    }
    if protocol_id.startswith("/ipfs/"):
        known["ipns"] = Namespace(validate=ipns.validate, select=ipns.select, quorum=IPNS_QUORUM)
    return MappingProxyType(known)


class Namespaces:
    """The namespaces of a node. An application's validator that fails otherwise than by refusing has refused."""

    def __init__(
        self,
        known: Mapping[str, Namespace],
        *,
        max_bytes: int,
        emit: Callable[[Event], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._known = known
        self._max_bytes = max_bytes
        self._clock = clock
        self._owner = Owner("dht validator", emit)

    def of(self, key: bytes) -> Namespace:
        """The rules for `key`; RecordRejected when there are none."""
        _, _, rest = key.partition(b"/")
        name, slash, path = rest.partition(b"/")
        namespace = self._known.get(name.decode("ascii", "replace")) if key[:1] == b"/" and slash and path else None
        if namespace is None:
            raise RecordRejected(f"no namespace is known for the key {printable_key(key)}")
        return namespace

    def validate(self, key: bytes, value: bytes) -> None:
        """RecordRejected when `value` may not stand under `key` now."""
        namespace = self.of(key)
        if len(value) > self._max_bytes:
            raise RecordRejected(f"value of {len(value)} bytes is over the limit of {self._max_bytes}")
        reason = contain_sync(self._owner, _refusal, namespace, key, value, self._clock())
        if reason is None:
            raise RecordRejected(f"the validator for {printable_key(key)} failed")
        if reason:
            raise RecordRejected(f"value for {printable_key(key)}: {reason}")

    def is_valid(self, key: bytes, value: bytes) -> bool:
        """Whether `validate` lets it pass."""
        try:
            self.validate(key, value)
        except RecordRejected:
            return False
        return True

    def best(self, key: bytes, values: Sequence[bytes]) -> bytes:
        """The best of valid `values`; the first where the selector fails."""
        place = contain_sync(self._owner, self.of(key).select, key, values)
        return values[place] if place is not None and 0 <= place < len(values) else values[0]

    def quorum(self, key: bytes, default: int) -> int:
        """Answers to wait for."""
        own = self.of(key).quorum
        return default if own is None else own


def printable_key(key: bytes) -> str:
    """A key of any bytes in one line of ASCII."""
    return ascii(key[:64])[1:]


def _refusal(namespace: Namespace, key: bytes, value: bytes, now: float) -> str:
    """Why not; empty when it may."""
    try:
        namespace.validate(key, value, now)
    except (RecordRejected, RemoteProtocolError, BadSignature) as error:
        return str(error) or "refused"
    return ""


def _validate_public_key(key: bytes, value: bytes, _now: float) -> None:
    """`/pk/<peer id bytes>`: the key of that peer, in its protobuf form."""
    peer = PeerId.from_bytes(key.removeprefix(b"/pk/"))
    if PeerId.from_key(PublicKey.from_bytes(value)) != peer:
        raise RecordRejected("the key of another peer")
