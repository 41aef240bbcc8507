"""The record of what happened: entries, and the log file that keeps them.

Each name is loaded on first use, so that reading entries loads no trio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from talos.lazy import lazy_names

if TYPE_CHECKING:
    from talos.chain.entry import Entry, Kind, Meta
    from talos.chain.file_log import FileLog, FileLogConfig, LogKeys, open_file_log, open_slot
    from talos.chain.reader import LogReader, LogSummary, Record, RecordInvalid, logs_of, read_log, verify_log

__all__ = [
    "Entry",
    "FileLog",
    "FileLogConfig",
    "Kind",
    "LogKeys",
    "LogReader",
    "LogSummary",
    "Meta",
    "Record",
    "RecordInvalid",
    "logs_of",
    "open_file_log",
    "open_slot",
    "read_log",
    "verify_log",
]

__getattr__ = lazy_names(
    __name__,
    {
        "Entry": "talos.chain.entry",
        "FileLog": "talos.chain.file_log",
        "FileLogConfig": "talos.chain.file_log",
        "Kind": "talos.chain.entry",
        "LogKeys": "talos.chain.file_log",
        "LogReader": "talos.chain.reader",
        "LogSummary": "talos.chain.reader",
        "Meta": "talos.chain.entry",
        "Record": "talos.chain.reader",
        "RecordInvalid": "talos.chain.reader",
        "logs_of": "talos.chain.reader",
        "open_file_log": "talos.chain.file_log",
        "open_slot": "talos.chain.file_log",
        "read_log": "talos.chain.reader",
        "verify_log": "talos.chain.reader",
    },
)
