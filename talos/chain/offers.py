"""Which of the chains that peers claim to have are worth a look."""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.chain.genesis import Mode

if TYPE_CHECKING:
    from talos.chain.effects import Now
    from talos.chain.messages import Status
    from talos.chain.sessions import Session, Sessions
    from talos.chain.state import ChainState

__all__ = ["is_better", "offers", "reaches"]


def offers(state: ChainState, sessions: Sessions, now: Now) -> list[Session]:
    """Those who may be asked and claim a tip that we neither have nor have refused; most work first."""
    found = [
        session
        for session in sessions
        if session.status is not None and _is_news(state, session.status) and sessions.can_ask(session, now)
    ]
    return sorted(found, key=lambda session: session.status.total_work if session.status else 0, reverse=True)


def _is_news(state: ChainState, status: Status) -> bool:
    return state.refused(status.tip_id) is None and state.height_of(status.tip_id) is None


def is_better(state: ChainState, status: Status) -> bool:
    """By what it claims."""
    ours = state.branch
    if state.params.mode is Mode.FEED:
        return status.height > ours.height
    return (status.total_work, ours.tip_id) > (ours.total_work, status.tip_id)


def reaches(session: Session, height: int) -> bool:
    """Whether the peer claims to have a block of this height."""
    return session.status is not None and session.status.height >= height
