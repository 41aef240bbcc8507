"""Exception groups of a whole program: one exception is told."""

from __future__ import annotations

from talos.errors import TalosError

__all__ = ["sole"]


def sole(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The order to stop if there is one, else an error of ours, else the one leaf, else the group itself."""
    for wanted in ((KeyboardInterrupt, SystemExit), TalosError):
        found = group.subgroup(wanted)
        if found is not None:
            return _leaves(found)[0]
    leaves = _leaves(group)
    return leaves[0] if len(leaves) == 1 else group


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
