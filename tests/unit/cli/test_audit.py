"""`talos audit` over logs that the tunnel's own entries fill."""

from __future__ import annotations

import base64
import json
import os
import sqlite3
import stat
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from jsonschema import Draft202012Validator

from talos.chain import ChainConfig, ChainKeys, ChainReader, open_chain, open_slot
from talos.chain.block import decode_items
from talos.chain.entry import Entry, meta_commit
from talos.cli import calls
from talos.cli.main import main
from talos.identity.home import Home
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.identity.wallet import Wallet, create
from talos.mcp.detail import Decision, MetaType
from talos.mcp.framing import inspect
from talos.mcp.transcript import Transcript, TranscriptEntries, Way, refusal_entry

if TYPE_CHECKING:
    from talos.abc import AuditEntry

SCHEMAS = Path(calls.__file__).parent / "schema"
PEER = PeerId.from_key(PrivateKey.from_seed(b"\x05" * 32).public_key)
NOW = 1_700_000_000_000


def request(number: int, tool: str, **arguments: object) -> bytes:
    params = {"name": tool, "arguments": arguments}
    return json.dumps({"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params}).encode()


def answer(number: int, **more: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, **(more or {"result": {}})}).encode()


@dataclass
class Recorded:
    """A home with one session lent to the peer, a refusal, and one session of its own."""

    home: Home
    wallet: Wallet

    def talos(self, *words: str) -> int:
        return main(["--data-dir", str(self.home.path), *words])


class Writer:
    """The entries of one session, as either side writes them."""

    def __init__(self, local: PeerId, *, connects: bool, start: int) -> None:
        self.entries = TranscriptEntries(
            Transcript(b"\x01" * 32, b"\x02" * 32, bytes((start % 251,)) * 16),
            local,
            PEER,
            connects=connects,
            server="files",
        )
        self.now = start

    def event(self, meta: MetaType, **fields: Any) -> AuditEntry:
        self.now += 1
        return self.entries.event(meta, salt=os.urandom(32), now_ms=self.now, **fields)

    def line(self, way: Way, line: bytes, **fields: Any) -> AuditEntry:
        self.now += 1
        seq = self.entries.transcript.seqs[way] + 1
        return self.entries.line(way, seq, line, inspect(line), now_ms=self.now, **fields)


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    home = Home(tmp_path / "home")
    home.prepare()
    wallet = Wallet.new("Alice", now_ms=NOW)
    create(home, wallet, None)
    keys = ChainKeys.of(wallet)
    lent = Writer(wallet.peer_id, connects=False, start=NOW)
    used = Writer(wallet.peer_id, connects=True, start=NOW + 1000)

    async def write() -> None:
        async with open_chain(None, ChainConfig(), keys, directory=home.chain) as log:
            await log.record(lent.event(MetaType.OPENED, server="files"))
            await log.record_many(
                [
                    lent.line(Way.UP, request(1, "read_file", path="a")),
                    lent.line(Way.UP, b'{"jsonrpc":"2.0","method":"notifications/progress"}'),
                    lent.line(Way.UP, request(2, "write_\x1b[31mfile")),
                    lent.line(Way.UP, request(3, "slow")),
                ]
            )
            await log.record_many(
                [
                    lent.line(Way.DOWN, answer(2, error={"code": 7}), answers=3, duration_ms=9, error_code=7),
                    lent.line(Way.DOWN, answer(1), answers=1, duration_ms=12),
                    lent.line(Way.DOWN, answer(99)),
                ]
            )
            await log.record(lent.event(MetaType.DROPPED, line=b"banner", reason="garbage"))
            await log.record(lent.event(MetaType.CLOSED, exit_status=1))
            refusal = refusal_entry(
                wallet.peer_id, PEER, session=os.urandom(16), salt=os.urandom(32), now_ms=lent.now + 1, reason="refused", count=3,
            )  # fmt: skip
            await log.record(refusal)
        async with open_slot(home.mcp_connect, "", config=ChainConfig(), keys=keys) as log:
            await log.record(used.event(MetaType.OPENED, server="calc"))
            await log.record_many(
                [
                    used.line(Way.UP, request(1, "add", a=1)),
                    used.line(
                        Way.DOWN, answer(1, error={"code": 4031}), answers=1, decision=Decision.ANSWERED, reason="tool"
                    ),
                ]
            )

    trio.run(write)
    return Recorded(home, wallet)


def checked(line: str) -> dict[str, Any]:
    """A JSON line against its schema."""
    found: dict[str, Any] = json.loads(line)
    Draft202012Validator(json.loads((SCHEMAS / f"{found['kind']}.json").read_text())).validate(found)
    return found


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [checked(line) for line in capsys.readouterr().out.splitlines()]


def test_each_request_stands_with_its_answer(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert recorded.talos("audit", "--json") == 0
    rows = lines(capsys)
    requests = [row for row in rows if row["type"] == "request"]
    told = ("log", "side", "server", "seq", "method", "tool", "decision", "reason", "duration_ms", "error_code", "ok")
    assert [tuple(row[name] for name in told) for row in requests] == [
        ("chain", "serve", "files", 1, "tools/call", "read_file", "forwarded", None, 12, None, True),
        ("chain", "serve", "files", 3, "tools/call", "write_\x1b[31mfile", "forwarded", None, 9, 7, False),
        ("chain", "serve", "files", 4, "tools/call", "slow", "forwarded", None, None, None, False),
        ("default-1", "connect", "calc", 1, "tools/call", "add", "answered", "tool", None, None, False),
    ]
    assert {row["peer_id"] for row in rows} == {str(PEER)}
    others = [(row["type"], row["reason"], row["count"], row["exit_status"]) for row in rows if row not in requests]
    assert sorted(others, key=str) == sorted([
        ("opened", None, None, None), ("notification", None, None, None), ("response", None, None, None),
        ("dropped", "garbage", None, None), ("closed", None, None, 1), ("refused", "refused", 3, None),
        ("opened", None, None, None),
    ], key=str)  # fmt: skip
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)


def test_people_read_lines(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert recorded.talos("audit") == 0
    shown = [line.split("  ", 1)[1] for line in capsys.readouterr().out.splitlines()]
    who = f"{str(PEER)[:12]}…{str(PEER)[-4:]}"
    assert shown == [
        f"{who} → files.read_file  ok  12 ms",
        f"{who} → files.write_\\x1b[31mfile  error 7  9 ms",
        f"{who} → files.slow  no answer",
        f"{who} → files  dropped garbage",
        f"{who} → refused  refused refused ×3",
        f"me → calc.add at {who}  answered (tool)",
    ]
    assert recorded.talos("audit", "-v") == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 11
    assert str(PEER) in out


@pytest.mark.parametrize(
    ("words", "tools"),
    [
        (["--tool", "read_*"], ["read_file"]),
        (["--tool", "?dd"], ["add"]),
        (["--tool", "[a-z]*"], []),
        (["--server", "calc", "--tool", "*"], ["add"]),
        (["--failed", "--tool", "*"], ["write_\x1b[31mfile", "slow", "add"]),
        (["--peer", str(PEER), "--tool", "add"], ["add"]),
        (["--peer", "12D3KooWJgUWt5wZCBtN6cyNqDDBTuN8SqnzX4LgHe8YAv6BugXZ"], []),
        (["--since", "2023-11-14T22:13:21+00:00", "--tool", "*"], ["add"]),
        (["--since", "1d"], []),
    ],
)
def test_what_is_asked_for(
    words: list[str], tools: list[str], recorded: Recorded, capsys: pytest.CaptureFixture[str]
) -> None:
    assert recorded.talos("audit", "--json", *words) == 0
    assert [row["tool"] for row in lines(capsys)] == tools


@pytest.mark.parametrize("since", ["yesterday", "12", "5y", "99999999999d"])
def test_a_time_that_is_none_is_wrong_usage(since: str, recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert recorded.talos("audit", "--since", since) == 2
    assert "is no time" in capsys.readouterr().err


def test_following_shows_what_comes(
    recorded: Recorded, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look at the logs is one `sleep`; the second writes, the third stops."""
    keys = ChainKeys.of(recorded.wallet)
    later = Writer(recorded.wallet.peer_id, connects=False, start=NOW + 5000)
    looks: list[float] = []

    async def write() -> None:
        async with open_chain(None, ChainConfig(), keys, directory=recorded.home.chain) as log:
            await log.record(later.line(Way.UP, request(1, "late_tool")))
            await log.record(later.line(Way.DOWN, answer(1), answers=1))

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            trio.run(write)
        if len(looks) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr("talos.cli.commands.audit.time.sleep", sleep)
    assert recorded.talos("audit", "-f", "--json", "--tool", "late_tool") == 130
    assert [row["tool"] for row in lines(capsys)] == ["late_tool"]


def damage(directory: Path) -> int:
    """Flips a byte of the last entry; its number in the log."""
    with closing(sqlite3.connect(directory / "chain.db", isolation_level=None)) as db:
        height, first, items = db.execute(
            "SELECT height, first_index, items FROM header JOIN body USING(height) ORDER BY height DESC LIMIT 1"
        ).fetchone()
        data = bytearray(items)
        data[-10] ^= 1
        db.execute("UPDATE body SET items=? WHERE height=?", (bytes(data), height))
        return int(first + len(decode_items(items)) - 1)


def test_verify_names_the_first_bad_record(recorded: Recorded, capsys: pytest.CaptureFixture[str]) -> None:
    assert recorded.talos("audit", "verify") == 0
    out = capsys.readouterr().out
    assert "chain  12 entries in 2 blocks in order" in out
    assert "default-1  4 entries in 2 blocks in order" in out
    assert recorded.talos("audit", "verify", "--json") == 0
    assert [(row["ok"], row["checked"], row["first_bad"]) for row in lines(capsys)] == [
        (True, 12, None),
        (True, 4, None),
    ]
    index = damage(recorded.home.chain)
    assert recorded.talos("audit", "verify") == 8
    assert f"block 1, entry {index}: " in capsys.readouterr().err
    assert recorded.talos("audit", "verify", str(recorded.home.chain), "--json") == 8
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["ok"], found["first_bad"]["index"]) == (False, index)
    assert json.loads(captured.err)["code"] == "verification_failed"
    assert recorded.talos("audit") == 8, "rows are read from checked records alone"


def test_verify_of_a_chain_that_is_none(recorded: Recorded, tmp_path: Path) -> None:
    assert recorded.talos("audit", "verify", str(tmp_path / "nothing")) == 1


def test_export_opens_each_entry(recorded: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "out.jsonl"
    assert recorded.talos("audit", "export", str(file)) == 0
    assert "16 entries" in capsys.readouterr().err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    for line in file.read_text().splitlines():
        row = checked(line)
        entry, meta = base64.b64decode(row["entry_b64"]), base64.b64decode(row["meta_b64"] or b"")
        assert sha256(b"\x00" + entry).hexdigest() == row["leaf"]
        if row["type"] == "config":
            continue
        assert meta_commit(bytes.fromhex(row["salt"]), meta) == Entry.decode(entry).meta_commit
    before = file.read_text()
    assert recorded.talos("audit", "export", str(file)) == 9
    assert file.read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.jsonl"]


def test_export_leaves_nothing_of_a_damaged_log(recorded: Recorded, tmp_path: Path) -> None:
    damage(recorded.home.chain)
    assert recorded.talos("audit", "export", str(tmp_path / "out.jsonl")) == 8
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["home"]


def test_a_home_without_logs_has_no_calls(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    create(home, Wallet.new("Bob", now_ms=NOW), None)
    assert main(["--data-dir", str(home.path), "audit"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["--data-dir", str(tmp_path / "nowhere"), "audit"]) == 5


def test_open_requests_are_bounded(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    from talos.cli.calls import CallReader

    monkeypatch.setattr(calls, "MAX_OPEN", 1)
    monkeypatch.setattr(calls, "MAX_SESSIONS", 1)
    reader = CallReader("chain", "serve", recorded.wallet.peer_id)
    with ChainReader(recorded.home.chain, ChainKeys.of(recorded.wallet)) as chain:
        early = [row for record in chain.records() for row in reader.receive(record)]
    assert next(row.tool for row in early if row.type == "request") == "read_file"
    assert len(early) == 9, "all but the answers that found their request"


def test_times_beyond_the_calendar_are_numbers() -> None:
    assert calls.rfc3339(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert calls.rfc3339(1 << 63) == str(1 << 63)
