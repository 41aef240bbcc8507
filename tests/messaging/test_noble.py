"""Our formats against a program that was written from docs/protocols on npm's @noble packages, both ways."""

from __future__ import annotations

import json
import secrets
import subprocess
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from interop.peers.build import ToolchainAbsent, command
from talos.errors import EnvelopeRejected, TransferFailed
from talos.identity.keys import PrivateKey
from talos.messaging.canonical import digest
from talos.messaging.content import Text
from talos.messaging.envelope import open_inner, open_outer, seal_message, sealed_hash, verify
from talos.messaging.files.chunk import ChunkCipher
from talos.messaging.files.config import FileConfig
from talos.messaging.files.manifest import FileEntry, Manifest, chunk_size
from talos.messaging.files.source import Source, hash_walk, walk
from talos.messaging.payload import ChunkInfo, Payload
from talos.security.noise.xx import KeyPair

if TYPE_CHECKING:
    from collections.abc import Iterator

Answer = dict[str, Any]

pytestmark = pytest.mark.interop

VECTORS = Path(__file__).parents[1] / "vectors" / "messaging"
KNOWN = json.loads((VECTORS / "known_answer.json").read_text())
FILE = json.loads((VECTORS / "file.json").read_text())
BOB = PrivateKey.from_seed(b"\x0b" * 32).public_key.data
SECRET = b"\x0c" * 32
ALICE = PrivateKey.from_seed(b"\x0a" * 32)
SEED = 7


class Refused(Exception):
    """What the other program does not take."""


class Noble:
    """The other program: a question a line."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, do: str, **given: object) -> Answer:
        """What it answers; Refused when it does not."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **given}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        if "refused" in answer:
            raise Refused(answer["refused"])
        return dict(answer["ok"])


@pytest.fixture(scope="module")
def noble() -> Iterator[Noble]:
    try:
        argv = command("noble").argv
    except ToolchainAbsent as absent:
        pytest.skip(f"absent: noble: {absent}")
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Noble(process)
        process.kill()


def draft(**changes: object) -> Payload:
    made = Payload(
        id=bytes.fromhex("00112233445546678899aabbccddeeff"),
        type=1,
        sender=ALICE.public_key.data,
        recipient=BOB,
        timestamp_ms=1_767_225_600_000,
        epoch=1_767_225_500_000,
        seq=3,
        prev=b"\x05" * 32,
        ttl_s=3600,
    )
    return replace(made, **changes)  # type: ignore[arg-type]


# -- messages


def test_the_known_answer_is_made_and_opened_there(noble: Noble) -> None:
    given = KNOWN["given"]
    made = noble.ask(
        "sealMessage",
        **{name: value for name, value in given.items() if name != "text"},
        **given["text"],
        recipient=KNOWN["recipient"],
        recipient_x25519=KNOWN["recipient_x25519"],
    )
    assert made["envelope"] == KNOWN["envelope"]
    assert (made["m"], made["digest"], made["payload"]) == (KNOWN["m"], KNOWN["digest"], KNOWN["payload_pb"])
    opened = noble.ask(
        "openMessage",
        envelope=KNOWN["envelope"],
        recipient=KNOWN["recipient"],
        recipient_x25519_secret=given["recipient_x25519_secret"],
    )
    assert opened["content"] == KNOWN["text_pb"]
    assert (opened["sender"], opened["sealed_hash"]) == (KNOWN["sender"], KNOWN["sealed_hash"])


@pytest.mark.parametrize(
    "message",
    [
        draft(),
        draft(seq=1, prev=bytes(32), ttl_s=0, device=7),
        draft(
            type=4,
            seq=0,
            epoch=0,
            prev=bytes(32),
            chunk_info=ChunkInfo(stream_id=bytes(16), index=5, size=9, last=True),
        ),
        draft(type=0x40, timestamp_ms=2**62, channel="a channel"),
    ],
    ids=["counted", "first", "chunk", "application"],
)
@pytest.mark.parametrize("size", [0, 12, 5_000, 60_000])
def test_what_we_seal_is_opened_there(noble: Noble, message: Payload, size: int) -> None:
    content = Random(SEED).randbytes(size)
    record = Random(SEED).randbytes(220)
    made = seal_message(message, content, ALICE, KeyPair.from_bytes(SECRET).public, key_record=record)
    opened = noble.ask(
        "openMessage", envelope=made.envelope.hex(), recipient=BOB.hex(), recipient_x25519_secret=SECRET.hex()
    )
    assert opened["content"] == content.hex()
    assert (opened["sender"], opened["type"], opened["seq"]) == (message.sender.hex(), message.type, message.seq)
    assert (opened["digest"], opened["key_record"]) == (made.digest.hex(), record.hex())
    assert opened["sealed_hash"] == sealed_hash(made.envelope).hex()


def test_what_is_sealed_there_is_opened_here(noble: Noble) -> None:
    for number in range(10):
        fresh = {name: secrets.token_hex(32) for name in ("sender_seed", "frank", "inner_ephemeral", "outer_ephemeral")}
        text = "x" * number * 500
        made = noble.ask(
            "sealMessage",
            **fresh,
            inner_nonce=secrets.token_hex(12),
            outer_nonce=secrets.token_hex(12),
            id="00112233445546678899aabbccddee0" + str(number),
            recipient=BOB.hex(),
            recipient_x25519=KeyPair.from_bytes(SECRET).public.hex(),
            media_type="text/plain",
            body=text,
            timestamp_ms=1_767_225_600_000 + number,
            epoch=1_767_225_600_000,
            seq=number + 1,
            prev=secrets.token_hex(32) if number else "00" * 32,
            ttl_s=number,
        )
        body = open_outer(bytes.fromhex(made["envelope"]), BOB, (b"\x01" * 32, SECRET))
        payload = Payload.decode(body.payload)
        m, found = verify(payload)
        assert (payload.encode().hex(), m.hex(), found.hex()) == (made["payload"], made["m"], made["digest"])
        assert found == digest(m, payload.content)
        assert Text.decode(open_inner(payload, m, (SECRET,)).content).body == text.encode()
        assert payload.sender == PrivateKey.from_seed(bytes.fromhex(fresh["sender_seed"])).public_key.data


def test_neither_opens_what_was_altered(noble: Noble) -> None:
    envelope = seal_message(draft(), b"content", ALICE, KeyPair.from_bytes(SECRET).public).envelope
    for place in Random(SEED).sample(range(len(envelope)), 60):
        altered = bytearray(envelope)
        altered[place] ^= 1
        with pytest.raises(Refused):
            noble.ask("openMessage", envelope=altered.hex(), recipient=BOB.hex(), recipient_x25519_secret=SECRET.hex())
        with pytest.raises(EnvelopeRejected):
            open_outer(bytes(altered), BOB, (SECRET,))


# -- files


def test_the_known_file_is_made_and_opened_there(noble: Noble) -> None:
    data = bytes(index % 251 for index in range(FILE["given"]["size"]))
    given = {name: FILE["given"][name] for name in ("key", "stream_id", "file")}
    made = noble.ask("sealFile", **given, data=data.hex())
    joined = sha256(bytes.fromhex("".join(made["sealed"]))).hexdigest()
    assert (made["root"], made["sha256"], joined) == (FILE["root"], FILE["sha256"], FILE["sealed_sha256"])
    assert (made["leaves"], made["chunk_size"]) == (FILE["leaves"], FILE["chunk_size"])
    assert noble.ask("writeManifest", files=FILE["files"]) == {
        "manifest": FILE["manifest"],
        "hash": FILE["manifest_hash"],
    }
    assert noble.ask("readManifest", manifest=FILE["manifest"]) == {"files": FILE["files"]}


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 256 * 1024 + 1, 1_900_000])
def test_a_file_that_we_seal_is_opened_there_and_back(noble: Noble, size: int, tmp_path: Path) -> None:
    data = Random(SEED).randbytes(size)
    (tmp_path / "file").write_bytes(data)
    (hashed,) = hash_walk(walk([tmp_path / "file"], FileConfig()))
    key, stream = secrets.token_bytes(32), secrets.token_bytes(16)
    source = Source(str(tmp_path / "file"), 3, hashed, key, stream)
    sealed = [bytes(source.chunk(index).sealed) for index in range(hashed.entry.chunks)]
    source.close()
    given = {"key": key.hex(), "stream_id": stream.hex(), "file": 3}
    opened = noble.ask("openFile", **given, sealed=[one.hex() for one in sealed])
    assert (opened["data"], opened["root"]) == (data.hex(), hashed.entry.root.hex())
    made = noble.ask("sealFile", **given, data=data.hex())
    assert [bytes.fromhex(one) for one in made["sealed"]] == sealed
    cipher = ChunkCipher(key, stream, 3)
    last = len(sealed) - 1
    assert b"".join(cipher.open(index, one, last=index == last) for index, one in enumerate(sealed)) == data


def test_neither_opens_a_chunk_in_another_place(noble: Noble) -> None:
    key, stream = bytes(32), bytes(16)
    sealed = ChunkCipher(key, stream, 1).seal(1, b"a chunk", last=True)
    for file, index, last in ((2, 1, True), (1, 0, True), (1, 1, False)):
        before = [ChunkCipher(key, stream, file).seal(at, b"before", last=False).hex() for at in range(index)]
        behind = [] if last else [ChunkCipher(key, stream, file).seal(index + 1, b"behind", last=True).hex()]
        with pytest.raises(Refused):
            noble.ask(
                "openFile", key=key.hex(), stream_id=stream.hex(), file=file, sealed=[*before, sealed.hex(), *behind]
            )
        with pytest.raises(TransferFailed):
            ChunkCipher(key, stream, file).open(index, sealed, last=last)


def test_lists_of_files_are_the_same_bytes(noble: Noble) -> None:
    random = Random(SEED)
    for count in (1, 2, 50):
        entries = tuple(
            FileEntry(
                path=f"folder/ü{number}",
                size=(size := random.randrange(2**33)),
                mime=random.choice(("", "text/plain", "image/png")),
                root=random.randbytes(32),
                sha256=random.randbytes(32),
                chunk_size=chunk_size(size),
            )
            for number in range(count)
        )
        ours = Manifest(entries).encode()
        files = [
            {
                "path": entry.path,
                "size": entry.size,
                "mime": entry.mime,
                "chunk_size": entry.chunk_size,
                "root": entry.root.hex(),
                "sha256": entry.sha256.hex(),
            }
            for entry in entries
        ]
        assert noble.ask("writeManifest", files=files)["manifest"] == ours.hex()
        assert noble.ask("readManifest", manifest=ours.hex()) == {"files": files}
        assert Manifest.decode(ours) == Manifest(entries)
