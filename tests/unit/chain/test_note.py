"""Signed notes and checkpoints: foreign ones verify, ours are theirs, and no trap is walked into."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from talos.chain.checkpoint import Checkpoint, open_checkpoint, opened_by, verifiers_of
from talos.chain.genesis import Mode
from talos.chain.note import MAX_NOTE_BYTES, MAX_SIGNATURES, Verifier, open_note, sign_note
from talos.errors import LocalProtocolError, ProofInvalid
from talos.identity.keys import PrivateKey
from tests.unit.chain.memory_chain import KEYS, make_params

NOTES = json.loads((Path(__file__).parents[2] / "vectors" / "chain" / "signed_notes.json").read_text())["notes"]
ALICE, BOB = Verifier("alice", KEYS[0].public_key.data), Verifier("bob", KEYS[1].public_key.data)
TEXT = "some text\n"
NOTE = sign_note(TEXT, [("alice", KEYS[0])])


@pytest.mark.parametrize("case", NOTES, ids=lambda case: case["name"])
def test_foreign_notes_verify(case: dict[str, Any]) -> None:
    verifier = Verifier.parse(case["vkey"])
    assert verifier.vkey == case["vkey"]
    opened = open_note(case["note"].encode(), [verifier])
    assert opened.text == case["note"].partition("\n\n")[0] + "\n"
    assert opened.signers == (verifier,)
    with pytest.raises(ProofInvalid, match="no known key"):
        open_note(case["note"].encode(), [ALICE])


def test_signing_again_gives_the_same_bytes() -> None:
    case = NOTES[1]
    name, _, encoded = case["skey_public_test_key"].removeprefix("PRIVATE+KEY+").split("+", 2)
    key = PrivateKey.from_seed(base64.b64decode(encoded)[1:])
    assert sign_note(case["note"].partition("\n\n")[0] + "\n", [(name, key)]) == case["note"].encode()


def test_the_checkpoint_of_a_public_log_is_read() -> None:
    case = NOTES[2]
    with pytest.raises(ProofInvalid, match="not signed by a key of that name"):
        open_checkpoint(case["note"].encode(), [Verifier.parse(case["vkey"])])
    checkpoint = Checkpoint.parse(case["note"].partition("\n\n")[0] + "\n")
    assert (checkpoint.origin, checkpoint.size) == ("go.sum database tree", 35225469)


def test_the_last_empty_line_parts_text_from_signatures() -> None:
    text = "a note in a note\n\n— alice AAAAAAA=\n\nand more\n"
    assert open_note(sign_note(text, [("alice", KEYS[0])]), [ALICE]).text == text


def test_unknown_lines_are_passed_over_and_repeated_ones_count_once() -> None:
    both = sign_note(TEXT, [("bob", KEYS[1]), ("alice", KEYS[0])])
    assert open_note(both, [ALICE]).signers == (ALICE,)
    assert open_note(both, [ALICE, BOB]).signers == (BOB, ALICE)
    line = NOTE.partition(b"\n\n")[2]
    assert open_note(NOTE + line + line, [ALICE]).signers == (ALICE,)


def test_a_wrong_signature_of_a_known_key_refuses_the_note() -> None:
    wrong = sign_note("other text\n", [("bob", KEYS[1])]).partition(b"\n\n")[2]
    assert open_note(NOTE + wrong, [ALICE]).signers == (ALICE,)
    with pytest.raises(ProofInvalid, match="bob does not hold"):
        open_note(NOTE + wrong, [ALICE, BOB])


def test_another_key_of_the_same_name_is_another_signer() -> None:
    impostor = Verifier("alice", KEYS[2].public_key.data)
    with pytest.raises(ProofInvalid, match="no known key"):
        open_note(NOTE, [impostor])
    assert open_note(NOTE, [impostor, ALICE]).signers == (ALICE,)


def test_limits() -> None:
    line = sign_note(TEXT, [("someone", KEYS[3])]).partition(b"\n\n")[2]
    assert open_note(NOTE + line * 15, [ALICE]).text == TEXT
    assert open_note(NOTE + line * (MAX_SIGNATURES - 1), [ALICE]).text == TEXT
    with pytest.raises(ProofInvalid, match="32 signatures"):
        open_note(NOTE + line * MAX_SIGNATURES, [ALICE])
    longest = sign_note("x" * (MAX_NOTE_BYTES - len(NOTE) + len(TEXT) - 1) + "\n", [("alice", KEYS[0])])
    assert len(longest) == MAX_NOTE_BYTES
    assert open_note(longest, [ALICE]).signers == (ALICE,)
    with pytest.raises(ProofInvalid, match="65536"):
        open_note(b"x" + longest, [ALICE])
    with pytest.raises(ProofInvalid, match="is over 20"):
        open_note(NOTE, [ALICE], max_bytes=20)


SIGNED = NOTE.partition(b"\n\n")[2].decode().strip()
ENCODED = SIGNED.rpartition(" ")[2]


@pytest.mark.parametrize(
    "note",
    [
        b"",
        b"\n",
        b"text\n",
        b"text\n\n",
        NOTE[:-1],
        NOTE.replace(b"\n\n", b"\n"),
        NOTE.replace(b"some", b"so\tme"),
        NOTE.replace(b"some", b"so\rme"),
        NOTE.replace(b"some", b"so\0me"),
        NOTE.replace(b"some", b"so\xffme"),
        NOTE.replace("— ".encode(), b"- "),
        NOTE.replace("— ".encode(), "—".encode()),
        NOTE.replace(b"alice ", b""),
        NOTE.replace(b"alice ", b"al+ice "),
        NOTE.replace(b"alice ", "al\u00a0ice ".encode()),
        NOTE.replace(b"alice ", b"alice  "),
        NOTE.replace(b"=\n", b"\n"),
        NOTE.replace(ENCODED.encode(), b"!" + ENCODED.encode()),
        NOTE.replace(ENCODED.encode(), base64.b64encode(b"abcd")),
        NOTE.replace(ENCODED.encode(), ENCODED.replace("A=", "B=").encode()) if "A=" in ENCODED else b"",
        f"{TEXT}\n{SIGNED} more\n".encode(),
    ],
)
def test_malformed_notes(note: bytes) -> None:
    with pytest.raises(ProofInvalid):
        open_note(note, [ALICE])


def test_base64_with_spare_bits_is_refused() -> None:
    data = base64.b64decode(ENCODED)[:-1] + b"\0"  # 68 bytes: one sign of padding, two spare bits
    strict = base64.b64encode(data).decode()
    loose = strict[:-2] + chr(ord(strict[-2]) + 1) + "="
    assert base64.b64decode(loose) == data
    with pytest.raises(ProofInvalid, match="loose"):
        open_note(NOTE.replace(ENCODED.encode(), loose.encode()), [ALICE])


def vkey_of(data: bytes) -> str:
    return f"alice+{ALICE.key_id.hex()}+{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "vkey",
    [
        "",
        "alice",
        ALICE.vkey.replace("alice", "bob"),
        ALICE.vkey.replace("+" + ALICE.key_id.hex(), "+00000000"),
        ALICE.vkey.upper(),
        vkey_of(b"\2" + ALICE.public),
        vkey_of(b"\1" + bytes(32)),
        vkey_of(b"\1" + bytes(31)),
        ALICE.vkey.replace("alice", ""),
        ALICE.vkey.replace("alice", "a b"),
    ],
)
def test_malformed_vkeys(vkey: str) -> None:
    with pytest.raises(ProofInvalid):
        Verifier.parse(vkey)


@pytest.mark.parametrize("text", ["no newline", "tab\t\n", "\ud800\n"])
def test_texts_that_cannot_be_signed(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        sign_note(text, [("alice", KEYS[0])])


def test_names_that_cannot_sign() -> None:
    with pytest.raises(LocalProtocolError):
        sign_note(TEXT, [("a b", KEYS[0])])


# -- Checkpoints ----------------------------------------------------------------------------------------


def test_a_checkpoint_is_signed_under_its_origin() -> None:
    params = make_params(Mode.SHARED, 2)
    checkpoint = Checkpoint(params.origin, 7, b"\1" * 32)
    note = checkpoint.sign(KEYS[1])
    assert open_checkpoint(note, verifiers_of(params)) == checkpoint
    assert opened_by(note, verifiers_of(params))[1] == {KEYS[1].public_key.data}
    other = Verifier("someone", KEYS[1].public_key.data)
    forged = sign_note(checkpoint.text, [("someone", KEYS[1])])
    with pytest.raises(ProofInvalid, match="not signed by a key of that name"):
        open_checkpoint(forged, [*verifiers_of(params), other])


ROOT = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"origin\n1\n{ROOT}",
        f"\n1\n{ROOT}\n",
        f"origin\n1\n{ROOT}\nextension\n",
        f"origin\n01\n{ROOT}\n",
        f"origin\n-1\n{ROOT}\n",
        f"origin\n+1\n{ROOT}\n",
        f"origin\n1 \n{ROOT}\n",
        f"origin\n١\n{ROOT}\n",
        f"origin\n\n{ROOT}\n",
        f"origin\n{2**63}\n{ROOT}\n",
        f"origin\n{'9' * 5000}\n{ROOT}\n",
        f"origin\n1\n{base64.b64encode(bytes(31)).decode()}\n",
        "origin\n1\nroot\n",
    ],
)
def test_malformed_checkpoints(text: str) -> None:
    with pytest.raises(ProofInvalid):
        Checkpoint.parse(text)


def test_sizes_at_the_edges() -> None:
    for size in (0, 2**63 - 1):
        assert Checkpoint.parse(f"origin\n{size}\n{ROOT}\n").size == size
