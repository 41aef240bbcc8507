"""The messages of a home, for commands that only read: beside a running agent, or without one."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from talos.cli.session import Session
    from talos.identity.wallet import Wallet
    from talos.messaging.reading import MessageHistory

__all__ = ["reading"]


@contextmanager
def reading(session: Session, wallet: Wallet | None = None) -> Iterator[MessageHistory | None]:
    """What is kept of messages, opened with the keys of the wallet; None where there is nothing yet."""
    session.home.check()
    if not session.home.messages.is_file():
        yield None
        return
    from talos.messaging.reading import open_history

    with open_history(session.home.path, (wallet or session.unlock()).store_key) as history:
        yield history
