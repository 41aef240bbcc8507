"""The signals that end a command, as exit codes 129, 130 and 143."""

from __future__ import annotations

import signal

__all__ = ["ending"]


def ending() -> tuple[signal.Signals, ...]:
    """Those that whoever started us did not tell us to ignore: `nohup` does, and shells do for `&`."""
    maybe = (signal.SIGINT, signal.SIGHUP)
    return (signal.SIGTERM, *(number for number in maybe if signal.getsignal(number) is not signal.SIG_IGN))
