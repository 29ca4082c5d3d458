"""The two clocks that vaultd reads, behind one small interface, so that tests bring their own.

Wall time dates audit records and ends grants. Boot time (CLOCK_BOOTTIME, which counts suspend and cannot be set) ends
leases, runs, tickets and throttle windows.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "ManualClock", "SystemClock"]


class Clock(Protocol):
    """What the rooms that need time are given."""

    def wall(self) -> int:
        """UTC, nanoseconds since 1970."""
        ...

    def boot(self) -> int:
        """Nanoseconds since boot, suspend included; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> int:
        return time.time_ns()

    def boot(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ManualClock:
    """A clock that moves only when told to: for tests, simulations and reproducible fixtures."""

    def __init__(self, wall: int = 1_767_225_600_000_000_000, boot: int = 1_000_000_000_000) -> None:
        self._wall = wall
        self._boot = boot

    def wall(self) -> int:
        return self._wall

    def boot(self) -> int:
        return self._boot

    def advance(self, seconds: float) -> None:
        """Move both clocks forward by `seconds`."""
        self._wall += int(seconds * 1e9)
        self._boot += int(seconds * 1e9)

    def set_wall(self, wall: int) -> None:
        """Step the wall clock to `wall` nanoseconds, forward or back; boot time stays."""
        self._wall = wall
