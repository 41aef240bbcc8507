"""Checking proofs of chains: by files alone, or by what this home knows of its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from talos.cli.exits import Failure
from talos.errors import ProofInvalid, TalosError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from talos.chain.genesis import Params
    from talos.chain.note import Verifier
    from talos.cli.session import Session

__all__ = ["MANIFEST_FORMAT", "Signers", "check_proof", "manifest_of", "verify_by_home"]

MANIFEST_FORMAT = "talos/chain-manifest/v1"
MAX_BYTES = 2 * 1024 * 1024
EVIDENCE_MAGIC = b"talos/evidence/v1\n"


@dataclass(slots=True)
class Signers:
    """The keys that count, and whose they are."""

    verifiers: list[Verifier] = field(default_factory=list)
    params: list[Params] = field(default_factory=list)
    """Chains whose genesis is at hand: it binds their keys to peers."""
    wanted: set[bytes] = field(default_factory=set)
    """Peers of whom the chain has to be."""

    @classmethod
    def of(cls, words: Iterable[str]) -> Signers:
        """Of verifier keys, manifests and peers. Failure for what is none of these."""
        found = cls()
        for word in words:
            found.add(word)
        if not found.verifiers:
            raise Failure(
                "usage",
                "a peer alone does not tell the key that signs its chain",
                hint="--signer MANIFEST, or --signer VKEY as `talos chain status` of its owner prints it",
            )
        return found

    def add(self, word: str) -> None:
        from talos.chain.note import Verifier
        from talos.cli import names

        if Path(word).is_file():
            self.add_params(_params_in(Path(word)))
        elif "+" in word:
            self.verifiers.append(Verifier.parse(word))
        else:
            self.wanted.add(names.parse_name(word).peer_id().to_bytes())

    def add_params(self, params: Params) -> None:
        from talos.chain.checkpoint import verifiers_of

        params.check_bindings()
        self.params.append(params)
        self.verifiers.extend(verifiers_of(params))

    def owner_of(self, origin: str, audit_pk: bytes | None = None) -> str | None:
        """The peers who are bound to the chain's keys; None when no genesis tells. ProofInvalid: not who was wanted."""
        from talos.identity.peer_id import PeerId

        for params in self.params:
            if params.origin == origin:
                authors = [one for one in params.authors if audit_pk in {None, one.audit_pk}]
                if self.wanted and not self.wanted & {author.peer_id for author in authors}:
                    raise ProofInvalid("the chain is not that peer's")
                return ", ".join(str(PeerId.from_bytes(author.peer_id)) for author in authors)
        if self.wanted:
            raise ProofInvalid("nothing at hand binds the chain's key to that peer; add its manifest")
        return None


def manifest_of(params: Params) -> bytes:
    """What a stranger needs beside a proof: the genesis' parameters, which bind the audit key to its peer."""
    from talos.chain.checkpoint import verifiers_of

    fields = {
        "format": MANIFEST_FORMAT,
        "chain_id": params.chain_id.hex(),
        "origin": params.origin,
        "params": params.encode().hex(),
        "vkeys": [verifier.vkey for verifier in verifiers_of(params)],
    }
    return (json.dumps(fields, indent=1) + "\n").encode()


def check_proof(session: Session, file: Path, signers: Signers, opening: Path | None) -> None:
    """Checks a log proof or a block proof and prints each link. ProofInvalid."""
    data = _bounded(file)
    links = _block_links(data, signers) if data.lstrip().startswith(b"{") else _log_links(data, signers)
    if opening is not None:
        links += _opened_links(links.entry, opening)
    if session.json:
        unopened = dict.fromkeys(("sender", "recipient", "sent", "bytes", "detail"))
        session.out.emit("proof_check", ok=True, file=str(file), **{**unopened, **links.fields})
        return
    for name, value in links.fields.items():
        session.out.line(f"{name.replace('_', ' ')}  {'' if value is None else value}")
    if links.fields["owner"] is None:
        session.out.line("key owner not checked")


def verify_by_home(session: Session, file: Path) -> int:
    """A proof or evidence, by the genesis of the chains in this home."""
    from talos.chain.evidence import Evidence
    from talos.cli import chains

    data = _bounded(file)
    signers = Signers()
    for directory in chains.directories(session):
        with chains.reading(session, directory) as reader:
            signers.add_params(reader.params)
    if data.startswith(EVIDENCE_MAGIC):
        evidence = Evidence.decode(data)
        proven = [text for params in signers.params if (text := _proves(evidence, params)) is not None]
        if not proven:
            raise ProofInvalid(f"{file} proves nothing of a chain that this home knows")
        session.out.line(proven[0])
        return 0
    check_proof(session, file, signers, None)
    return 0


def _proves(evidence: Any, params: Params) -> str | None:
    try:
        text: str = evidence.verify(params)
    except ProofInvalid:
        return None
    return text


@dataclass(slots=True)
class _Links:
    entry: bytes
    fields: dict[str, object]

    def __iadd__(self, more: dict[str, object]) -> _Links:
        self.fields.update(more)
        return self


def _log_links(data: bytes, signers: Signers) -> _Links:
    from talos.chain.entry import Entry, leaf_hash
    from talos.chain.proof import LogProof

    proof = LogProof.decode(data)
    checkpoint = proof.verify(signers.verifiers)
    assert proof.entry is not None
    entry = Entry.decode(proof.entry)
    fields = {
        "entry": entry.kind.name.lower(),
        "index": proof.index,
        "leaf": leaf_hash(proof.entry).hex(),
        "path": len(proof.path),
        "origin": checkpoint.origin,
        "size": checkpoint.size,
        "root": checkpoint.root.hex(),
        "owner": signers.owner_of(checkpoint.origin),
    }
    return _Links(proof.entry, fields)


def _block_links(data: bytes, signers: Signers) -> _Links:
    from talos.chain.entry import Entry, leaf_hash
    from talos.chain.proof import BlockProof

    proof = BlockProof.from_json(data)
    header = proof.verify({verifier.public for verifier in signers.verifiers})
    params = next((one for one in signers.params if one.chain_id == header.chain_id), None)
    origin = params.origin if params is not None else header.chain_id.hex()
    fields = {
        "entry": Entry.decode(proof.entry).kind.name.lower(),
        "index": header.first_index + proof.index,
        "leaf": leaf_hash(proof.entry).hex(),
        "path": len(proof.path),
        "origin": origin,
        "size": header.log_size,
        "root": header.log_root.hex(),
        "owner": signers.owner_of(origin, header.author_pk),
    }
    return _Links(proof.entry, fields)


def _opened_links(entry: bytes, file: Path) -> dict[str, object]:
    from talos.chain.proof import Opening
    from talos.cli.calls import peer_text, rfc3339

    meta = Opening.from_json(_bounded(file)).check(entry)
    return {
        "sender": peer_text(meta.sender),
        "recipient": peer_text(meta.recipient),
        "sent": rfc3339(meta.sent_ms) if meta.sent_ms else None,
        "bytes": meta.size,
        "detail": meta.detail.hex() or None,
    }


def _params_in(file: Path) -> Params:
    """Of a manifest, or of the manifest of an export."""
    from talos.chain.genesis import Params

    try:
        found = json.loads(_bounded(file))
        return Params.decode(bytes.fromhex(found["params"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Failure("usage", f"{file} is no manifest of a chain") from error
    except TalosError as error:
        raise Failure("verification_failed", f"{file}: {error}") from error


def _bounded(file: Path) -> bytes:
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ProofInvalid(f"{file} is over {MAX_BYTES} bytes")
    return data
