"""When each held lease is due for renewal. Pure: the caller brings the clock."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vaultclient._leases import HeldValue

__all__ = ["LEAST_INTERVAL", "RETRY_AFTER", "Schedule"]

LEAST_INTERVAL: Final = 0.2
"""Seconds between two renewals of one lease at least: near the end of its run a lease is given ever less time."""

RETRY_AFTER: Final = 1.0
"""Seconds until a renewal that could not be made is tried again."""


class Schedule:
    """Held leases, with the moments (seconds of one clock) of their next renewal and of their end.

    A lease is renewed when half its time is over: a renewal may then fail and be tried again for the other half.
    """

    def __init__(self) -> None:
        self.retry_after = RETRY_AFTER
        self.least_interval = LEAST_INTERVAL
        self._entries: dict[HeldValue, tuple[float, int]] = {}  # the one valid heap entry of each lease
        self._ends: dict[HeldValue, float] = {}
        self._heap: list[tuple[float, int, HeldValue]] = []
        self._order = 0

    def __len__(self) -> int:
        return len(self._entries)

    def leases(self) -> list[HeldValue]:
        """Every scheduled lease."""
        return list(self._entries)

    def held(self, lease: HeldValue, now: float) -> None:
        """Enter a lease that was just acquired or renewed: due at half of `expires_in`."""
        self._ends[lease] = now + lease.expires_in
        self._enter(lease, now + max(lease.expires_in / 2, self.least_interval))

    def failed(self, lease: HeldValue, now: float) -> None:
        """A renewal could not be made: due again soon, and never later than the lease's end."""
        self._enter(lease, min(now + self.retry_after, max(self._ends[lease], now)))

    def all_due(self, now: float) -> None:
        """Make every lease due now."""
        for lease in self.leases():
            self._enter(lease, now)

    def expired(self, lease: HeldValue, now: float) -> bool:
        """Whether the lease's time is over."""
        return now >= self._ends[lease]

    def drop(self, lease: HeldValue) -> None:
        """Forget a lease; one that is not here is no error."""
        self._entries.pop(lease, None)
        self._ends.pop(lease, None)

    def next_due(self) -> float | None:
        """When the next renewal is due, or None while nothing is held."""
        while self._heap:
            when, order, lease = self._heap[0]
            if self._entries.get(lease) == (when, order):
                return when
            heapq.heappop(self._heap)  # dropped, or entered again later
        return None

    def take_due(self, now: float) -> HeldValue | None:
        """One lease that is due; it stays due until `held`, `failed` or `drop` says what became of it."""
        when = self.next_due()
        return self._heap[0][2] if when is not None and when <= now else None

    def _enter(self, lease: HeldValue, when: float) -> None:
        self._order += 1
        self._entries[lease] = (when, self._order)
        heapq.heappush(self._heap, (when, self._order, lease))
