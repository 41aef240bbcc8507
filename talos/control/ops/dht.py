"""`talos dht` and `talos register`: the network's memory, asked and written."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import trio

from talos.control.failure import Failure
from talos.dht import provider_key
from talos.errors import ConfigError
from talos.identity.peer_id import PeerId

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit
    from talos.dht import Dht, QueryStep

__all__ = ["find_peer", "find_providers", "get", "provide", "put", "register", "table"]

LOOKUP_SECONDS = 60.0
JOIN_SECONDS = 10.0
"""For a peer that was just dialled to say that it is one of the network."""
MAX_KEY_BYTES = 1024
MAX_PROVIDERS = 1000


async def find_peer(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`peer`, `trace`: where it is; PeerNotFound."""
    dht, peer = await _joined(agent, args, emit), args.peer("peer")
    emit.stage("lookup", "asking the DHT")
    with trio.fail_after(args.seconds(LOOKUP_SECONDS)):
        addrs = await dht.find_peer(peer, trace=_trace(args, emit))
    found = {"peer_id": str(peer), "addrs": [str(addr) for addr in addrs]}
    emit("provider", **found)
    return found


async def provide(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`key`: tells the peers nearest to it that we have it; RoutingError when none takes it."""
    dht = await _joined(agent, args, emit)
    key = args.text("key")
    with trio.fail_after(args.seconds(LOOKUP_SECONDS)):
        told = await dht.provide(_provider_key(key), trace=_trace(args, emit))
    return {"key": key, "told": told}


async def find_providers(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`key`, `count`: one `provider` event for each; Failure `not_found` when nobody has it."""
    dht, key = await _joined(agent, args, emit), args.text("key")
    count = args.count("count", 20, least=1, most=MAX_PROVIDERS)
    with trio.fail_after(args.seconds(LOOKUP_SECONDS)):
        found = await dht.find_providers(_provider_key(key), count=count, trace=_trace(args, emit))
    if not found:
        raise Failure("not_found", f"nobody provides {key}")
    for provider in found:
        emit("provider", peer_id=str(provider.peer), addrs=[str(addr) for addr in provider.addrs])
    return {"key": key, "count": len(found)}


async def put(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`key`, `value_b64`: stores it with the nearest peers; RecordRejected where its namespace refuses it."""
    dht, key, value = await _joined(agent, args, emit), args.text("key"), args.data("value_b64")
    with trio.fail_after(args.seconds(LOOKUP_SECONDS)):
        await dht.put_value(_record_key(key), value, trace=_trace(args, emit))
    return {"key": key, "size": len(value)}


async def get(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`key`: the best valid value as a `record` event; Failure `not_found` when nobody has one."""
    dht, key = await _joined(agent, args, emit), args.text("key")
    with trio.fail_after(args.seconds(LOOKUP_SECONDS)):
        value = await dht.get_value(_record_key(key), trace=_trace(args, emit))
    if value is None:
        raise Failure("not_found", f"nobody has a value for {key}")
    record = {"key": key, "value_b64": base64.b64encode(value).decode(), "seq": None}
    emit("record", **record)
    return record


async def register(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`server` (an address, perhaps without a peer id): publishes the key record, and makes us findable.

    Raises DialError, RoutingError, or Failure `no_bootstrap` when no DHT peer is known.
    """
    server = args.addrs("server")
    if server:
        emit.stage("dial", f"dialing {server[0]}")
        await agent.node.connect(None, server)
    dht = await _joined(agent, args, emit)
    with trio.fail_after(args.seconds(LOOKUP_SECONDS)):
        emit.stage("publish", "publishing the keys of this identity")
        await dht.publish_key_record(agent.key_record)
        told = len(await dht.closest_peers(agent.peer_id.to_bytes()))
    return {
        "peer_id": str(agent.peer_id),
        "name": agent.name,
        "addrs": [str(addr) for addr in agent.node.addrs],
        "told": told,
    }


def table(agent: Agent, query: Mapping[str, str]) -> Mapping[str, object]:  # noqa: ARG001 - as every snapshot
    """State of the DHT, and the peers of its routing table."""
    dht = _dht(agent)
    status = dht.status()
    rows = [
        {
            "peer_id": str(known.peer),
            "addrs": [str(addr) for addr in known.addrs],
            "bucket": known.bucket,
        }
        for known in dht.table_peers()
    ]
    return {
        "protocol": status.protocol_id,
        "mode": status.mode,
        "scope": status.scope,
        "peers": status.peers,
        "buckets": status.buckets,
        "values": status.values,
        "providers": status.providers,
        "bootstrap": status.bootstrap,
        "network_size": status.network_size,
        "rows": rows[:MAX_ROWS],
        "next": None,
    }


MAX_ROWS = 200
"""As many fit an answer; a fuller table shows its nearest peers."""


async def _joined(agent: Agent, args: Arguments, emit: Emit) -> Dht:
    """The DHT, once its first round is over; Failure `no_bootstrap` when it knows nobody to ask."""
    dht = _dht(agent)
    emit.stage("bootstrap", "joining the DHT")
    with trio.fail_after(args.seconds(LOOKUP_SECONDS)):
        await dht.bootstrapped()
    if agent.node.connections:
        with trio.move_on_after(JOIN_SECONDS):
            await dht.joined()
    if not dht.status().peers:
        raise Failure(
            "no_bootstrap",
            "no DHT peer is known or answers",
            hint="talos register --server HOST:PORT, or talos up --bootstrap ADDRESS",
        )
    return dht


def _trace(args: Arguments, emit: Emit) -> Callable[[QueryStep], None] | None:
    if not args.flag("trace"):
        return None

    def tell(step: QueryStep) -> None:
        emit(
            "lookup_step",
            step=step.kind,
            hop=step.hop,
            asked=None if step.peer is None else str(step.peer),
            closer=step.closer,
            rtt_ms=round(step.seconds * 1000, 3),
            detail=step.detail,
        )

    return tell


def _record_key(text: str) -> bytes:
    """`/namespace/rest`; the rest of /pk/ and /ipns/ is a peer id, and travels as its bytes."""
    head, slash, last = text.rpartition("/")
    if not (text.startswith("/") and head and slash and last) or len(text.encode()) > MAX_KEY_BYTES:
        raise Failure("usage", f"key {text!r} is not /namespace/name")
    if head in {"/pk", "/ipns"}:
        try:
            return head.encode() + b"/" + PeerId.parse(last).to_bytes()
        except ConfigError as error:
            raise Failure("usage", f"key {text!r}: {error}") from None
    return text.encode()


def _provider_key(text: str) -> bytes:
    if not 0 < len(text.encode()) <= MAX_KEY_BYTES:
        raise Failure("usage", f"a key has 1 to {MAX_KEY_BYTES} bytes")
    return provider_key(text)


def _dht(agent: Agent) -> Dht:
    if agent.dht is None:
        raise Failure("config_invalid", "the DHT is switched off", hint="talos config set dht.enabled true")
    return agent.dht
