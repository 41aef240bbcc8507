"""Ends server processes: the system calls for it, and the watch process that does so when `mcp-serve` has died.

Run as a script (`python -I -S reaper.py [GRACE]`) it reads from stdin, one line each: `+TAG` a child is about to start,
`=TAG PID START` it runs, `-TAG` it and all it left are gone. When stdin ends, however that came, what was not taken
back is stopped. Only the standard library is imported, for the script has no path to anything else.

Not PR_SET_PDEATHSIG: it fires when the thread that forked ends, and trio forks in pooled threads that retire when idle.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["TAG_VARIABLE", "group_alive", "main", "signal_group", "start_time", "sweep"]

TAG_VARIABLE = "MCP_TUNNEL_TAG"
GRACE_SECONDS = 2.0
"""Between the end of a server's stdin, SIGTERM and SIGKILL."""
POLL_SECONDS = 0.05
SWEEPS = 20
"""A process that forks while it is looked for is found in the next round."""

_PROC = Path("/proc")
_HAS_PROC = (_PROC / "self" / "stat").exists()


def start_time(pid: int) -> str | None:
    """When the process began, in the words of this system: with the pid it names one process. None: there is none."""
    if _HAS_PROC:
        fields = _stat(pid)
        return fields[19] if fields else None
    command = ("/bin/ps", "-o", "lstart=", "-p", str(pid))
    found = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - nothing in it is foreign
    return "_".join(found.stdout.split()) or None


def group_alive(pid: int, start: str) -> bool:
    """Whether the group that the process began has a member that is no zombie."""
    if not _group_is_ours(pid, start):
        return False
    try:
        os.killpg(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    if not _HAS_PROC:
        return True
    return any(fields[2] == str(pid) and fields[0] not in "ZX" for fields in map(_stat, _pids()) if fields)


def signal_group(pid: int, start: str, number: int) -> None:
    """Signals the group that the process began; nobody else, should its number be another's by now."""
    if _group_is_ours(pid, start):
        try:
            os.killpg(pid, number)
        except (ProcessLookupError, PermissionError):
            pass  # gone, or a member that changed its user: nothing that we may do


def sweep(tag: str) -> int:
    """Kills every process whose environment has the tag: those that left the group. How many there were."""
    if not _HAS_PROC:
        return 0
    mark = f"{TAG_VARIABLE}={tag}".encode()
    killed = 0
    for _ in range(SWEEPS):
        found = sum(_kill_if_marked(pid, mark) for pid in _pids())
        if not found:
            break
        killed += found
    return killed


def _group_is_ours(pid: int, start: str) -> bool:
    # A number is not given out again while a group bears it, so a leader that is gone leaves the group ours.
    now = start_time(pid)
    return now is None or now == start


def _kill_if_marked(pid: int, mark: bytes) -> bool:
    try:
        handle = os.pidfd_open(pid)  # first, so that what is killed is what was read
    except OSError:
        return False
    try:
        if mark not in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            return False
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def _pids() -> Iterator[int]:
    own = os.getpid()
    return (pid for name in os.listdir(_PROC) if name.isdigit() and (pid := int(name)) != own)  # noqa: PTH208 - names only


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before them may hold anything."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()


# ----------------------------------------------------------------------------------- the watch process


class Watch:
    """What `mcp-serve` has told of its children."""

    def __init__(self, grace: float = GRACE_SECONDS) -> None:
        self.grace = grace
        self.children: dict[str, tuple[int, str] | None] = {}

    def told(self, line: str) -> None:
        """Takes one line in."""
        tag, *process = line[1:].split()
        if line[0] == "-":
            self.children.pop(tag, None)
        else:
            self.children[tag] = (int(process[0]), process[1]) if process else None

    def stop_all(self) -> None:
        """Their stdin ended with `mcp-serve`: later SIGTERM, later still SIGKILL, then whoever bears a tag."""
        processes = [process for process in self.children.values() if process]
        for number in (signal.SIGTERM, signal.SIGKILL):
            _wait_until_gone(processes, self.grace)
            for pid, start in processes:
                signal_group(pid, start, number)
        for tag in self.children:
            sweep(tag)


def _wait_until_gone(processes: Iterable[tuple[int, str]], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and any(group_alive(*process) for process in processes):
        time.sleep(POLL_SECONDS)  # they are not our children: nothing tells when they end


def main() -> None:
    """Listens until stdin ends, then stops what is left."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    watch = Watch(*map(float, sys.argv[1:]))
    for line in sys.stdin:
        if line.endswith("\n"):
            watch.told(line)
    watch.stop_all()


if __name__ == "__main__":
    main()
