"""A chain as plain files that others' tools read (C2SP tlog-tiles), and checking such a directory offline.

    checkpoint               the newest signed one                  headers.bin      232 B header ‖ 64 B signature each
    tile/entries/<N>[.p/W]   bundles of 256 entries, u16 length ‖ entry each; <N> as x001/x234/067
    sealed/<height>          the blobs of a block: u32 number ‖ u32 length ‖ blob each       with `sealed` only
    manifest.json            params, verifier keys, sizes, and the SHA-256 of every other file

Written aside and renamed, so that it is there as a whole or not at all.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from talos.chain.block import HEADER_BYTES, SIGNED_HEADER_BYTES, Block, Item
from talos.chain.checkpoint import Checkpoint, open_checkpoint, verifiers_of
from talos.chain.entry import inspect, leaf_hash
from talos.chain.genesis import Params
from talos.chain.merkle import TILE_WIDTH, Frontier, merkle_root
from talos.chain.validation import Trail
from talos.chain.verifying import Bad, Verification
from talos.errors import BlockRejected, ChainError, ProofInvalid
from talos.identity import private_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from talos.chain.records import ChainReader

__all__ = ["MANIFEST_NAME", "read_blocks", "verify_export", "write_export"]

MANIFEST_NAME = "manifest.json"
CHECKPOINT_NAME = "checkpoint"
HEADERS_NAME = "headers.bin"
FORMAT = "talos/chain-export/v1"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


def write_export(reader: ChainReader, directory: Path, *, sealed: bool = False) -> dict[str, object]:
    """Writes the whole chain to `directory`, which must not be there or be empty; gives the manifest.

    FileExistsError. ProofInvalid: parts of it were pruned, or no checkpoint can be had.
    """
    if directory.exists() and any(directory.iterdir()):
        raise FileExistsError(directory)
    scratch = directory.with_name(f".{directory.name}.{secrets.token_hex(8)}")
    scratch.mkdir(mode=0o700)
    try:
        manifest = _Export(reader, scratch).write(sealed=sealed)
        if directory.exists():
            directory.rmdir()
        scratch.rename(directory)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise
    private_file.sync_directory(directory.parent)
    return manifest


class _Export:
    """One run: files as they are written, and their hashes."""

    def __init__(self, reader: ChainReader, directory: Path) -> None:
        self._reader = reader
        self._directory = directory
        self._hashes: dict[str, str] = {}

    def write(self, *, sealed: bool) -> dict[str, object]:
        reading, params = self._reader.reading, self._reader.params
        if reading.number("min_height"):
            raise ProofInvalid("parts of the chain were pruned; what is left is exported by archives and replicas")
        tip = reading.tip()
        assert tip is not None
        checkpoint = self._checkpoint()
        headers, bundle, number = [], [], 0
        for height in range(tip.header.height + 1):
            stored = reading.header_at(height)
            if stored is None:
                raise reading.corrupt("header", height, "it is missing")
            headers.append(stored.raw + stored.sig)
            items = reading.items_of(stored)
            for item in items:
                bundle.append(len(item.entry).to_bytes(2, "big") + item.entry)
                if len(bundle) == TILE_WIDTH:
                    self._put(f"tile/entries/{tile_path(number)}", b"".join(bundle))
                    bundle, number = [], number + 1
            if sealed and any(item.sealed for item in items):
                self._put(f"sealed/{height}", _blobs(items))
        if bundle:
            self._put(f"tile/entries/{tile_path(number)}.p/{len(bundle)}", b"".join(bundle))
        self._put(HEADERS_NAME, b"".join(headers))
        self._put(CHECKPOINT_NAME, checkpoint)
        manifest: dict[str, object] = {
            "format": FORMAT,
            "chain_id": params.chain_id.hex(),
            "origin": params.origin,
            "params": params.encode().hex(),
            "vkeys": [verifier.vkey for verifier in verifiers_of(params)],
            "blocks": tip.header.height + 1,
            "size": tip.header.log_size,
            "root": tip.header.log_root.hex(),
            "sealed": sealed,
            "files": self._hashes,
        }
        self._put(MANIFEST_NAME, (json.dumps(manifest, indent=1) + "\n").encode())
        return manifest

    def _checkpoint(self) -> bytes:
        """Of the tip where we can sign one, else the newest that there is."""
        reading, params, key = self._reader.reading, self._reader.params, self._reader.key
        tip = reading.tip()
        assert tip is not None
        if key is not None:
            return Checkpoint(params.origin, tip.header.log_size, tip.header.log_root).sign(key)
        note = reading.checkpoint()
        if note is None:
            raise ProofInvalid("the chain has no checkpoint yet")
        return note

    def _put(self, name: str, data: bytes) -> None:
        path = self._directory / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if name != MANIFEST_NAME:
            self._hashes[name] = sha256(data).hexdigest()


def tile_path(n: int) -> str:
    """C2SP tlog-tiles: `x001/x234/067` for 1234067."""
    text = f"{n % 1000:03d}"
    while n := n // 1000:
        text = f"x{n % 1000:03d}/{text}"
    return text


def verify_export(directory: Path) -> Verification:
    """Checks an export with nothing but itself: files, headers, entries, tree, checkpoint. The first fault is told."""
    checked = 0
    height = -1
    try:
        manifest = _manifest(directory)
        params = Params.decode(bytes.fromhex(manifest["params"]))
        params.check_bindings()
        for name, digest in manifest["files"].items():
            if sha256(_inside(directory, name).read_bytes()).hexdigest() != digest:
                raise ProofInvalid(f"{name} is not the file that the manifest names")
        entries = _entries(directory)
        trail, frontier = Trail.empty(params), Frontier()
        for raw in _headers(directory):
            height += 1
            linked = trail.check(raw[:HEADER_BYTES], raw[HEADER_BYTES:], None)
            leaves = []
            for _ in range(linked.header.n_items):
                entry = next(entries)
                inspect(entry)
                leaves.append(leaf_hash(entry))
            if merkle_root(leaves) != linked.header.entries_root:
                raise ProofInvalid(f"block {height}: its entries are not those of the header")
            frontier.extend(leaves)
            if frontier.root() != linked.header.log_root:
                raise ProofInvalid(f"block {height}: the tree has another root")
            trail.advance(linked)
            checked = linked.header.log_size
        note = open_checkpoint((directory / CHECKPOINT_NAME).read_bytes(), verifiers_of(params))
        if (note.size, note.root) != (frontier.size, frontier.root()):
            raise ProofInvalid("the checkpoint is not of these entries")
    except (ChainError, OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        at = height if height >= 0 else None
        if isinstance(error, BlockRejected):
            at = error.height
        return Verification(
            checked=checked, blocks=max(height, 0), first_bad=Bad(at, checked, str(error) or "it is cut")
        )
    return Verification(checked=checked, blocks=height + 1)


def read_blocks(directory: Path) -> Iterator[Block]:
    """The blocks of an export, unchecked, for who checks and takes them. ProofInvalid for what is none."""
    entries = _entries(directory)
    for height, raw in enumerate(_headers(directory)):
        header = raw[:HEADER_BYTES]
        block = Block(header, raw[HEADER_BYTES:], ())
        blobs = _read_blobs(directory, height)
        items = []
        for number in range(block.header.n_items):
            try:
                entry = next(entries)
            except StopIteration:
                raise ProofInvalid(f"block {height}: its entries are missing") from None
            blob = blobs.get(number, b"")
            items.append(Item(entry, blob, len(blob)))
        yield Block(header, raw[HEADER_BYTES:], tuple(items))


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST_NAME
    if path.stat().st_size > MAX_MANIFEST_BYTES:
        raise ProofInvalid(f"{path} is too long")
    found = json.loads(path.read_bytes())
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ProofInvalid(f"{path} is no manifest of an export")
    return found


def _inside(directory: Path, name: str) -> Path:
    if name.startswith("/") or ".." in name.split("/"):
        raise ProofInvalid(f"{name!r} is outside of the export")
    return directory / name


def _headers(directory: Path) -> Iterator[bytes]:
    with (directory / HEADERS_NAME).open("rb") as file:
        while raw := file.read(SIGNED_HEADER_BYTES):
            if len(raw) != SIGNED_HEADER_BYTES:
                raise ProofInvalid("the headers are cut short")
            yield raw


def _entries(directory: Path) -> Iterator[bytes]:
    base, n = directory / "tile" / "entries", 0
    while (path := base / tile_path(n)).is_file():
        yield from _bundle(path)
        n += 1
    partial = path.with_name(path.name + ".p")
    if partial.is_dir():
        widths = sorted(int(found.name) for found in partial.iterdir())
        yield from _bundle(partial / str(widths[-1]))


def _bundle(path: Path) -> Iterator[bytes]:
    data, at = path.read_bytes(), 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 2], "big")
        if at + 2 + size > len(data):
            raise ProofInvalid(f"{path} is cut short")
        yield data[at + 2 : at + 2 + size]
        at += 2 + size


def _blobs(items: Any) -> bytes:
    return b"".join(
        number.to_bytes(4, "big") + len(item.sealed).to_bytes(4, "big") + item.sealed
        for number, item in enumerate(items)
        if item.sealed
    )


def _read_blobs(directory: Path, height: int) -> dict[int, bytes]:
    try:
        data = (directory / "sealed" / str(height)).read_bytes()
    except FileNotFoundError:
        return {}
    found, at = {}, 0
    while at + 8 <= len(data):
        size = int.from_bytes(data[at + 4 : at + 8], "big")
        found[int.from_bytes(data[at : at + 4], "big")] = data[at + 8 : at + 8 + size]
        at += 8 + size
    return found
