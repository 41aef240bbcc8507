"""What the agent has to learn when its owner changes the wallet beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from talos.identity.sealed import Passphrase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from talos.agent import Agent
    from talos.control.arguments import Arguments
    from talos.control.operations import Emit

__all__ = ["reread"]


async def reread(agent: Agent, args: Arguments, emit: Emit) -> Mapping[str, object]:  # noqa: ARG001 - an operation's
    """`passphrase_b64`: what the wallet is sealed by now; kept in memory, to save the keys that the calendar changes.

    WalletError when it does not open the wallet of this home; then nothing changes.
    """
    passphrase = Passphrase(args.data("passphrase_b64"))
    await trio.to_thread.run_sync(agent.keys.reread, passphrase)
    return {}
