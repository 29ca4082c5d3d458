"""Where the audit's epochs advance: with the batches that the vault writes, and with a tick a second when it rests.

A batch with lines ends in a tag when the newest tag is a second old, so a lone record is sealed by the flush that makes
it durable; under load one batch a second has a tag, and a tick sees to what came last. A second without lines is an
idle epoch: no line, but the state moves on. The state on the disk follows the lines: as long as a tag may not be
durable, the key that it was made with is still there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.canonical import timestamp
from vaultd.audit.chain import Link, link
from vaultd.audit.seal import RUN
from vaultd.audit.sealslots import SLOTS, encode

if TYPE_CHECKING:
    from vaultd.audit.journal import Journal
    from vaultd.audit.seal import SealChain
    from vaultd.clock import Clock
    from vaultd.crypto.memory import SecretBytes
    from vaultd.store import SlotFile

__all__ = ["SealWrite", "Sealer"]

_EPOCH_NS: Final = 1_000_000_000
_TICK_NS: Final = 500_000_000
"""A tick tags what is newer than a tag by this much: ticks come once a second, and must not miss by a hair."""


class SealWrite(NamedTuple):
    """The state as a batch leaves it: slots to be written in this order, behind the batch's lines."""

    file: SlotFile
    slots: tuple[tuple[int, SecretBytes], ...]

    def write(self) -> None:
        """Overwrite the slots, durably, one after the other; then wipe what they were written from."""
        for index, slot in self.slots:
            self.file.write(index, slot.view())
        self.wipe()

    def wipe(self) -> None:
        """Zero the slots' bytes."""
        for _, slot in self.slots:
            slot.wipe()


class Sealer:
    """Makes the tags of an open vault. Belongs to the thread that decides; what it gives to a batch does not change.

    Args:
        chain: as the state and the journal have it; becomes this object's to wipe.
        file: the state's; becomes this object's to close.
        sequence: of the newest slot.
        clock: dates tag lines; epochs go by its boot time.

    Attributes:
        due: the next batch ends in a tag.
    """

    def __init__(self, chain: SealChain, file: SlotFile, sequence: int, journal: Journal, clock: Clock) -> None:
        self.chain = chain
        self.due = False
        self._file = file
        self._sequence = sequence
        self._journal = journal
        self._clock = clock
        self._changed = False
        self._tagged = False
        self._last = clock.boot() - _EPOCH_NS

    @property
    def unsealed(self) -> int:
        """Lines behind the newest tag."""
        return self._journal.seq - self.chain.tag_seq

    @property
    def dirty(self) -> bool:
        """Whether a batch would have something to write: a tag, or the state."""
        return self.due or self._changed

    def tick(self) -> None:
        """To be called about once a second: ends the present epoch, unless a batch just has."""
        since = self._clock.boot() - self._last
        if self.due:
            return
        if self.unsealed:
            self.due = since >= _TICK_NS
        elif self.chain.idle_epochs >= RUN - 1:
            self.due = True
        elif since >= _EPOCH_NS:
            self.chain.idle()
            self._changed = True

    def settle(self) -> None:
        """The vault is about to be closed or sealed: leave nothing untagged."""
        self.due = bool(self.unsealed or self.chain.idle_epochs)

    def end_batch(self) -> bool:
        """A batch is about to be closed: end it with a tag if one is due. Returns whether it does."""
        if not (self.due or (self.unsealed and self._clock.boot() - self._last >= _EPOCH_NS)):
            return False
        self.stage()
        return True

    def stage(self, following: bytes = b"") -> None:
        """Stage a tag line.

        Args:
            following: names the next chain's first key: this tag is the chain's last.
        """
        journal = self._journal
        before = Link(journal.seq, journal.head)
        # The first line of a segment says whose journal it is, tag line or not.
        vault = self.chain.vault_id.hex() if journal.begins_segment else None
        line, line_hash = link(before.head, self.chain.tag(before, timestamp(self._clock.wall()), following, vault))
        journal.stage(line, line_hash)
        self.chain.tagged(journal.seq, line_hash)
        self.due = False
        self._changed = self._tagged = True
        self._last = self._clock.boot()

    def take(self) -> SealWrite | None:
        """The state for the batch that is being closed, if it changed."""
        if not self._changed:
            return None
        # After a tag both slots: the key that it was made with must be in neither. After an idle epoch one will do.
        slots = []
        for _ in range(SLOTS if self._tagged else 1):
            self._sequence += 1
            slots.append((self._sequence % SLOTS, encode(self.chain, self._sequence)))
        self._changed = self._tagged = False
        return SealWrite(self._file, tuple(slots))

    def close(self) -> None:
        """Wipe the key, let go of the file."""
        self.chain.wipe()
        self._file.close()
