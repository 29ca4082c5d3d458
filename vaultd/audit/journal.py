"""The journal's file: lines are staged in memory, taken as a batch, and written by whoever may wait for the disk.

Staging belongs to the thread that decides; writing may run in another meanwhile, because a batch never changes. One
segment for now; `Position` carries a segment's number so that more can come without another format.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.chain import GENESIS, MAX_LINE, Line, Link, follow
from vaultd.errors import FormatVersion, Halted, IntegrityError, Internal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.audit.receipt import Receipt
    from vaultd.store import Store

__all__ = ["DIRECTORY", "START", "Batch", "Entry", "Journal", "Position", "segment_path"]

DIRECTORY: Final = "audit"
_CHUNK: Final = 256 << 10


class Position(NamedTuple):
    """A point between two lines."""

    segment: int
    offset: int
    """Bytes of the segment before it."""
    seq: int
    """Sequence number of the line before it, 0 at the very start."""
    head: bytes
    """Hash of the line before it."""


START: Final = Position(1, 0, 0, GENESIS)


class Entry(NamedTuple):
    """A line that follows from the one before it, and where the next one starts."""

    line: Line
    after: Position


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that go to the disk together."""

    data: bytes
    start: Position
    end: Position
    receipts: tuple[Receipt, ...]
    """Of these lines, in their order; to be marked durable once `Journal.write` has returned."""


def segment_path(segment: int) -> str:
    """Where a segment lies in the store."""
    return f"{DIRECTORY}/{segment:06d}.jsonl"


class Journal:
    """An open journal. Read it from a known position, `resume` after the last line that counts, then stage and write.

    Raises:
        NotFound: there is none; `create` makes it.
    """

    def __init__(self, store: Store) -> None:
        self._file = store.append(segment_path(1))
        self._shown = f"{store.location}/{segment_path(1)}"
        self._ready = False
        self._failed = False
        self._lines: list[bytes] = []
        self._receipts: list[Receipt] = []
        self._taken = START
        self._durable = START
        self.seq = 0
        """Of the last line staged."""
        self.head = GENESIS
        """Hash of the last line staged."""
        self._offset = 0

    @classmethod
    def create(cls, store: Store) -> Journal:
        """Make an empty journal, ready for its first line. Raises `Exists`."""
        store.mkdir(DIRECTORY, exist_ok=True)
        store.create(segment_path(1), b"")
        journal = cls(store)
        journal.resume(START)
        return journal

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.size

    @property
    def durable(self) -> Position:
        """After the last line that is on the disk."""
        return self._durable

    @property
    def failed(self) -> bool:
        """Whether a write failed: then nothing more is taken until the journal is opened anew."""
        return self._failed

    @property
    def pending(self) -> bool:
        """Whether lines are staged that nobody has taken yet."""
        return bool(self._lines)

    def read_from(self, position: Position) -> Iterator[Entry]:
        """The lines after `position`, each checked to follow from the one before it.

        It ends at the last durable line, or before `resume` at the end of the file.

        Raises:
            IntegrityError: a line does not follow, or the last one is cut short; says which.
            FormatVersion: a line is of a later version.
        """
        at = Link(position.seq, position.head)
        for raw, end in self.raw_from(position):
            try:
                line, at = follow(raw, at)
            except (IntegrityError, FormatVersion) as error:
                raise type(error)(f"line {at.seq + 1} of {self._shown}: {error.message}", error.hint) from error
            yield Entry(line, Position(position.segment, end, at.seq, at.head))

    def raw_from(self, position: Position) -> Iterator[tuple[bytes, int]]:
        """The lines after `position` as they are, each with the offset of its end; the last may lack its newline."""
        if position.segment != 1:
            raise FormatVersion(
                "the journal has several segments, this program reads one", "use the version of vaultd that wrote it"
            )
        stop = self._durable.offset if self._ready else self._file.size
        if position.offset > stop:
            raise IntegrityError(
                f"{self._shown} has {stop} bytes where {position.offset} were known", "restore the vault from a backup"
            )
        offset = position.offset
        rest = b""
        while offset < stop:
            chunk = self._file.pread(offset, min(_CHUNK, stop - offset))
            if not chunk:
                raise IntegrityError(
                    f"{self._shown} was cut while it was read", "find out who changes the vault's files"
                )
            start = offset - len(rest)
            offset += len(chunk)
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                start += len(line) + 1
                yield line + b"\n", start
            if len(rest) > MAX_LINE:
                break
        if rest:
            yield rest, offset

    def resume(self, position: Position) -> bytes:
        """Go on after `position`: cut what stands behind it, and take lines from here on.

        Returns:
            What was cut: lines that never counted, or the torn end of a write that a crash interrupted.

        Raises:
            IntegrityError: the file ends before `position`.
        """
        if position.segment != 1 or position.offset > self._file.size:
            raise IntegrityError(f"{self._shown} ends before its last known line", "restore the vault from a backup")
        cut = self._file.pread(position.offset, self._file.size - position.offset)
        if cut:
            self._file.truncate(position.offset)
        self._taken = self._durable = position
        self.seq, self.head, self._offset = position.seq, position.head, position.offset
        self._ready = True
        return cut

    def require_open(self) -> None:
        """Raise `Halted` after a failed write, `Internal` before `resume`."""
        if self._failed:
            raise Halted("the audit journal cannot be written", "see the log, repair the cause, then restart vaultd")
        if not self._ready:
            raise Internal("the journal was not resumed")

    def stage(self, line: bytes, head: bytes, receipt: Receipt) -> None:
        """Put one line, whose hash is `head`, behind those staged."""
        self._lines.append(line)
        self._receipts.append(receipt)
        self._offset += len(line)
        self.seq += 1
        self.head = head

    def take(self) -> Batch | None:
        """Everything staged since the last call, or None; batches must be written in the order they were taken."""
        if not self._lines:
            return None
        end = Position(1, self._offset, self.seq, self.head)
        batch = Batch(b"".join(self._lines), self._taken, end, tuple(self._receipts))
        self._lines, self._receipts, self._taken = [], [], end
        return batch

    def write(self, batch: Batch) -> None:
        """Append a batch and make it durable. May run in another thread than staging; one call at a time.

        Raises:
            IntegrityError: somebody else removed, replaced, cut, linked or grew the file.
            StoreError: the disk refused.
            Halted: an earlier write failed. After any of these nothing is acknowledged and nothing is tried again.
        """
        self.require_open()
        try:
            if batch.start != self._durable or self._file.size != batch.start.offset:
                raise Internal("audit batches were written out of order")  # noqa: TRY301 (must halt as any failure)
            self._file.check()
            self._file.append(batch.data)
            self._file.flush()
        except BaseException:
            self._failed = True
            raise
        self._durable = batch.end

    def close(self) -> None:
        """Let go of the file; staged lines are lost."""
        self._file.close()
