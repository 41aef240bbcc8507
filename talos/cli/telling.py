"""What happens to an agent, as lines for its owner: the same in the agent and beside it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from talos.cli import names
from talos.cli.output import counted, short, size_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.cli.session import Session

__all__ = ["KINDS", "cut", "tell_event", "tell_message", "tell_up"]

KINDS = ("peer", "message", "transfer", "call", "block", "lagged")
"""What `up` and `listen` show."""
CALLS_TOLD = ("request", "refused", "dropped")
"""Of the lines and events of the tunnel, without `--json`."""
INDENT = "          "
"""As far as the time of day reaches: nothing that a peer wrote begins a line."""
NAME_CHARACTERS = 64
PASSING = {"transferring", "paused", "verifying"}
"""What a transfer goes through by itself; `--json` has all of it."""
SUBJECT_CHARACTERS = 80
MEDIA_CHARACTERS = 40
_MARKS = {"gap": "(something before it is missing)", "fork": "(something before it was replaced)"}


def tell_up(session: Session, status: Mapping[str, Any], key: bytes, *, whole: bool = False) -> None:
    """Who is up, where, and what to give to others; `whole`: addresses as others take them behind `--bootstrap`."""
    if session.json:
        session.out.emit("status", **status)
        return
    who, addrs = status["identity"], status["addrs"]
    out = session.out
    out.line(f'Up as "{who["name"]}"  {short(who["peer_id"])}  (pid {status["pid"]})')
    out.line(f"  ticket {_ticket(key, addrs)}")
    for addr in addrs:
        shown = addr if whole else addr.rpartition("/p2p/")[0]
        out.line(f"  {shown}   reachable: {status['reachability'] or 'not yet known'}")


def tell_event(session: Session, kind: str, fields: Mapping[str, Any]) -> None:
    """One line, or one object with `--json`."""
    if kind not in KINDS:
        return
    if session.json:
        session.out.emit(kind, **fields)
        return
    now = time.strftime("%H:%M:%S")
    if kind == "message":
        tell_message(session, fields, now)
        return
    text = _text(session, kind, fields)
    if text:
        session.out.line(f"{now}  {text}")


def tell_message(session: Session, fields: Mapping[str, Any], when: str, *, mark: str = "") -> None:
    """A header of ours, and below it, indented, what its sender wrote: no line of a text can pass for a header."""
    everybody = f"#{fields['channel']}" if fields["channel"] else "all"
    who = session.shown(fields["peer_id"]) if fields["peer_id"] else everybody
    mine = everybody if fields["to_all"] else "me"
    between = f"{who} → {mine}" if fields["direction"] == "in" else f"me → {who}"
    state = fields["state"] if fields["direction"] == "out" else ""
    missing = _MARKS.get(fields["mark"], "")
    about = cut(fields["subject"] or "", SUBJECT_CHARACTERS)
    words = (when, between, _what(fields), state, missing, mark, f'"{about}"' if about else "")
    session.out.line("  ".join(filter(None, words)))
    session.out.detail(f"  id {fields['id']}  entry {fields['entry'] or 'none yet'}")
    for line in (fields["text"] or "").splitlines() or ([""] if fields["text"] == "" else []):
        session.out.line(f"{INDENT}{line}")
    if fields["cut"]:
        session.out.line(f"{INDENT}… {fields['size']} bytes in all: talos history")


def _what(fields: Mapping[str, Any]) -> str:
    """What it is, where that is not simply a text."""
    if fields["type"] == "text":
        media = cut(fields["media_type"], MEDIA_CHARACTERS)
        return "" if fields["text"] is not None else f"{media}, {fields['size']} B"
    if fields["type"] == "stream_start":
        return f"file {cut(fields['name'] or 'without a name', NAME_CHARACTERS)}"
    return f"{fields['type']}, {fields['size']} B"


def cut(text: str, most: int) -> str:
    """One line of foreign text, no longer than that."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _text(session: Session, kind: str, fields: Mapping[str, Any]) -> str:
    if kind == "peer":
        how = "connected" if fields["connected"] else "gone"
        return f"{session.shown(fields['peer_id'])} {how}" + (f"  {fields['addr']}" if fields["addr"] else "")
    if kind == "call":
        return _call(fields) if fields["type"] in CALLS_TOLD else ""
    if kind == "transfer":
        return _transfer(session, fields)
    if kind == "block":
        return f"block {fields['height']}  {counted(fields['n_items'], 'entry')}"
    if kind == "lagged":
        return f"{fields['missed']} events were missed"
    return f"{kind} {fields.get('id') or fields.get('stream_id') or ''} {fields.get('state') or ''}".rstrip()


def _call(fields: Mapping[str, Any]) -> str:
    """`12D3…x2fA → files.read_file  ok  12 ms  block 9`."""
    what = ".".join(filter(None, (fields["server"], fields["tool"] or fields["method"]))) or fields["type"]
    duration = None if fields["duration_ms"] is None else f"{fields['duration_ms']} ms"
    block = None if fields["block"] is None else f"block {fields['block']}"
    return "  ".join(filter(None, (f"{short(fields['peer_id'])} → {what}", _outcome(fields), duration, block)))


def _outcome(fields: Mapping[str, Any]) -> str:
    if fields["ok"]:
        return "ok"
    if fields["error_code"] is not None:
        return f"error {fields['error_code']}"
    word = fields["type"] if fields["type"] != "request" else fields["decision"]
    return f"{word} ({fields['reason']})" if fields["reason"] else str(word)


def _transfer(session: Session, fields: Mapping[str, Any]) -> str:
    if fields["state"] in PASSING:
        return ""
    who = session.shown(fields["peer_id"])
    between = f"{who} → me" if fields["direction"] == "in" else f"me → {who}"
    words = (between, f"file {cut(fields['name'], NAME_CHARACTERS)}", size_text(fields["total"]), fields["state"])
    return "  ".join(filter(None, (*words, fields["code"], fields["path"])))


def _ticket(key: bytes, addrs: list[str]) -> str:
    from talos.addr import parse, split_peer

    return names.ticket(key, [split_peer(parse(addr))[0] for addr in addrs])
