"""`talos chain` and `talos history` over a home, in words and in JSON that its schemas know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio
from jsonschema import Draft202012Validator

from talos.abc import AuditEntry, Direction, EntryKind
from talos.chain import ChainConfig, ChainKeys, open_chain
from talos.cli import calls, modes
from talos.cli.main import main
from talos.identity.home import Home
from talos.identity.keys import PrivateKey
from talos.identity.peer_id import PeerId
from talos.identity.wallet import Wallet, create

if TYPE_CHECKING:
    from collections.abc import Callable

    Talos = Callable[..., int]

SCHEMAS = Path(calls.__file__).parent / "schema"
PEER = PeerId.from_key(PrivateKey.from_seed(b"\x05" * 32).public_key)
ENTRIES = 300


def message(number: int, me: bytes, *, sent: bool) -> AuditEntry:
    other = PEER.to_bytes()
    return AuditEntry(
        kind=EntryKind.SENT if sent else EntryKind.RECEIVED,
        msg_id=number.to_bytes(16, "big"),
        direction=Direction.OUT if sent else Direction.IN,
        counterparty=other,
        time_ms=1_700_000_000_000 + number,
        sender=me if sent else other,
        recipient=other if sent else me,
        type=1,
        size=number,
        sealed=b"ciphertext %d" % number,
    )


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    home.prepare()
    wallet = Wallet.new("Alice", now_ms=1)
    create(home, wallet, None)
    me = wallet.peer_id.to_bytes()

    async def write() -> None:
        async with open_chain(None, ChainConfig(), ChainKeys.of(wallet), directory=home.chain) as chain:
            await chain.record_many([message(number, me, sent=number % 2 == 0) for number in range(ENTRIES)])

    trio.run(write)
    return home


@pytest.fixture
def talos(home: Home) -> Talos:
    return lambda *words: main(["--data-dir", str(home.path), *words])


@pytest.fixture
def rows(talos: Talos, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[dict[str, Any]]]:
    """What a command prints as JSON, each line by its schema."""

    def run(*words: str) -> list[dict[str, Any]]:
        assert talos(*words, "--json") == 0
        found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        for row in found:
            Draft202012Validator(json.loads((SCHEMAS / f"{row['kind']}.json").read_text())).validate(row)
        return found

    return run


def test_the_status_tells_what_may_be_wrong_only_where_it_is(talos: Talos, capsys: pytest.CaptureFixture[str]) -> None:
    assert talos("chain", "status") == 0
    facts = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert facts["mempool"].strip() == "0"
    assert "vkey" in facts
    assert not {"frozen", "failed"} & facts.keys()


def test_looking_at_a_chain(rows: Callable[..., list[dict[str, Any]]], talos: Talos) -> None:
    (status,) = rows("chain", "status")
    assert (status["log_size"], status["mempool"], status["frozen"]) == (ENTRIES + 1, 0, False)
    (block,) = rows("chain", "show")
    assert block["height"] == status["height"]
    assert block["entries"][-1]["size"] == ENTRIES - 1
    (again,) = rows("chain", "show", block["id"])
    assert again == block
    (entry,) = rows("chain", "show", "--entry", "8")
    (by_id,) = rows("chain", "show", (7).to_bytes(16, "big").hex())
    assert entry == by_id
    assert entry["index"] == 8
    assert talos("chain", "show", "99") == 1
    assert talos("chain", "show", "nonsense") == 2
    for words in (("status",), ("show",), ("show", "--entry", "3"), ("show", "1")):
        assert talos("chain", *words) == 0


def test_a_proof_convinces_a_stranger(
    rows: Callable[..., list[dict[str, Any]]], talos: Talos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a home; and with any byte changed it convinces nobody."""
    file = tmp_path / "p.tlog-proof"
    (written,) = rows("chain", "prove", "8", "-o", str(file), "--open", "--manifest")
    assert (written["index"], written["block"]) == (8, False)
    manifest, opening = (str(tmp_path / f"p.tlog-proof.{what}.json") for what in ("manifest", "opening"))
    owner = json.loads((tmp_path / "home" / "identity.json").read_text())
    stranger = ["--data-dir", str(tmp_path / "nowhere"), "chain", "verify-proof", str(file), "--signer", manifest]
    assert main([*stranger, "--opening", opening, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads((SCHEMAS / "proof_check.json").read_text())).validate(found)
    assert (found["index"], found["bytes"], found["sender"]) == (8, 7, str(PEER))
    assert found["owner"] in json.dumps(owner) or found["owner"].startswith("12D3")
    assert main([*stranger, "--signer", found["owner"]]) == 0
    assert main([*stranger, "--signer", str(PEER)]) == 8
    vkey = json.loads(Path(manifest).read_text())["vkeys"][0]
    assert main(["chain", "verify-proof", str(file), "--signer", vkey]) == 0
    assert "key owner not checked" in capsys.readouterr().out
    assert main(["chain", "verify-proof", str(file), "--signer", str(PEER)]) == 2
    assert talos("chain", "verify", str(file)) == 0
    data = file.read_bytes()
    for place in range(30, len(data), 37):
        file.write_bytes(data[:place] + bytes((data[place] ^ 1,)) + data[place + 1 :])
        assert main(stranger) == 8, place
    assert talos("chain", "prove", "8", "-o", str(file)) == 9
    assert talos("chain", "prove", "4000") == 1
    assert talos("chain", "prove", "8", "--open") == 2


def test_a_proof_within_a_block(talos: Talos, tmp_path: Path) -> None:
    file = tmp_path / "block.json"
    assert talos("chain", "prove", "8", "--block", "--manifest", "-o", str(file)) == 0
    assert main(["chain", "verify-proof", str(file), "--signer", f"{file}.manifest.json"]) == 0
    assert talos("chain", "prove", "9") == 0


def test_verify_export_prune_and_recover(
    rows: Callable[..., list[dict[str, Any]]],
    talos: Talos,
    home: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(modes, "PATIENCE_SECONDS", 0.1)
    assert [row["ok"] for row in rows("chain", "verify", "--full", "--receipts")] == [True]
    (exported,) = rows("chain", "export", str(tmp_path / "export"), "--sealed")
    assert exported["size"] == ENTRIES + 1
    assert talos("chain", "export", str(tmp_path / "export")) == 9
    assert rows("chain", "verify", str(tmp_path / "export"))[0]["checked"] == ENTRIES + 1
    assert talos("chain", "prune") == 5
    assert rows("chain", "prune", "--older", "0", "--dry-run")[0]["first_height"] is None
    (recovered,) = rows("chain", "recover")
    assert (recovered["reached"], recovered["log_size"]) == (True, ENTRIES + 1)
    (recovered,) = rows("chain", "recover", "--from", str(tmp_path / "export"))
    assert recovered["reached"]
    assert rows("chain", "status")[0]["log_size"] == ENTRIES + 1
    with home.lock():
        assert talos("chain", "recover") == 9
        assert talos("chain", "prune", "--older", "0") == 9


def test_history_lists_who_and_when(
    rows: Callable[..., list[dict[str, Any]]], talos: Talos, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows("history", str(PEER))
    assert len(found) == ENTRIES
    assert {(row["type"], row["direction"]) for row in found} == {("sent", "out"), ("received", "in")}
    assert rows("history", "--mcp") == []
    assert rows("history", "--files", "--since", "1d") == []
    assert talos("history", "--messages", "--export", str(tmp_path / "all.jsonl")) == 0
    assert len((tmp_path / "all.jsonl").read_text().splitlines()) == ENTRIES
    assert talos("history", "--export", str(tmp_path / "all.jsonl")) == 9
    capsys.readouterr()
    assert talos("history") == 0
    assert f"{ENTRIES - 1} B" in capsys.readouterr().out


def test_a_home_without_a_chain(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home = Home(tmp_path / "other")
    home.prepare()
    create(home, Wallet.new("Bob", now_ms=1), None)
    assert main(["--data-dir", str(home.path), "chain", "status"]) == 1
    assert "talos up" in capsys.readouterr().err
    assert main(["--data-dir", str(home.path), "chain", "verify"]) == 0
    assert main(["--data-dir", str(home.path), "history"]) == 0
