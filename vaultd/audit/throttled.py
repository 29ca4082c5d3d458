"""Counting refusals, so that whoever is refused cannot fill the disk with records of it.

Pure: takes the time, returns what to write. A key is whatever refusals are counted by, such as a uid, or a uid and the
trail that its denials go to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable

__all__ = ["OTHERS", "Counted", "Refusal", "RefusalCounter"]

WINDOW_NS: Final = 60_000_000_000
MAX_KEYS: Final = 256

OTHERS: Final = "others"
"""The key under which refusals are counted once `max_keys` keys have windows open."""


class Counted(NamedTuple):
    """A `counted` record to write: it stands for `total` refusals of `key`."""

    key: Hashable
    total: int


class Refusal(NamedTuple):
    """What to write for one refusal before it is answered; nothing when both say so."""

    single: bool
    """Write a record of this refusal by itself."""
    counted: Counted | None
    """Write this count too; it includes this refusal unless `single`."""


@dataclass(slots=True)
class _Window:
    ends: int
    singles: int
    """Refusals that may still get a record of their own."""
    uncounted: int


class RefusalCounter:
    """At most `singles` + 1 records a key and window, and in the end no refusal that no record stands for.

    The first refusals of a window are recorded at once: each by itself (`singles` of them), or, with `singles=0`, the
    first as a count of one, so that there is a durable record before the first answer. The rest are counted, and
    written as one record when the window is over, which opens the next one. A crash loses at most the counts of the
    windows then open. Windows run on boot time, which nobody can set.

    Somebody who can make up uids (a user namespace with a range of them) must not get a record for each: beyond
    `max_keys` open windows, refusals are counted together under `OTHERS`.

    Args:
        singles: refusals of a key and window that get a record of their own.
        window: nanoseconds.
        max_keys: how many keys may have a window open.
    """

    def __init__(self, *, singles: int = 0, window: int = WINDOW_NS, max_keys: int = MAX_KEYS) -> None:
        self._singles = singles
        self._window = window
        self._max_keys = max_keys
        self._open: dict[Hashable, _Window] = {}  # by start, so by end as well

    def refuse(self, key: Hashable, now: int) -> Refusal:
        """Count one refusal of `key` at boot time `now`, ns."""
        window = self._open.get(key)
        if window is None and len(self._open) >= self._max_keys:
            key, window = OTHERS, self._open.get(OTHERS)
        singles = 0 if key == OTHERS else self._singles
        if window is None or window.ends <= now:
            waiting = 0 if window is None else window.uncounted
            self._start(key, now, max(singles - 1, 0))
            if singles:
                return Refusal(True, Counted(key, waiting) if waiting else None)
            return Refusal(False, Counted(key, waiting + 1))
        if window.singles:
            window.singles -= 1
            return Refusal(True, None)
        window.uncounted += 1
        return Refusal(False, None)

    def due(self, now: int) -> list[Counted]:
        """Close the windows that are over, and say what to write for them."""
        counts = []
        for key, window in list(self._open.items()):
            if window.ends > now:
                break
            if window.uncounted:
                counts.append(Counted(key, window.uncounted))
                self._start(key, now, 0)  # the count is this window's record: no others of its own
            else:
                del self._open[key]
        return counts

    def drain(self) -> list[Counted]:
        """Close every window: before sealing and stopping, so that no count is lost."""
        counts = [Counted(key, window.uncounted) for key, window in self._open.items() if window.uncounted]
        self._open.clear()
        return counts

    def _start(self, key: Hashable, now: int, singles: int) -> None:
        self._open.pop(key, None)
        self._open[key] = _Window(now + self._window, singles, 0)
