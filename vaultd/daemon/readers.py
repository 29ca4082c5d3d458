"""Reading trails: whose turn it is, and readers between two pages, so that the next does not begin at the beginning.

Reading a trail walks the journal, in slices, while others are served. One slice of one page is read at a time, and of
one uid one page: however many pages are asked for at once, everybody else waits for no more than a slice.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.access.throttle import throttled

if TYPE_CHECKING:
    from vaultd.audit.reader import Record, TrailReader

__all__ = ["MOST_PAGES", "Place", "Readers", "Reading"]

MOST_PAGES: Final = 32
"""Pages of one uid that may be asked for and not yet answered: read, or waited for by a follower."""

SLICE: Final = 0.000_2
"""Seconds that are read for before others get their turn: as long as two of the dispatcher's."""

_MOST: Final = 256
_MOST_OF_ONE: Final = 16


class Place(NamedTuple):
    """Where a page ended: the reader, and the record that it has read already but that did not fit any more."""

    reader: TrailReader
    waiting: Record | None


class Readers:
    """A few places in trails, each by the number of the last record that was handed out; the oldest make room: of the
    same trail first, so that one tenant's auditors do not send another's back to the beginning.

    Each reader holds a trail's private key, so all are wiped when the vault is sealed.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, OrderedDict[int, Place]] = OrderedDict()
        self._count = 0
        self._turn = asyncio.Lock()
        self._pages: dict[int, asyncio.Lock] = {}
        self._asked: dict[int, int] = {}

    # -- turns

    def ask(self, uid: int) -> Reading:
        """Begin to read a page for a peer of this uid; `done` ends it.

        Raises:
            Throttled: as many are under way as one uid may have.
        """
        asked = self._asked.get(uid, 0)
        if asked >= MOST_PAGES:
            raise throttled(10**9)
        self._asked[uid] = asked + 1
        return Reading(self, uid, self._pages.setdefault(uid, asyncio.Lock()), self._turn)

    def _done(self, uid: int) -> None:
        left = self._asked[uid] - 1
        if left:
            self._asked[uid] = left
        else:
            del self._asked[uid], self._pages[uid]

    # -- places

    def take(self, uid: bytes, seq: int) -> Place | None:
        """The place behind record `seq` of the trail, taken out."""
        places = self._kept.get(uid)
        place = places.pop(seq, None) if places is not None else None
        if place is not None:
            self._count -= 1
            if not places:
                del self._kept[uid]
        return place

    def keep(self, uid: bytes, seq: int, place: Place) -> None:
        """Keep a place for the next page."""
        before = self.take(uid, seq)
        if before is not None:
            before.reader.close()
        if len(self._kept.get(uid, ())) >= _MOST_OF_ONE:
            self._drop_oldest(uid)
        elif self._count >= _MOST:
            self._drop_oldest(next(iter(self._kept)))
        self._kept.setdefault(uid, OrderedDict())[seq] = place
        self._kept.move_to_end(uid)
        self._count += 1

    def _drop_oldest(self, uid: bytes) -> None:
        place = self.take(uid, next(iter(self._kept[uid])))
        if place is not None:
            place.reader.close()

    def clear(self) -> None:
        """Wipe them all."""
        for places in self._kept.values():
            for place in places.values():
                place.reader.close()
        self._kept.clear()
        self._count = 0


class Reading:
    """One page that was asked for. `async with` it while reading; `pause` between records."""

    def __init__(self, readers: Readers, uid: int, page: asyncio.Lock, turn: asyncio.Lock) -> None:
        self._readers = readers
        self._uid = uid
        self._page = page
        self._turn = turn
        self._until = 0.0

    async def __aenter__(self) -> Reading:
        """Wait until it is this uid's turn, and of its pages this one's."""
        await self._page.acquire()
        try:
            await self._turn.acquire()
        except BaseException:
            self._page.release()
            raise
        self._until = time.monotonic() + SLICE
        return self

    async def __aexit__(self, *_: object) -> None:
        # `pause` may have been cancelled while it waited for the turn: then it is somebody else's to give back.
        if self._until:
            self._turn.release()
        self._page.release()

    async def pause(self) -> bool:
        """Let others go on, if the slice is over; whether they did."""
        if time.monotonic() < self._until:
            return False
        self._until = 0.0
        self._turn.release()
        await asyncio.sleep(0)  # a waiter gets the turn before we ask for it again
        await self._turn.acquire()
        self._until = time.monotonic() + SLICE
        return True

    def done(self) -> None:
        """The page is answered, or nobody waits for it."""
        self._readers._done(self._uid)
