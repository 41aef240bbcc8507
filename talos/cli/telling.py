"""What happens to an agent, as lines for its owner: the same in the agent and beside it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from talos.cli import names
from talos.cli.output import short

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.session import Session

__all__ = ["KINDS", "tell_event", "tell_up"]

KINDS = ("peer", "message", "transfer", "call", "block", "lagged")
"""What `up` and `listen` show."""


def tell_up(session: Session, status: Mapping[str, Any], key: bytes) -> None:
    """Who is up, where, and what to give to others."""
    if session.json:
        session.out.emit("status", **status)
        return
    who, addrs = status["identity"], status["addrs"]
    out = session.out
    out.line(f'Up as "{who["name"]}"  {short(who["peer_id"])}  (pid {status["pid"]})')
    out.line(f"  ticket {_ticket(key, addrs)}")
    for addr in addrs:
        out.line(f"  {addr.rpartition('/p2p/')[0]}   reachable: {status['reachability'] or 'not yet known'}")


def tell_event(session: Session, kind: str, fields: Mapping[str, Any]) -> None:
    """One line, or one object with `--json`."""
    if kind not in KINDS:
        return
    if session.json:
        session.out.emit(kind, **fields)
        return
    text = _text(kind, fields)
    if text:
        session.out.line(f"{time.strftime('%H:%M:%S')}  {text}")


def _text(kind: str, fields: Mapping[str, Any]) -> str:
    if kind == "peer":
        how = "connected" if fields["connected"] else "gone"
        return f"{fields['alias'] or short(fields['peer_id'])} {how}" + (
            f"  {fields['addr']}" if fields["addr"] else ""
        )
    if kind == "call":
        tool = fields["tool"] or fields["method"] or ""
        duration = f"  {fields['duration_ms']} ms" if fields["duration_ms"] is not None else ""
        return f"{short(fields['peer_id'])} → {fields['server']}.{tool}  {fields['decision']}{duration}"
    if kind == "block":
        return f"block {fields.get('height')}"
    if kind == "lagged":
        return f"{fields['missed']} events were missed"
    return f"{kind} {fields.get('id') or fields.get('stream_id') or ''} {fields.get('state') or ''}".rstrip()


def _ticket(key: bytes, addrs: list[str]) -> str:
    from talos.addr import parse, split_peer

    return names.ticket(key, [split_peer(parse(addr))[0] for addr in addrs])
