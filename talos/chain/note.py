"""Signed notes: C2SP signed-note v1.0.0, Ed25519 (type 0x01), read and written.

    note    = text ‖ "\\n" ‖ signature lines              text ends in a newline; the last empty line parts the two
    line    = "— " ‖ name ‖ " " ‖ base64(key id ‖ signature) ‖ "\\n"
    key id  = SHA-256(name ‖ "\\n" ‖ type ‖ public key)[:4]
    vkey    = name ‖ "+" ‖ hex(key id) ‖ "+" ‖ base64(type ‖ public key)

Traps that are refused: text that is not UTF-8 or has control characters but newlines, no final newline, base64 with
spare bits or characters, names with spaces or "+", a vkey whose id is not that of its key, more than 32 signatures,
more than 64 KiB, a bad signature by a key that is known, and a note that no known key has signed. Lines of unknown keys
are passed over; the text of a note may itself look like a note.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from talos.errors import BadSignature, LocalProtocolError, ProofInvalid, RemoteProtocolError
from talos.identity.keys import KeyType, PublicKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.identity.keys import PrivateKey

__all__ = ["MAX_NOTE_BYTES", "MAX_SIGNATURES", "Opened", "Verifier", "open_note", "sign_note", "strict_base64"]

MAX_NOTE_BYTES = 64 * 1024
MAX_SIGNATURES = 32
"""16 must pass."""
ED25519 = b"\x01"
KEY_ID_BYTES = 4
_DASH = "— "


@dataclass(frozen=True, slots=True)
class Verifier:
    """A name and the Ed25519 key whose signatures are known by it. ProofInvalid when either cannot be used."""

    name: str
    public: bytes
    key: PublicKey = field(init=False, repr=False, compare=False)
    key_id: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_name(self.name)
        try:
            object.__setattr__(self, "key", PublicKey(KeyType.ED25519, self.public))
        except (RemoteProtocolError, BadSignature) as error:
            raise ProofInvalid(f"the key of {self.name} cannot be used: {error}") from error
        object.__setattr__(self, "key_id", _key_id(self.name, self.public))

    @property
    def vkey(self) -> str:
        """The line by which any tool for signed notes knows this key."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    @classmethod
    def parse(cls, vkey: str) -> Self:
        """The key in a vkey line, or ProofInvalid."""
        name, _, rest = vkey.partition("+")
        key_id, _, encoded = rest.partition("+")
        data = strict_base64(encoded, "a vkey")
        if data[:1] != ED25519:
            raise ProofInvalid("a vkey of another type than Ed25519")
        found = cls(name, data[1:])
        if key_id != found.key_id.hex():
            raise ProofInvalid("the key id of a vkey is not that of its key")
        return found


@dataclass(frozen=True, slots=True)
class Opened:
    """A note that at least one known key has signed, and no known key wrongly."""

    text: str
    signers: tuple[Verifier, ...]


def sign_note(text: str, signers: Iterable[tuple[str, PrivateKey]]) -> bytes:
    """LocalProtocolError when `text` cannot be a note's."""
    try:
        data = text.encode()
        _check_text(text)
        lines = []
        for name, key in signers:
            _check_name(name)
            signed = _key_id(name, key.public_key.data) + key.sign(data)
            lines.append(f"{_DASH}{name} {base64.b64encode(signed).decode()}\n")
    except (ProofInvalid, UnicodeEncodeError) as error:
        raise LocalProtocolError(f"this cannot be signed as a note: {error}") from error
    return data + b"\n" + "".join(lines).encode()


def open_note(data: bytes, verifiers: Iterable[Verifier], *, max_bytes: int = MAX_NOTE_BYTES) -> Opened:
    """The text, when one of `verifiers` has signed it. ProofInvalid, as the traps above have it."""
    text, lines = _split(data, max_bytes)
    known = {(verifier.name, verifier.key_id): verifier for verifier in verifiers}
    signed = text.encode()
    found: dict[Verifier, None] = {}
    for line in lines:
        name, key_id, signature = _read_line(line)
        verifier = known.get((name, key_id))
        if verifier is None or verifier in found:
            continue
        try:
            verifier.key.verify(signed, signature)
        except BadSignature as error:
            raise ProofInvalid(f"the note's signature by {name} does not hold") from error
        found[verifier] = None
    if not found:
        raise ProofInvalid("no known key has signed the note")
    return Opened(text, tuple(found))


def strict_base64(text: str, what: str) -> bytes:
    """The bytes that have exactly this base64, padding and all, or ProofInvalid."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProofInvalid(f"{what} is not in base64") from error
    if base64.b64encode(data).decode() != text:
        raise ProofInvalid(f"{what} is in loose base64")
    return data


def _split(data: bytes, max_bytes: int) -> tuple[str, list[str]]:
    if len(data) > max_bytes:
        raise ProofInvalid(f"a note of {len(data)} bytes is over {max_bytes}")
    try:
        whole = data.decode()
    except UnicodeDecodeError as error:
        raise ProofInvalid("a note is not in UTF-8") from error
    _check_text(whole)
    text, empty, signatures = whole.rpartition("\n\n")
    if not empty or not signatures:
        raise ProofInvalid("a note has no signatures")
    lines = signatures.split("\n")[:-1]
    if len(lines) > MAX_SIGNATURES:
        raise ProofInvalid(f"a note has more than {MAX_SIGNATURES} signatures")
    return text + "\n", lines


def _read_line(line: str) -> tuple[str, bytes, bytes]:
    if not line.startswith(_DASH):
        raise ProofInvalid("a signature line does not begin with a dash")
    name, _, encoded = line.removeprefix(_DASH).partition(" ")
    _check_name(name)
    data = strict_base64(encoded, "a signature")
    if len(data) <= KEY_ID_BYTES:
        raise ProofInvalid("a signature is cut short")
    return name, data[:KEY_ID_BYTES], data[KEY_ID_BYTES:]


def _check_text(text: str) -> None:
    if not text.endswith("\n"):
        raise ProofInvalid("a note does not end in a newline")
    if any(character < " " and character != "\n" for character in text):
        raise ProofInvalid("a note holds a control character")


def _check_name(name: str) -> None:
    if not name or "+" in name or any(character.isspace() or character < " " for character in name):
        raise ProofInvalid("a signer's name is empty, or holds a space or a plus")


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + ED25519 + public).digest()[:KEY_ID_BYTES]
