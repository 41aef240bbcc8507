"""`talos send-file`, and what of files needs somebody who holds the home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import trio

from talos.control.failure import Failure
from talos.errors import NotSupported, TransferFailed
from talos.messaging.files.code import FileCode
from talos.messaging.files.transfer import TransferState
from talos.messaging.view import transfer_row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit
    from talos.messaging.files.service import Files
    from talos.messaging.files.transfer import Transfer

__all__ = ["answer_offers", "files_of", "send_file", "transfers"]

STILL_SECONDS = 60.0
"""Without progress for so long it is left to go on by itself."""
MAX_SECONDS = 7 * 86_400.0
MAX_ROWS = 20
"""As many fit an answer, whatever their names."""


async def send_file(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:
    """`peer`, `addrs`, `paths` (absolute; none: what is piped in), `name`, `wait`: seconds without progress.

    One `transfer` event when it is offered. Returns the fields of the kind `transfer` with `reached`: false where it
    stands still and goes on by itself later. Raises TransferFailed, OSError.
    """
    files, peer = files_of(agent), args.peer("peer")
    paths, name = [Path(text) for text in args.texts("paths")], args.text("name", "")
    if not all(path.is_absolute() for path in paths):
        raise Failure("usage", "absolute paths of what is to be sent are needed")
    agent.node.peerstore.add_addrs(peer, args.addrs("addrs"))
    emit.stage("read", "reading what is to be sent")
    if paths:
        transfer = await files.send(peer, paths, name=name or None)
    elif name:
        transfer = await files.send_piped(peer, args.input, name=name)
    else:
        raise Failure("usage", "what is piped in has no name of its own", hint="--name NAME")
    emit("transfer", **transfer_row(transfer))
    emit.stage("offer", "offered; waiting for the other side")
    await _follow(transfer, args.number("wait", STILL_SECONDS, least=0, most=MAX_SECONDS), emit)
    if transfer.state.final and transfer.state is not TransferState.COMPLETE:
        raise TransferFailed(f"{peer} did not take {transfer.name}: {_word(transfer.code)}", code=transfer.code)
    return {**transfer_row(transfer), "reached": transfer.state is TransferState.COMPLETE}


async def _follow(transfer: Transfer, still: float, emit: Emit) -> None:
    """Tells the progress, until it is over or nothing has moved for so long."""
    last: object = None
    with trio.move_on_after(still) as patience:
        async for update in transfer.updates():
            if (update.done, update.state) != last:
                last = update.done, update.state
                patience.deadline = trio.current_time() + still
                emit.progress(update.done, update.total)


async def answer_offers(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:  # noqa: ARG001
    """`peer`, `accept`: takes or declines the files that this peer has offered. Returns how many offers that were."""
    files, peer, count = files_of(agent), args.peer("peer"), 0
    for offer in files.offers():
        if offer.peer == peer:
            await (files.accept if args.flag("accept") else files.decline)(offer.id)
            count += 1
    await trio.lowlevel.checkpoint()
    return {"offers": count}


def transfers(agent: Agent, query: Mapping[str, str]) -> Mapping[str, object]:
    """Rows of the kind `transfer`, oldest first; `after` is the last stream id of the part before."""
    rows = [transfer_row(one) for one in files_of(agent).transfers()]
    after = query.get("after", "")
    begin = next((place + 1 for place, row in enumerate(rows) if row["stream_id"] == after), 0)
    part = rows[begin : begin + MAX_ROWS]
    return {"rows": part, "next": part[-1]["stream_id"] if len(rows) > begin + MAX_ROWS else None}


def files_of(agent: Agent) -> Files:
    if agent.files is None:
        raise NotSupported("files need a record, and this agent runs without one")
    return agent.files


def _word(code: int) -> str:
    try:
        return FileCode(code).name.lower()
    except ValueError:
        return "declined"
