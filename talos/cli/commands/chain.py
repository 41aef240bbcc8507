"""`talos chain`: the record itself: its state, its blocks, whether it is whole, proofs for who trusts nobody."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from talos.cli import chains, config
from talos.cli.bringing_back import brought_back
from talos.cli.calls import rfc3339
from talos.cli.exits import Failure
from talos.cli.frame import command, group, network_options, passphrase_options
from talos.cli.output import counted

if TYPE_CHECKING:
    from talos.chain.records import ChainReader, Record
    from talos.cli.session import Session

__all__ = ["chain"]

RECORD = 7
VERIFICATION = 8


@group("chain", help="The record of this home: its blocks, proofs, checks and copies.")
def chain() -> None:
    pass


@command("status", help="How long the chain is, what waits, and whether it takes more.")
def status(session: Session) -> int:
    fields = session.ask("chain/status")
    if fields is None:
        with chains.reading(session) as reader:
            fields = reader.status()
    fields = {name: value for name, value in fields.items() if name not in {"v", "kind"}}
    if session.json:
        session.out.emit("chain_status", **fields)
    else:
        _tell_status(session, fields)
    return RECORD if fields["frozen"] or fields["failed"] else 0


def _tell_status(session: Session, fields: dict[str, Any]) -> None:
    """A fact a line; what may be wrong only where it is."""
    told = {name: value for name, value in fields.items() if name != "vkeys" and value is not False}
    facts = [(name, value) for name, value in told.items() if value not in ("", None)]
    facts += [("vkey", vkey) for vkey in fields["vkeys"]]
    width = max(len(name) for name, _ in facts)
    for name, value in facts:
        session.out.line(f"{name.replace('_', ' '):<{width}}  {'yes' if value is True else value}")


@command("show", help="The block of height or id WHICH (the newest), or the entry of a message id; ours are opened.")
@click.argument("which", required=False)
@click.option("--entry", "number", is_flag=True, help="WHICH is an entry's number in the log")
@passphrase_options
def show(session: Session, which: str | None, *, number: bool) -> None:
    with chains.reading(session, opened=True) as reader:
        ident = chains.ident_of(which) if which is not None else _height(reader)
        if number or (isinstance(ident, bytes) and len(ident) != 32):
            record = chains.found(reader.record_at, chains.index_of(reader, ident))
            _show_entry(session, reader, record)
            return
        stored = chains.found(reader.block, ident)
        pruned = stored.header.height < reader.reading.number("min_height")
        records = [] if pruned else reader.block_records(stored)
        if session.json:
            session.out.emit("block", **chains.block_fields(stored, records))
            return
        header = stored.header
        session.out.line(f"block {header.height}  {stored.block_id.hex()}")
        session.out.line(f"  {rfc3339(header.time_ms)}  {header.pow_bits} bits  log {header.log_size}")
        for record in records:
            session.out.line("  " + _line(record))
        if pruned:
            session.out.line("  its entries were pruned")


@command("verify", help="Checks this home's chains, or a proof, evidence or export, and names the first bad entry.")
@click.argument("target", metavar="[FILE|DIR]", required=False, type=click.Path(path_type=Path, exists=True))
@click.option("--full", is_flag=True, help="every hash, index and tile, not links and signatures alone")
@click.option("--receipts", is_flag=True, help="also every receipt that peers gave")
@passphrase_options
def verify(session: Session, target: Path | None, *, full: bool, receipts: bool) -> int:
    from talos.chain.export import MANIFEST_NAME, verify_export
    from talos.chain.verifying import verify_reader

    if target is not None and target.is_file():
        return _verify_file(session, target)
    if target is not None and (target / MANIFEST_NAME).exists():
        chains.tell_verification(session, str(target), verify_export(target))
        return 0
    for directory in [target] if target is not None else chains.directories(session):
        with chains.reading(session, directory, opened=target is None) as reader:
            found = verify_reader(reader, full=full, receipts=receipts)
            chains.tell_verification(session, str(directory), found)
    return 0


@command("prove", help="The proof that entry ID is in the chain: a .tlog-proof that anybody checks without us.")
@click.argument("ident", metavar="ID")
@click.option("--peer", metavar="P", help="which of a message's entries: the one with this peer")
@click.option("--block", "as_block", is_flag=True, help="the proof under its block's header instead, as JSON")
@click.option("--open", "opening", is_flag=True, help="beside it what shows who and when, in FILE.opening.json")
@click.option("--manifest", is_flag=True, help="beside it what binds its key to this peer, in FILE.manifest.json")
@click.option("-o", "output", metavar="FILE", type=click.Path(path_type=Path), help="write it there")
@passphrase_options
def prove(
    session: Session,
    ident: str,
    *,
    peer: str | None,
    as_block: bool,
    opening: bool,
    manifest: bool,
    output: Path | None,
) -> None:
    from talos.chain import proving
    from talos.cli.proofs import manifest_of

    if (opening or manifest) and output is None:
        raise Failure("usage", "a second file has its name from the first: -o FILE")
    other = session.find(peer).peer_id().to_bytes() if peer is not None else None
    with chains.reading(session, opened=True) as reader:
        index = chains.index_of(reader, chains.ident_of(ident), other)
        if as_block:
            data = chains.found(proving.block_proof, reader.reading, reader.params, index).to_json().encode()
        else:
            data = chains.found(proving.log_proof, reader.reading, reader.params, index, key=reader.key).encode()
        more = {"opening": _opening(reader, index)} if opening else {}
        if manifest:
            more["manifest"] = manifest_of(reader.params)
    if output is None:
        for line in data.decode().removesuffix("\n").split("\n"):
            session.out.line(line)
        return
    chains.write_new(output, data)
    for name, content in more.items():
        chains.write_new(output.with_name(f"{output.name}.{name}.json"), content)
    if session.json:
        session.out.emit("proof", index=index, file=str(output), block=as_block)
    else:
        session.out.note(f"entry {index} in {output}")


@command("verify-proof", help="Checks a proof with public keys alone: no home, no agent, no network.")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--signer", "signers", multiple=True, required=True, metavar="VKEY|MANIFEST|WHO",
              help="whose signature counts; WHO beside a manifest demands that the chain is his")  # fmt: skip
@click.option("--opening", type=click.Path(path_type=Path, exists=True), metavar="FILE", help="what shows who and when")
def verify_proof(session: Session, file: Path, *, signers: tuple[str, ...], opening: Path | None) -> None:
    from talos.cli.proofs import Signers, check_proof

    check_proof(session, file, Signers.of(signers), opening)


@command("export", help="Writes the chain to the new directory DIR, as C2SP tiles that others' tools read.")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--sealed", is_flag=True, help="the ciphertexts too")
@passphrase_options
def export(session: Session, directory: Path, *, sealed: bool) -> None:
    from talos.chain.export import write_export

    with chains.reading(session, opened=True) as reader:
        try:
            manifest = chains.found(write_export, reader, directory, sealed=sealed)
        except FileExistsError:
            raise Failure("file_exists", f"{directory} is not empty", hint="another name") from None
    if session.json:
        session.out.emit("chain_export", directory=str(directory), blocks=manifest["blocks"], size=manifest["size"])
    else:
        session.out.note(f"{manifest['size']} entries in {manifest['blocks']} blocks in {directory}")


@command("sync", help="Compares the chain with the peers who keep it, or takes WHO's chain and follows it.")
@click.argument("who", required=False)
@network_options
def sync(session: Session, who: str | None) -> None:
    args: dict[str, object] = {}
    if who is not None:
        name = session.find(who)
        args = {"peer": name.peer_text, "addrs": session.addr_texts(name)}
    result = session.perform("chain-sync", args)
    if session.json:
        session.out.emit("chain_sync", **result)
    else:
        peers = counted(result["peers"], "peer")
        session.out.line(f"height {result['height']}  entries {result['log_size']}  with {peers}")


@command("prune", help="Moves old blocks into verified archives, as the retention in config.toml allows.")
@click.option("--older", "days", type=click.FloatRange(0), metavar="DAYS", help="what is older may go")
@click.option("--keep", type=click.IntRange(1), default=288, show_default=True, metavar="N", help="newest blocks stay")
@click.option("--blobs", is_flag=True, help="drop ciphertexts only, and keep the entries")
@click.option("--dry-run", is_flag=True, help="tell what would go")
@passphrase_options
def prune(session: Session, *, days: float | None, keep: int, blobs: bool, dry_run: bool) -> None:
    from talos.chain.config import DAY_SECONDS, Retention
    from talos.chain.prune import prune_home

    if days is None:
        days = config.load(session.home).chain.retention
        if not days:
            raise Failure("config_invalid", "no retention is set, so nothing may go", hint="--older DAYS")
    retention = Retention(age_seconds=days * DAY_SECONDS, keep_blocks=keep, bodies=not blobs)
    with session.owning():
        report = session.run(prune_home, session.home.chain, session.unlock(), retention, dry_run)
    if session.json:
        session.out.emit("chain_prune", **report.fields())
    else:
        session.out.line(report.text())


@command("recover", help="Saves what is whole of a damaged chain; the old files stay beside it, whatever is found.")
@click.option("--from", "source", metavar="PEER|DIR|SEG",
              help="a peer who keeps the chain, an export, an archive, or another copy")  # fmt: skip
@click.option("--new-chain", is_flag=True, help="begin a new chain that names the old one")
@network_options
def recover(session: Session, *, source: str | None, new_chain: bool) -> int:
    from talos.chain.recover import recover_home

    directory = session.home.chain
    with session.owning(), ExitStack() as stack:
        wallet = session.unlock()
        place = Path(source) if source is not None else None
        if source is not None and place is not None and not place.exists():
            scratch = stack.enter_context(TemporaryDirectory(prefix="fetched-", dir=directory))
            place = brought_back(session, wallet, session.find(source), Path(scratch))
        report = recover_home(directory, wallet, place, new_chain=new_chain)
    if session.json:
        session.out.emit("chain_recovery", **report.fields())
    else:
        for line in report.lines():
            session.out.line(line)
    return 0 if report.reached else VERIFICATION


def _height(reader: ChainReader) -> int:
    tip = reader.reading.tip()
    assert tip is not None
    return tip.header.height


def _show_entry(session: Session, reader: ChainReader, record: Record) -> None:
    k_priv = reader.boxes.k_priv if reader.boxes is not None else None
    if session.json:
        session.out.emit("entry", **chains.entry_fields(record, reader.directory.name, k_priv))
        return
    session.out.line(_line(record))
    for name, value in chains.brief_fields(record).items():
        if value is not None:
            session.out.line(f"  {name}  {value}")


def _line(record: Record) -> str:
    fields = chains.brief_fields(record)
    who = "  ".join(str(fields[name]) for name in ("sender", "recipient") if fields[name] is not None)
    return f"{record.index}  {fields['time']}  {fields['type']}  {fields['id'] or ''}  {who}".rstrip()


def _opening(reader: ChainReader, index: int) -> bytes:
    from talos.chain.entry import inspect
    from talos.chain.proving import opening

    record = reader.record_at(index)
    if reader.boxes is None:
        raise Failure("failed", "this wallet cannot open the chain's entries")
    key = inspect(record.data).key24
    return chains.found(opening, reader.reading, reader.boxes, record.data, key).to_json().encode()


def _verify_file(session: Session, file: Path) -> int:
    """A proof or evidence, by what this home knows of the chain."""
    from talos.cli.proofs import verify_by_home

    return verify_by_home(session, file)


for _command in (status, show, verify, verify_proof, prove, export, sync, prune, recover):
    chain.add_command(_command)
