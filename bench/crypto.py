"""The rows of cryptography and chunking of P17: Talos's call beside the library's, in one process, in turns.

Sizes are those of the requirement document: 1.4 KB signed and encrypted, 1 MB cut, 64 KB put together again.
"""

from __future__ import annotations

import os
import time
from hashlib import sha256
from typing import TYPE_CHECKING

import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bench.measure import TALOS, Goal, Metric, Reading, Series
from talos.identity.keys import PrivateKey
from talos.messaging.files.chunk import ChunkCipher
from talos.messaging.files.manifest import leaf, tree_root
from talos.messaging.seal import Sealed, open_sealed, seal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bench.report import Results

    Call = Callable[[], object]

__all__ = ["METRICS", "run"]

RAW = "raw"
"""The same work by calls of `cryptography` and `hashlib` alone."""
TEXT = os.urandom(1400)
CHUNK_BYTES = 256 * 1024
DATA = os.urandom(1 << 20)
PIECE = os.urandom(64 * 1024)
SECONDS = 0.3
TURNS = 20
OVERHEAD = 1.15
"""A call of ours takes at most so much of the primitive's time."""
SEED, KEY, STREAM, NONCE = b"\x01" * 32, b"\x02" * 32, bytes(16), bytes(12)
DOMAIN, CONTEXT = b"talos/bench/v1\n", bytes(208)


def _metric(name: str, title: str) -> Metric:
    goal = Goal(bound=round(1 / OVERHEAD, 2), kind="at least", peer=RAW)
    return Metric(row="P17", name=f"P17 {name}", title=title, unit="/s", goals=(goal,))


METRICS = (
    _metric("sign", "1.4 KB signed"),
    _metric("verify", "1.4 KB verified"),
    _metric("encrypt", "1.4 KB encrypted, as a chunk of a file"),
    _metric("decrypt", "1.4 KB decrypted, as a chunk of a file"),
    _metric("seal", "1.4 KB sealed to a key, as a layer of a message"),
    _metric("unseal", "1.4 KB unsealed with a key, as a layer of a message"),
    _metric("chunk", "1 MiB cut into chunks of 256 KiB, their leaves and root"),
    _metric("reassemble", "64 KiB opened, checked and put into its place"),
)


async def run(rounds: int) -> Results:
    """Both sides of all metrics, in turns."""
    results: Results = {metric.name: (metric, {TALOS: Series(), RAW: Series()}) for metric in METRICS}
    calls = await trio.to_thread.run_sync(_calls)
    for _ in range(rounds):
        for name, sides in calls.items():
            for side, rate in (await trio.to_thread.run_sync(_rates, sides)).items():
                results[f"P17 {name}"][1][side].readings.append(Reading(value=rate))
    return results


def _calls() -> Mapping[str, Mapping[str, Call]]:
    return {**_signatures(), **_ciphers(), **_seals(), **_chunks()}


def _rates(sides: Mapping[str, Call]) -> dict[str, float]:
    """Calls a second of each, the best of some turns: what else runs only ever slows."""
    best = dict.fromkeys(sides, 0.0)
    for _ in range(TURNS):
        for side, call in sides.items():
            count, began = 0, time.perf_counter()
            while (spent := time.perf_counter() - began) < SECONDS / TURNS:
                for _ in range(16):
                    call()
                count += 16
            best[side] = max(best[side], count / spent)
    return best


def _signatures() -> dict[str, Mapping[str, Call]]:
    own, raw = PrivateKey.from_seed(SEED), Ed25519PrivateKey.from_private_bytes(SEED)
    signature, public = raw.sign(TEXT), raw.public_key()
    return {
        "sign": {TALOS: lambda: own.sign(TEXT), RAW: lambda: raw.sign(TEXT)},
        "verify": {
            TALOS: lambda: own.public_key.verify(TEXT, signature),
            RAW: lambda: public.verify(signature, TEXT),
        },
    }


def _ciphers() -> dict[str, Mapping[str, Call]]:
    own, raw = ChunkCipher(KEY, STREAM, 1), ChaCha20Poly1305(KEY)
    ad = bytes(44)
    ours, theirs = own.seal(7, TEXT, last=False), raw.encrypt(NONCE, TEXT, ad)
    return {
        "encrypt": {TALOS: lambda: own.seal(7, TEXT, last=False), RAW: lambda: raw.encrypt(NONCE, TEXT, ad)},
        "decrypt": {TALOS: lambda: own.open(7, ours, last=False), RAW: lambda: raw.decrypt(NONCE, theirs, ad)},
    }


def _seals() -> dict[str, Mapping[str, Call]]:
    secret = X25519PrivateKey.from_private_bytes(KEY)
    public = secret.public_key().public_bytes_raw()
    sealed = seal(public, DOMAIN, CONTEXT, TEXT, ephemeral=SEED, nonce=NONCE)

    def derived(shared: bytes, salt: bytes) -> ChaCha20Poly1305:
        info = DOMAIN + sha256(CONTEXT).digest()
        return ChaCha20Poly1305(HKDF(SHA256(), 32, salt=salt, info=info).derive(shared))

    def raw_seal() -> tuple[bytes, bytes]:
        pair = X25519PrivateKey.from_private_bytes(SEED)
        own = pair.public_key().public_bytes_raw()
        shared = pair.exchange(X25519PublicKey.from_public_bytes(public))
        return own, derived(shared, own + public).encrypt(NONCE, TEXT, CONTEXT)

    def raw_open() -> bytes:
        pair = X25519PrivateKey.from_private_bytes(KEY)
        shared = pair.exchange(X25519PublicKey.from_public_bytes(sealed.ephemeral))
        cipher = derived(shared, sealed.ephemeral + pair.public_key().public_bytes_raw())
        return cipher.decrypt(NONCE, sealed.ciphertext, CONTEXT)

    assert raw_seal() == sealed
    assert raw_open() == TEXT
    return {
        "seal": {TALOS: lambda: seal(public, DOMAIN, CONTEXT, TEXT, ephemeral=SEED, nonce=NONCE), RAW: raw_seal},
        "unseal": {TALOS: lambda: open_sealed(KEY, DOMAIN, CONTEXT, Sealed(*sealed), nonce=NONCE), RAW: raw_open},
    }


def _chunks() -> dict[str, Mapping[str, Call]]:
    own, raw, ad = ChunkCipher(KEY, STREAM, 1), ChaCha20Poly1305(KEY), bytes(44)
    ours, theirs = own.seal(7, PIECE, last=False), raw.encrypt(NONCE, PIECE, ad)
    place, room = bytearray(len(PIECE)), bytearray(len(PIECE))
    whole = memoryview(DATA)
    promised = leaf(PIECE)

    def cut() -> bytes:
        return tree_root([leaf(whole[at : at + CHUNK_BYTES]) for at in range(0, len(DATA), CHUNK_BYTES)])

    def raw_cut() -> bytes:
        return sha256(DATA).digest()

    def put() -> None:
        chunk = own.open_into(7, ours, room, last=False)
        assert leaf(chunk) == promised
        place[:] = chunk

    def raw_put() -> None:
        raw.decrypt_into(NONCE, theirs, ad, room)
        sha256(room).digest()
        place[:] = room

    return {"chunk": {TALOS: cut, RAW: raw_cut}, "reassemble": {TALOS: put, RAW: raw_put}}
