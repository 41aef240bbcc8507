"""Where a passphrase comes from: a file, a descriptor, or the terminal; never an argument or the environment."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from talos.cli.exits import Failure
from talos.identity import private_file
from talos.identity.sealed import Passphrase

if TYPE_CHECKING:
    from talos.cli.session import Session

__all__ = ["ask", "ask_new", "given", "of_file"]

FILE_VARIABLE = "TALOS_PASSPHRASE_FILE"
MAX_BYTES = 4096


def given(session: Session) -> Passphrase | None:
    """What `--passphrase-fd`, `--passphrase-file` or TALOS_PASSPHRASE_FILE give; None where none is named."""
    if session.passphrase_fd is not None:
        return _of(_from_descriptor(session.passphrase_fd))
    name = session.passphrase_file or os.environ.get(FILE_VARIABLE)
    return _of(_from_file(Path(name))) if name else None


def of_file(path: Path) -> Passphrase:
    """The passphrase that a file holds."""
    return _of(_from_file(path))


def ask(prompt: str) -> Passphrase:
    """Asks on the terminal, without showing what is typed."""
    import getpass

    try:
        return Passphrase.of(getpass.getpass(prompt))
    except EOFError:
        raise Failure("wallet_locked", "no passphrase was typed") from None


def ask_new() -> Passphrase:
    """Asks for a new one, twice."""
    first = ask("New passphrase: ")
    if ask("The same again: ") != first:
        raise Failure("usage", "the two passphrases differ")
    return first


def _from_file(path: Path) -> bytes:
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        with path.open("rb") as pipe:  # of a program that gives passphrases: it has no mode to check
            return pipe.read(MAX_BYTES + 1)
    return private_file.read(path, MAX_BYTES, "passphrase file")


def _from_descriptor(descriptor: int) -> bytes:
    try:
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Failure("usage", f"descriptor {descriptor} cannot be read: {str(error.strerror).lower()}") from None


def _of(data: bytes) -> Passphrase:
    """The first line, whatever else the file holds being a mistake."""
    line, _, rest = data.partition(b"\n")
    if rest.strip() or len(data) > MAX_BYTES:
        raise Failure("wallet_locked", "a passphrase is one line")
    return Passphrase.of(line.removesuffix(b"\r").decode(errors="surrogateescape"))
