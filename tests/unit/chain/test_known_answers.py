"""Our own formats, byte for byte, and signatures that a tool which is not ours verifies.

The file is what this module makes of the seeds in it; another implementation reads it without this one.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from talos.chain.block import Block, Item, body_hash, decode_items, encode_items
from talos.chain.checkpoint import Checkpoint, verifiers_of
from talos.chain.entry import Entry, Kind, commit, receipt_hash, salt
from talos.chain.evidence import Evidence, Statements
from talos.chain.genesis import Params
from talos.chain.merkle import leaf_path
from talos.chain.note import Verifier
from talos.chain.pow import solve
from talos.chain.proof import BlockProof, LogProof, Opening
from talos.chain.receipt import Receipt, sign_receipt
from talos.chain.validation import Walker
from tests.unit.chain.memory_chain import CREATED_MS, IDENTITY, KEYS, Builder, genesis, make_params
from tests.unit.chain.test_entry import CALL, ME, MSG_ID, OTHER, PEER, SENT

if TYPE_CHECKING:
    from talos.chain.block import Checked

FILE = Path(__file__).parents[2] / "vectors" / "chain" / "talos_chain.json"
K_PRIV = b"\x03" * 32


def a_block(builder: Builder, time_ms: int, *items: Item) -> Checked:
    draft = builder.draft(items, time_ms=time_ms)
    block = draft.finish(solve(draft.header.encode()), KEYS[0])
    builder._take(block)
    return block


def block_fields(block: Checked) -> dict[str, Any]:
    return {
        "header": block.raw.hex(),
        "sig": block.sig.hex(),
        "block_id": block.block_id.hex(),
        "nonce": block.header.nonce,
        "body_hash": body_hash(block.items).hex(),
        "items": encode_items(block.items).hex(),
        "leaves": [leaf.hex() for leaf in block.leaves],
        "keys": [key.hex() for key in block.keys],
        "entries_root": block.header.entries_root.hex(),
        "log_root": block.header.log_root.hex(),
        "log_size": block.header.log_size,
        "total_work": block.total_work,
    }


def made() -> dict[str, Any]:
    params = make_params()
    builder = Builder(params, genesis(params))
    sent, call = commit(SENT, K_PRIV), commit(CALL, K_PRIV)
    first = a_block(builder, CREATED_MS + 2000, Item(sent.entry, SENT.sealed))
    fork = builder.fork(1)
    second = a_block(builder, CREATED_MS + 3000, Item(call.entry))
    other = a_block(fork, CREATED_MS + 4000, Item(call.entry))
    leaves = [leaf for block in builder.blocks for leaf in block.leaves]
    checkpoint = Checkpoint(params.origin, 3, second.header.log_root).sign(KEYS[0])
    false = Checkpoint(params.origin, 3, bytes(32)).sign(KEYS[0])
    receipt = sign_receipt(
        Receipt(
            msg_id=MSG_ID, sealed_hash=sent.sealed_hash, sender=ME, receiver=OTHER, origin=params.origin.encode(),
            log_size_hint=9, received_ms=CREATED_MS + 5000, seen_size=3, seen_root=second.header.log_root,
        ),
        PEER,
    )  # fmt: skip
    return {
        "provenance": {
            "source": "Talos's own",
            "form": "integers big-endian, bytes in hex, files as text or hex; docs/protocols/chain.md says what they are",
        },
        "seeds": {
            "audit": (b"\1" * 32).hex(), "identity": (b"\2" * 32).hex(), "peer": (b"\5" * 32).hex(),
            "k_priv": K_PRIV.hex(), "random": (b"\4" * 16).hex(), "created_ms": CREATED_MS,
        },
        "params": {"bytes": params.encode().hex(), "chain_id": params.chain_id.hex(), "origin": params.origin},
        "vkey": Verifier(params.origin, KEYS[0].public_key.data).vkey,
        "sent": {
            "entry": sent.entry.hex(), "meta": sent.meta.hex(), "salt": salt(K_PRIV, 1, sent.meta).hex(),
            "party": sent.party.hex(), "sealed": SENT.sealed.hex(), "sealed_hash": sent.sealed_hash.hex(),
            "leaf": sent.leaf.hex(), "key": sent.key.hex(),
        },
        "entries": {
            "MCP_CALL": call.entry.hex(),
            "PRUNE_NOTICE": Entry(Kind.PRUNE_NOTICE, CREATED_MS, ((256).to_bytes(8, "big"), b"\6" * 32)).encode().hex(),
        },
        "blocks": [block_fields(block) for block in builder.blocks],
        "checkpoint": checkpoint.decode(),
        "log_proof": LogProof(1, tuple(leaf_path(leaves, 1)), checkpoint, sent.entry).encode().decode(),
        "block_proof": json.loads(
            BlockProof(sent.entry, 0, tuple(leaf_path(first.leaves, 0)), first.raw, first.sig).to_json()
        ),
        "opening": json.loads(Opening(salt(K_PRIV, 1, sent.meta), sent.meta, SENT.sealed).to_json()),
        "evidence": {
            "headers": Evidence(Statements.HEADERS, second.raw + second.sig, other.raw + other.sig).encode().hex(),
            "notes": Evidence(Statements.NOTES, checkpoint, false).encode().hex(),
            "header_and_note": Evidence(Statements.HEADER_AND_NOTE, second.raw + second.sig, false).encode().hex(),
        },
        "receipt": {"body": receipt.body.hex(), "sig": receipt.sig.hex(), "receipt_hash": receipt_hash(receipt).hex()},
    }  # fmt: skip


ANSWERS = json.loads(FILE.read_text())


def test_the_file_is_what_the_seeds_make() -> None:
    assert made() == ANSWERS


def test_the_file_is_verified_from_its_own_words_alone() -> None:
    params = Params.decode(bytes.fromhex(ANSWERS["params"]["bytes"]))
    assert params.origin == ANSWERS["params"]["origin"]
    walker = Walker(params)
    for fields in ANSWERS["blocks"]:
        items = tuple(decode_items(bytes.fromhex(fields["items"])))
        walker.feed(Block(bytes.fromhex(fields["header"]), bytes.fromhex(fields["sig"]), items))
    verifier = Verifier.parse(ANSWERS["vkey"])
    assert verifiers_of(params) == (verifier,)
    assert LogProof.decode(ANSWERS["log_proof"].encode()).verify([verifier]).size == 3
    proof = BlockProof.from_json(json.dumps(ANSWERS["block_proof"]))
    assert proof.verify({verifier.public}, chain_id=params.chain_id).height == 1
    meta = Opening.from_json(json.dumps(ANSWERS["opening"])).check(bytes.fromhex(ANSWERS["sent"]["entry"]))
    assert (meta.sender, meta.recipient, meta.size) == (ME, OTHER, 12)
    for evidence in ANSWERS["evidence"].values():
        assert "signed two" in Evidence.decode(bytes.fromhex(evidence)).verify(params)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not on PATH")
@pytest.mark.parametrize("what", ["header", "receipt", "binding", "checkpoint"])
def test_openssl_verifies_our_signatures(what: str, tmp_path: Path) -> None:
    params = make_params()
    first = ANSWERS["blocks"][1]
    text, _, line = ANSWERS["checkpoint"].rpartition("\n\n")
    key, signed, sig = {
        "header": (
            KEYS[0],
            b"talos/block-sig/v1\n" + bytes.fromhex(first["block_id"]),
            bytes.fromhex(first["sig"]),
        ),
        "receipt": (
            PEER,
            b"talos/receipt/v1\n" + bytes.fromhex(ANSWERS["receipt"]["body"]),
            bytes.fromhex(ANSWERS["receipt"]["sig"]),
        ),
        "binding": (
            IDENTITY,
            b"talos/audit-key/v1\n" + b"\4" * 16 + CREATED_MS.to_bytes(8, "big") + KEYS[0].public_key.data,
            params.authors[0].bind_sig,
        ),
        "checkpoint": (KEYS[0], f"{text}\n".encode(), base64.b64decode(line.split()[-1])[4:]),
    }[what]
    (tmp_path / "key").write_bytes(bytes.fromhex("302a300506032b6570032100") + key.public_key.data)
    (tmp_path / "sig").write_bytes(sig)
    (tmp_path / "data").write_bytes(signed)
    command = ["openssl", "pkeyutl", "-verify", "-pubin", "-keyform", "DER", "-inkey", "key", "-rawin"]
    command += ["-in", "data", "-sigfile", "sig"]
    good = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert good.returncode == 0, good.stderr
    (tmp_path / "data").write_bytes(signed + b"x")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True, check=False).returncode != 0
