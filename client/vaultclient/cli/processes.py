"""Ending everything that a run started: its session, and descendants that left the session."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Process", "end_all", "members"]

_ROUNDS: Final = 200
"""Rounds of SIGKILL: each catches what was forked during the one before."""


class Process(NamedTuple):
    """A process as /proc/PID/stat tells it; pid and start time together name it for good."""

    pid: int
    parent: int
    session: int
    state: str
    started: int


def _read(pid: int) -> Process | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None  # it ended meanwhile
    # The second field is the name in parentheses and may hold anything, parentheses and newlines included.
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), int(fields[3]), fields[0].decode("ascii"), int(fields[19]))


def members(leader: int) -> list[Process]:
    """Live processes of the leader's session, and descendants of the leader outside it; the leader itself not.

    Args:
        leader: pid of a session's leader, which is also the reaper of its descendants' orphans.
    """
    found = [process for name in os.listdir("/proc") if name.isdigit() and (process := _read(int(name))) is not None]
    children: dict[int, list[Process]] = {}
    for process in found:
        children.setdefault(process.parent, []).append(process)
    chosen = {process.pid: process for process in found if process.session == leader}
    line = [leader]
    while line:
        for child in children.get(line.pop(), ()):
            chosen[child.pid] = child
            line.append(child.pid)
    chosen.pop(leader, None)
    return [process for process in chosen.values() if process.state not in "ZX"]


def _send(process: Process, number: int) -> None:
    """Signal exactly this process: its pid may have been given to another since it was read."""
    try:
        handle = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = _read(process.pid)
        if now is not None and now.started == process.started:
            with contextlib.suppress(OSError):  # it ended, or runs under another uid by now
                signal.pidfd_send_signal(handle, number)
    finally:
        os.close(handle)


def end_all(leader: int, grace: float, reap: Callable[[], object], *, pause: float = 0.02) -> int:
    """TERM to all, then KILL to what is left when the grace is over; returns how many outlived even that.

    Args:
        leader: as for `members`.
        grace: seconds between TERM and KILL.
        reap: collects ended children, so that they count as ended.
        pause: seconds between two looks.
    """
    for process in members(leader):
        _send(process, signal.SIGTERM)
        _send(process, signal.SIGCONT)  # a stopped process takes a TERM only when it goes on
    end = time.monotonic() + grace
    while True:
        reap()
        left = members(leader)
        if not left:
            return 0
        if time.monotonic() >= end:
            break
        time.sleep(pause)
    for _ in range(_ROUNDS):
        for process in left:
            _send(process, signal.SIGKILL)
        reap()
        left = members(leader)
        if not left:
            return 0
        time.sleep(pause)
    return len(left)
