"""The file log of versions before the chain: read once, when a chain takes its entries over.

    header = "TALOSLOG" ‖ u16 version=1 ‖ u64 created_ms ‖ 16 random ‖ link[0]
    record = u32 n ‖ n bytes body ‖ link[i]          body = u8 flags ‖ lp(entry) ‖ box
    head   = "TALOSTIP" ‖ u64 count ‖ u64 end ‖ u64 mark count ‖ u64 mark offset ‖ link[count] ‖ mac

    k_link = HMAC(k_priv, "talos/log-link/v1\\n")         k_box = HMAC(k_priv, "talos/log-box/v1\\n")
    link[0] = HMAC(k_link, header before it)             link[i] = HMAC(k_link, link[i-1] ‖ u64 i ‖ body)
    box = ChaCha20-Poly1305(k_box, H("talos/log-nonce/v1\\n" ‖ leaf ‖ flags)[:12], u32 m ‖ meta ‖ blob, AD = entry)

Its files are `log` and `head`; once a chain has all their entries, they are renamed to `log.taken` and `head.taken`.
"""

from __future__ import annotations

import hmac
import struct
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from talos.abc import AuditEntry, Direction, EntryKind, SignedReceipt
from talos.chain.entry import Entry, Kind, Meta, leaf_hash, open_meta
from talos.errors import ProofInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["is_there", "put_away", "read"]

LOG_NAME = "log"
HEAD_NAME = "head"
TAKEN = ".taken"
_HEADER: Final = struct.Struct(">8sHQ16s")
_HEAD: Final = struct.Struct(">8sQQQQ32s")
_LINK_BYTES = 32
_SIGNATURE_BYTES = 64


def is_there(directory: Path) -> bool:
    return (directory / LOG_NAME).is_file()


def put_away(directory: Path) -> None:
    """Its entries are in the chain."""
    for name in (HEAD_NAME, LOG_NAME):  # the log last: until then it is there
        path = directory / name
        if path.exists():
            path.rename(path.with_name(name + TAKEN))


def read(directory: Path, k_priv: Callable[[bytes], bytes], me: bytes) -> Iterator[AuditEntry]:
    """The facts of its records, oldest first, each checked; `me` tells which way a line went.

    ProofInvalid where the log is damaged, or does not reach as far as its head says.
    """
    with (directory / LOG_NAME).open("rb") as file:
        header = file.read(_HEADER.size + _LINK_BYTES)
        if len(header) != _HEADER.size + _LINK_BYTES or header[:8] != b"TALOSLOG":
            raise ProofInvalid(f"the log in {directory} is none")
        secret = k_priv(_HEADER.unpack_from(header)[3])
        links = hmac.digest(secret, b"talos/log-link/v1\n", "sha256")
        box = ChaCha20Poly1305(hmac.digest(secret, b"talos/log-box/v1\n", "sha256"))
        link = hmac.digest(links, header[: _HEADER.size], "sha256")
        if not hmac.compare_digest(link, header[_HEADER.size :]):
            raise ProofInvalid(f"the header of the log in {directory} was changed")
        count, last = _read_head(directory, links)
        index = 0
        while len(body := file.read(int.from_bytes(file.read(4), "big"))) > 0:
            found = hmac.digest(links, link + (index + 1).to_bytes(8, "big") + body, "sha256")
            if not hmac.compare_digest(found, file.read(_LINK_BYTES)):
                break
            index, link = index + 1, found
            if index == count and link != last:
                raise ProofInvalid(f"log {directory}: record {index} is not the one that its head names")
            yield _facts(body, secret, box, me)
        if index < count:
            raise ProofInvalid(f"log {directory}: record {index + 1} is damaged; its head counts {count}")


def _read_head(directory: Path, links: bytes) -> tuple[int, bytes]:
    """How many records there are for certain, and the last link; none where the log was only just made."""
    try:
        data = (directory / HEAD_NAME).read_bytes()
    except FileNotFoundError:
        return 0, b""
    plain, mac = data[: _HEAD.size], data[_HEAD.size :]
    if len(data) != _HEAD.size + _LINK_BYTES or not hmac.compare_digest(hmac.digest(links, plain, "sha256"), mac):
        raise ProofInvalid(f"the head of the log in {directory} was changed")
    _, count, _, _, _, link = _HEAD.unpack(plain)
    return count, link


def _facts(body: bytes, secret: bytes, box: ChaCha20Poly1305, me: bytes) -> AuditEntry:
    size = int.from_bytes(body[1:3], "big")
    data, sealed_box = body[3 : 3 + size], body[3 + size :]
    nonce = sha256(b"talos/log-nonce/v1\n" + leaf_hash(data) + body[:1]).digest()[:12]
    try:
        plain = box.decrypt(nonce, sealed_box, data)
    except InvalidTag as error:
        raise ProofInvalid("a record's box does not open") from error
    entry = Entry.decode(data)
    end = 4 + int.from_bytes(plain[:4], "big")
    meta, blob = plain[4:end], plain[end:]
    opened = open_meta(entry, meta, secret) if entry.meta_commit is not None else Meta(msg_id=entry.fields[0])
    received = opened.recipient == me and opened.sender != me
    others = opened.sender if received else opened.recipient
    receipt = None
    if entry.kind is Kind.RECEIPT_GOT:
        receipt = SignedReceipt(blob[:-_SIGNATURE_BYTES], blob[-_SIGNATURE_BYTES:])
    tunnel = entry.kind in {Kind.MCP_CALL, Kind.MCP_RESULT}
    return AuditEntry(
        kind=EntryKind(entry.kind),
        msg_id=opened.msg_id,
        direction=Direction.IN if received else Direction.OUT,
        counterparty=others,
        time_ms=entry.time_ms,
        sender=opened.sender,
        recipient=opened.recipient,
        type=opened.type,
        size=opened.size,
        sent_ms=opened.sent_ms,
        detail=opened.detail,
        sealed=blob if receipt is None else b"",
        sealed_hash=entry.sealed_hash or b"",
        session_commit=entry.fields[2] if tunnel else b"",
        receipt=receipt,
    )
