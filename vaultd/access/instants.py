"""The instant at which something is decided, as the caller read it."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["SECOND", "Now"]

SECOND: Final = 1_000_000_000
"""Nanoseconds in a second; durations that people write are whole seconds, instants are nanoseconds."""


class Now(NamedTuple):
    """Both clocks, and the highest wall time that the vault has ever vouched for.

    Attributes:
        boot: CLOCK_BOOTTIME, ns; ends runs, leases and tickets, fills buckets.
        wall: UTC since 1970, ns; says which hour of the day it is.
        highest: highest wall time the anchor has seen, ns.
    """

    boot: int
    wall: int
    highest: int = 0

    def settled(self) -> int:
        """Wall time that never goes back, ns: a clock set back must not revive an expired grant."""
        return max(self.highest, self.wall)
