"""Readers of trails between two pages, so that the next page does not begin at the journal's beginning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from vaultd.audit.reader import TrailReader

__all__ = ["Readers"]

_MOST: Final = 16


class Readers:
    """A few readers, each with the number of its trail's last record that it has seen; the oldest make room.

    Each holds a trail's private key, so all are wiped when the vault is sealed.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[bytes, int], TrailReader] = {}

    def take(self, uid: bytes, seq: int) -> TrailReader | None:
        """A reader that stands behind record `seq` of the trail, taken out."""
        return self._kept.pop((uid, seq), None)

    def keep(self, uid: bytes, reader: TrailReader) -> None:
        """Keep a reader for the next page."""
        before = self._kept.pop((uid, reader.seq), None)
        if before is not None:
            before.close()
        while len(self._kept) >= _MOST:
            self._kept.pop(next(iter(self._kept))).close()
        self._kept[(uid, reader.seq)] = reader

    def clear(self) -> None:
        """Wipe them all."""
        for reader in self._kept.values():
            reader.close()
        self._kept.clear()
