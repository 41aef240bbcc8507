"""Reads a policy file, if nobody else can have written it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from talos.errors import ConfigError
from talos.mcp.policy import MAX_POLICY_BYTES, Policy, parse_policy

__all__ = ["load_policy"]

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def load_policy(path: Path | str) -> Policy:
    """The policy in the file at `path`. ConfigError when it cannot be read, is not ours alone to write, or is wrong."""
    try:
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(MAX_POLICY_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"policy {path} cannot be read: {error.strerror}") from error
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise ConfigError(f"policy {path} can be written by group or others: chmod go-w")
    if status.st_uid not in {os.geteuid(), 0}:
        raise ConfigError(f"policy {path} belongs to another user")
    return parse_policy(data)
