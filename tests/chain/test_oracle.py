"""Go's transparency log opens our checkpoint, and agrees with every root and proof of a log of 70,000 entries."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest

from talos.chain.block import Item
from talos.chain.checkpoint import Checkpoint
from talos.chain.export import write_export
from talos.chain.merkle import Tiles
from talos.chain.pow import solve
from talos.chain.proof import LogProof
from talos.chain.records import ChainReader
from talos.chain.store import Store
from tests.chain.oracle import OracleAbsent, check_export
from tests.unit.chain.memory_chain import KEYS, Builder, make_entry, make_params

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.interop

ENTRIES = 70_000
PER_BLOCK = 4_000


@pytest.fixture(scope="module")
def builder() -> Builder:
    """A feed of 70,001 entries, its CONFIG included."""
    made = Builder(make_params())
    for first in range(1, ENTRIES + 1, PER_BLOCK):
        last = min(first + PER_BLOCK, ENTRIES + 1)
        draft = made.draft([Item(make_entry(number)) for number in range(first, last)])
        made._take(draft.finish(solve(draft.header.encode()), KEYS[0]))
    return made


@pytest.fixture(scope="module")
def export(builder: Builder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The feed as `talos chain export` writes it."""
    home = tmp_path_factory.mktemp("oracle")
    store = Store(home / "chain")
    header = builder.blocks[-1].header
    note = Checkpoint(builder.params.origin, header.log_size, header.log_root).sign(KEYS[0])
    store.persist(builder.blocks, {}, (header.log_size, note))
    store.close()
    with ChainReader(home / "chain") as reader:
        write_export(reader, home / "export")
    return home / "export"


def b64(path: list[bytes]) -> list[str]:
    return [base64.b64encode(found).decode() for found in path]


def asked(directory: Path, claims: dict[str, Any]) -> dict[str, int]:
    try:
        return check_export(directory, claims)
    except OracleAbsent as absent:
        pytest.skip(str(absent))


def tiles_of(builder: Builder) -> Tiles:
    from tests.unit.chain.test_merkle import kept

    return Tiles(kept([leaf for block in builder.blocks for leaf in block.leaves]))


def test_an_oracle_agrees_with_all_of_it(builder: Builder, export: Path, tmp_path: Path) -> None:
    size, tiles = builder.blocks[-1].header.log_size, tiles_of(builder)
    assert size == ENTRIES + 1
    sizes = [1, 2, 3, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000, size]
    records = [
        {"index": index, "size": tree, "path": b64(tiles.inclusion(index, tree))}
        for tree in sizes
        for index in {0, 1, 255, 256, tree // 2, tree - 1}
        if index < tree
    ]
    trees = [
        {"old": old, "new": new, "path": b64(tiles.consistency(old, new))}
        for new in sizes
        for old in sizes
        if old < new  # equal sizes need no proof, and Go makes none
    ]
    entries = [item.entry for block in builder.blocks for item in block.items]
    files = []
    for index in (0, 12_345, size - 1):
        proof = LogProof(
            index, tuple(tiles.inclusion(index, size)), (export / "checkpoint").read_bytes(), entries[index]
        )
        name = tmp_path / f"{index}.tlog-proof"
        name.write_bytes(proof.encode())
        files.append(str(name))
    counted = asked(export, {"records": records, "trees": trees, "files": files})
    assert counted["entries"] == size
    assert counted["tiles"] > 0
    assert (counted["records"], counted["trees"], counted["files"]) == (len(records), len(trees), 3)


@pytest.mark.parametrize("what", ["entry", "checkpoint", "proof"])
def test_an_oracle_finds_what_is_wrong(what: str, builder: Builder, export: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "export"
    shutil.copytree(export, copy)
    claims: dict[str, Any] = {}
    if what == "proof":
        path = b64(tiles_of(builder).inclusion(5, 300))
        claims = {"records": [{"index": 4, "size": 300, "path": path}]}
    else:
        name = copy / ("checkpoint" if what == "checkpoint" else "tile/entries/100")
        data = bytearray(name.read_bytes())
        data[len(data) // 2] ^= 1
        name.write_bytes(data)
    with pytest.raises(AssertionError, match="oracle: "):
        asked(copy, claims)
