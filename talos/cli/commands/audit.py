"""`talos audit`: who called what, and when; the same as a file; and whether the record is whole."""

from __future__ import annotations

import heapq
import os
import re
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from talos.cli import chains
from talos.cli.exits import Failure
from talos.cli.frame import HELP, Group, command, passphrase_options
from talos.cli.output import counted, short

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.chain.records import ChainReader
    from talos.cli.calls import Call, CallReader
    from talos.cli.session import Session

__all__ = ["POLL_SECONDS", "audit", "since_ms"]

POLL_SECONDS = 0.25
"""How often `-f` looks whether a log has grown: files of other processes wake nobody."""
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
SHOWN = {"request", "refused", "dropped", "policy"}
"""What is listed without `-v`; JSON has it all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which rows are wanted."""

    peer: str | None
    server: str | None
    tool: re.Pattern[str] | None
    since_ms: int
    failed: bool

    def wants(self, call: Call) -> bool:
        return (
            call.time_ms >= self.since_ms
            and (self.peer is None or call.peer_id == self.peer)
            and (self.server is None or call.server == self.server)
            and (self.tool is None or (call.tool is not None and self.tool.fullmatch(call.tool) is not None))
            and (call.failed or not self.failed)
        )


@dataclass(frozen=True, slots=True)
class Source:
    """One chain and what makes rows of its records."""

    reader: ChainReader
    calls: CallReader

    def rows(self) -> Iterator[Call]:
        """The rows that are complete by now."""
        for record in self.reader.records():
            yield from self.calls.receive(record)

    def all_rows(self) -> Iterator[Call]:
        yield from self.rows()
        yield from self.calls.rest()


@click.group(
    "audit",
    cls=Group,
    context_settings=HELP,
    invoke_without_command=True,
    help="Lists the calls in this home's logs: those it lent to others, and those of each mcp-connect.",
)
@click.option("--peer", metavar="WHO", help="only calls from or to this peer")
@click.option("--server", metavar="N", help="only calls of this server")
@click.option("--tool", metavar="GLOB", help="only calls of tools, prompts or resources that match")
@click.option("--since", metavar="T", help="only calls since then: 10m, 2h, 3d, or 2026-11-23T14:00")
@click.option("--failed", is_flag=True, help="only what was denied, refused, unanswered or answered with an error")
@click.option("-f", "--follow", is_flag=True, help="go on with what comes, until Ctrl-C")
@passphrase_options
@click.pass_context
def audit(context: click.Context, /, *, follow: bool, **filters: Any) -> None:
    if context.invoked_subcommand is not None:
        return
    session: Session = context.obj
    wanted = _filter(session, **filters)
    with ExitStack() as stack:
        sources = _sources(session, stack)
        rows = (source.rows() if follow else source.all_rows() for source in sources)
        for call in heapq.merge(*rows, key=lambda call: call.time_ms):
            _show(session, wanted, call)
        while follow:
            time.sleep(POLL_SECONDS)
            for source in sources:
                for call in source.rows():
                    _show(session, wanted, call)


@command("verify", help="Checks every record of this home, or of the chain in DIR, and names the first bad one.")
@click.argument("directory", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@passphrase_options
def verify(session: Session, directory: Path | None) -> None:
    from talos.chain.verifying import verify_reader

    chains.warn_of_old_logs(session)
    for place in [directory] if directory is not None else chains.directories(session):
        with chains.reading(session, place, opened=True) as reader:
            result = verify_reader(reader, full=True, receipts=True)
        chains.tell_verification(session, str(place), result)


@command("export", help="Writes all entries to FILE as JSON lines, each with what opens it, checked while written.")
@click.argument("file", type=click.Path(path_type=Path))
@passphrase_options
def export(session: Session, file: Path) -> None:
    if file.exists():
        raise Failure("file_exists", f"{file} exists already", hint="another name, or remove it first")
    chains.warn_of_old_logs(session)
    scratch = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    count = 0
    try:
        with open(scratch, "x", encoding="ascii", opener=chains.private) as output:
            for directory in chains.directories(session):
                with chains.reading(session, directory, opened=True) as reader:
                    k_priv = reader.boxes.k_priv if reader.boxes is not None else None
                    for record in reader.records():
                        output.write(chains.line_of(chains.entry_fields(record, directory.name, k_priv)))
                        output.write("\n")
                        count += 1
            output.flush()
            os.fsync(output.fileno())
        os.link(scratch, file)  # unlike a rename it never takes a file's place
    except FileExistsError:
        raise Failure("file_exists", f"{file} exists already", hint="another name, or remove it first") from None
    finally:
        scratch.unlink(missing_ok=True)
    session.out.note(f"{counted(count, 'entry')} in {file}")


audit.add_command(verify)
audit.add_command(export)


def _sources(session: Session, stack: ExitStack) -> list[Source]:
    from talos.chain.config import ChainKeys
    from talos.chain.records import ChainReader
    from talos.cli.calls import CallReader

    wallet = session.unlock()
    keys = ChainKeys.of(wallet)
    own = session.home.chain
    chains.warn_of_old_logs(session)
    return [
        Source(
            stack.enter_context(ChainReader(directory, keys)),
            CallReader(directory.name, "serve" if directory == own else "connect", wallet.peer_id),
        )
        for directory in chains.directories(session)
    ]


def _show(session: Session, wanted: Filter, call: Call) -> None:
    if not wanted.wants(call):
        return
    if session.json:
        session.out.emit("call", **call.fields())
    elif call.type in SHOWN or session.verbose:
        session.out.line("  ".join(_words(call, session)))


def _words(call: Call, session: Session) -> Iterator[str]:
    """`14:03:20  12D3…x2fA → files.read_file  ok  12 ms`, with dates and whole ids with `-v`."""
    moment = datetime.fromtimestamp(call.time_ms / 1000, UTC).astimezone()
    peer = call.peer_id if session.verbose else short(call.peer_id)
    yield moment.isoformat(sep=" ", timespec="milliseconds") if session.verbose else f"{moment:%H:%M:%S}"
    what = ".".join(word for word in (call.server, call.tool or call.method) if word) or call.type
    yield f"{peer} → {what}" if call.side == "serve" else f"me → {what} at {peer}"
    yield _outcome(call)
    if call.duration_ms is not None:
        yield f"{call.duration_ms} ms"


def _outcome(call: Call) -> str:
    if call.type != "request":
        return " ".join(word for word in (call.type, call.reason, f"×{call.count}" if call.count else None) if word)
    if call.decision not in {None, "forwarded"}:
        return f"{call.decision} ({call.reason})" if call.reason else str(call.decision)
    if call.error_code is not None:
        return f"error {call.error_code}"
    return "ok" if call.answered else "no answer"


def _filter(
    session: Session, *, peer: str | None, server: str | None, tool: str | None, since: str | None, failed: bool
) -> Filter:
    return Filter(
        peer=session.find(peer).peer_text if peer is not None else None,
        server=server,
        tool=_glob(tool) if tool is not None else None,
        since_ms=since_ms(since) if since is not None else 0,
        failed=failed,
    )


def _glob(text: str) -> re.Pattern[str]:
    """`*` any run, `?` one character: the globs of the policy."""
    parts = {"*": ".*", "?": "."}
    return re.compile("".join(parts.get(character) or re.escape(character) for character in text), re.DOTALL)


def since_ms(text: str) -> int:
    found = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if found is not None:
        return time.time_ns() // 1_000_000 - int(found[1]) * UNITS[found[2]] * 1000
    try:
        return int(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError, OSError):
        raise Failure("usage", f"{text!r} is no time", hint="10m, 2h, 3d, or 2026-11-23T14:00") from None
