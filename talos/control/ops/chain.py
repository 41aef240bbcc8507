"""`talos chain` in an agent: its state, its blocks, and comparing it with others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.control.failure import Failure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.chain import Chain
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit

__all__ = ["blocks", "status", "sync"]

MAX_ROWS = 100


async def sync(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`peer`: whose chain is taken over and followed; without one, ours is compared with those who keep it.

    `addrs` are tried for the peer first. Failure `refused` when the peer shows no chain.
    """
    chain = _chain(agent)
    peer = args.peer("peer") if args.text("peer", default="") else None
    if peer is not None:
        emit.stage("dial", f"reaching {peer}")
        await agent.node.connect(peer, args.addrs("addrs"))
    emit.stage("sync", "comparing chains")
    return (await chain.sync(peer)).fields()


def status(agent: Agent, query: Mapping[str, str]) -> Mapping[str, object]:  # noqa: ARG001 - every snapshot is given a query
    """The fields of the kind `chain_status`."""
    return _chain(agent).status()


def blocks(agent: Agent, query: Mapping[str, str]) -> Mapping[str, object]:
    """Heights, ids and sizes, newest first; `after` is the last height of the part before."""
    chain = _chain(agent)
    top = chain.machine.tip.header.height
    start = min(int(query["after"]) - 1, top) if query.get("after", "").isdecimal() else top
    rows = []
    for height in range(start, max(start - MAX_ROWS, -1), -1):
        stored = chain.header(height)
        if stored is not None:
            header = stored.header
            rows.append({"height": height, "id": stored.block_id.hex(), "n_items": header.n_items})
    more = bool(rows) and start - MAX_ROWS >= 0
    return {"rows": rows, "next": str(start - MAX_ROWS + 1) if more else None}


def _chain(agent: Agent) -> Chain:
    if agent.chain is None:
        raise Failure("failed", "nothing is recorded here: the record was switched off")
    return agent.chain
