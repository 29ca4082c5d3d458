"""Readers of trails between two pages, so that the next page does not begin at the journal's beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from vaultd.audit.reader import Record, TrailReader

__all__ = ["Place", "Readers"]

_MOST: Final = 16


class Place(NamedTuple):
    """Where a page ended: the reader, and the record that it has read already but that did not fit any more."""

    reader: TrailReader
    waiting: Record | None


class Readers:
    """A few places in trails, each by the number of the last record that was handed out; the oldest make room.

    Each reader holds a trail's private key, so all are wiped when the vault is sealed.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, int], Place] = {}

    def take(self, uid: bytes, seq: int) -> Place | None:
        """The place behind record `seq` of the trail, taken out."""
        return self._kept.pop((uid, seq), None)

    def keep(self, uid: bytes, seq: int, place: Place) -> None:
        """Keep a place for the next page."""
        before = self._kept.pop((uid, seq), None)
        if before is not None:
            before.reader.close()
        while len(self._kept) >= _MOST:
            self._kept.pop(next(iter(self._kept))).reader.close()
        self._kept[(uid, seq)] = place

    def clear(self) -> None:
        """Wipe them all."""
        for place in self._kept.values():
            place.reader.close()
        self._kept.clear()
