"""A rate for log lines, so that no peer can fill a disk or a terminal."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from talos.host.limits_config import LimitsConfig

if TYPE_CHECKING:
    from collections.abc import Callable

    from talos.host.limits_config import Rate

__all__ = ["RateFilter", "install"]

MAX_CATEGORIES = 4096


@dataclass(slots=True)
class _Category:
    tokens: float
    updated: float
    suppressed: int = 0


class RateFilter(logging.Filter):
    """Lets a category (logger and message template) through at `rate`.

    The next line of a category that passes says how many before it did not. Lines at DEBUG always pass: who
    switches them on wants them.
    """

    def __init__(self, rate: Rate | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.rate = rate or LimitsConfig().log_rate
        self._clock = clock
        self._categories: OrderedDict[tuple[str, str], _Category] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether `record` is written."""
        if record.levelno <= logging.DEBUG:
            return True
        category = self._category((record.name, str(record.msg)))
        if category.tokens < 1:
            category.suppressed += 1
            return False
        category.tokens -= 1
        if category.suppressed:
            record.msg = f"{record.getMessage()} ({category.suppressed} such lines before it suppressed)"
            record.args = None
            category.suppressed = 0
        return True

    def _category(self, key: tuple[str, str]) -> _Category:
        now = self._clock()
        category = self._categories.get(key)
        if category is None:
            category = self._categories[key] = _Category(self.rate.burst, now)
            if len(self._categories) > MAX_CATEGORIES:
                self._categories.popitem(last=False)
            return category
        self._categories.move_to_end(key)
        earned = (now - category.updated) * self.rate.per_second
        category.tokens = min(self.rate.burst, category.tokens + earned)
        category.updated = now
        return category


_shared = RateFilter()


def install(rate: Rate | None = None) -> None:
    """Puts one filter on every logger below `talos` that exists by now; again is harmless, and the last rate holds.

    A filter of a logger does not see its children's lines, so each has it.
    """
    if rate is not None:
        _shared.rate = rate
    for name in [name for name in logging.root.manager.loggerDict if name.partition(".")[0] == "talos"]:
        logging.getLogger(name).addFilter(_shared)
