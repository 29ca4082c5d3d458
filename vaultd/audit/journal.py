"""The journal's files: lines are staged in memory, taken as a batch, and written by whoever may wait for the disk.

Staging belongs to the thread that decides; writing may run in another meanwhile, because a batch never changes. The
journal lies in segments: a batch may end one, never cross into the next. The next segment's file is there and durable
before the batch that ends the one before is; whoever opens the journal names the current one, as the anchor does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.canonical import parse_timestamp
from vaultd.audit.chain import GENESIS, Line, Link, follow
from vaultd.audit.lines import last_lines, lines_of
from vaultd.audit.segments import DIRECTORY, UNBOUNDED, Place, SegmentLimits, numbers, segment_path
from vaultd.errors import FormatVersion, Halted, IntegrityError, Internal, NotFound, Unavailable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from vaultd.audit.receipt import Receipt
    from vaultd.audit.tags import Tag
    from vaultd.store import AppendFile, Store

__all__ = ["DIRECTORY", "START", "Batch", "Entry", "Journal", "Position", "segment_path"]

_RESTORE: Final = "restore the vault from a backup"


class Position(NamedTuple):
    """A point between two lines."""

    segment: int
    offset: int
    """Bytes of the segment before it."""
    seq: int
    """Sequence number of the line before it, 0 at the very start."""
    head: bytes
    """Hash of the line before it."""

    @property
    def place(self) -> Place:
        """The same without what stands before it."""
        return Place(self.segment, self.offset)


START: Final = Position(1, 0, 0, GENESIS)


class Entry(NamedTuple):
    """A line that follows from the one before it, and where the next one starts."""

    line: Line | Tag
    after: Position


@dataclass(frozen=True, slots=True)
class Batch:
    """Lines that go to the disk together."""

    data: bytes
    start: Position
    end: Position
    """In the next segment, if the lines are the last of theirs."""
    receipts: tuple[Receipt, ...]
    """Of these lines, in their order; to be marked durable once `Journal.write` has returned."""


class Journal:
    """An open journal. Read it from a known position, `resume` after the last line that counts, then stage and write.

    Args:
        begin: what the first line follows: not `START` when segments were pruned. Earlier files are not looked at.
        current: the segment that is written to; the last one when left out. An empty one behind it, as a crash leaves,
            goes with `resume`.

    Raises:
        NotFound: there is none; `create` makes it.
        IntegrityError: a segment is missing, or there is one too many.
    """

    def __init__(self, store: Store, *, begin: Position = START, current: int | None = None) -> None:
        found = numbers(store.list(DIRECTORY))
        if not found:
            raise NotFound("there is no audit journal")
        self._store = store
        self.begin = begin
        """What the first line that is left follows."""
        self.limits: SegmentLimits = UNBOUNDED
        """When a segment is full; may be changed at any time."""
        self._segment = found[-1] if current is None else current
        self._unused = self._hold_segments(found)
        # Number and file in one: readers see both change at once.
        self._current = (self._segment, store.append(segment_path(self._segment)))
        self._old: list[AppendFile] = []
        self._readers = 0
        self._ready = False
        self._failed = False
        self._lines: list[bytes] = []
        self._receipts: list[Receipt] = []
        self._taken = begin
        self._durable = begin
        self.seq = 0
        """Of the last line staged."""
        self.head = GENESIS
        """Hash of the last line staged."""
        self._offset = 0
        self._begun = 0  # wall time of the current segment's first line

    def _hold_segments(self, found: list[int]) -> bool:
        """Hold that every segment is there and none too many; whether an unused one lies behind the last."""
        for segment in range(self.begin.segment, self._segment + 1):
            if segment not in found:
                raise IntegrityError(f"{self._shown(segment)} is gone", _RESTORE)
        behind = [segment for segment in found if segment > self._segment]
        if not behind:
            return False
        with self._opened(behind[0]) as file:
            # The file is made before the anchor says so, and holds nothing before it does.
            if behind != [self._segment + 1] or file.size:
                raise IntegrityError(
                    f"{self._shown(behind[0])} lies behind the journal's known end",
                    "find out who put it there; if nothing but it was changed, move it away",
                )
        return True

    @classmethod
    def create(cls, store: Store) -> Journal:
        """Make an empty journal, ready for its first line. Raises `Exists`."""
        store.mkdir(DIRECTORY, exist_ok=True)
        store.create(segment_path(1), b"")
        journal = cls(store)
        journal.resume(START)
        return journal

    def _shown(self, segment: int) -> str:
        return f"{self._store.location}/{segment_path(segment)}"

    @property
    def size(self) -> int:
        """Bytes in the current segment's file."""
        return self._current[1].size

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

    @property
    def begins_segment(self) -> bool:
        """Whether the next line staged is the first of its segment."""
        return self._offset == 0

    # Reading

    def read_from(self, position: Position) -> Iterator[Entry]:
        """The lines after `position`, each checked to follow from the one before it.

        It ends at the last durable line, or before `resume` at the end of the last file.

        Raises:
            IntegrityError: a line does not follow, or the last one is cut short; says which.
            FormatVersion: a line is of a later version.
        """
        at = Link(position.seq, position.head)
        for raw, place, first in self._walk(position.place):
            try:
                line, at = follow(raw, at, first=first)
            except (IntegrityError, FormatVersion) as error:
                segment = place.segment if place.offset else place.segment - 1
                raise type(error)(
                    f"line {at.seq + 1} of {self._shown(segment)}: {error.message}", error.hint
                ) from error
            yield Entry(line, Position(*place, at.seq, at.head))

    def raw_from(self, place: Place) -> Iterator[tuple[bytes, Place]]:
        """The lines after `place` as they are, each with the place behind it; the last may lack its newline.

        Raises:
            Unavailable: the lines there were pruned.
        """
        for raw, after, _ in self._walk(place):
            yield raw, after

    def _walk(self, place: Place) -> Iterator[tuple[bytes, Place, bool]]:
        """Lines, the place behind each, and whether it is the first of its segment."""
        stop = self._durable.place if self._ready else Place(self._current[0], self._current[1].size)
        if place > stop:
            with self._reading(min(place.segment, stop.segment)) as file:
                raise IntegrityError(
                    f"{self._shown(place.segment)} has {file.size} bytes where {place.offset} were known", _RESTORE
                )
        for segment in range(place.segment, stop.segment + 1):
            start = place.offset if segment == place.segment else 0
            with self._reading(segment) as file:
                end = stop.offset if segment == stop.segment else file.size
                if start > end:
                    raise IntegrityError(f"{self._shown(segment)} has {end} bytes where {start} were known", _RESTORE)
                for raw, behind in lines_of(file, self._shown(segment), start, end):
                    # The end of a segment and the beginning of the next are one place: the latter names it.
                    last = behind == end and segment < stop.segment
                    yield raw, Place(segment + 1, 0) if last else Place(segment, behind), behind == len(raw)
                    if not raw.endswith(b"\n"):
                        return

    @contextmanager
    def _opened(self, segment: int) -> Generator[AppendFile]:
        file = self._store.append(segment_path(segment))
        try:
            yield file
        finally:
            file.close()

    @contextmanager
    def _reading(self, segment: int) -> Generator[AppendFile]:
        """A segment's file for as long as it is read: what was current then stays open although another is now."""
        number, file = self._current
        if segment != number:
            if segment < self.begin.segment:
                raise Unavailable("records were pruned while they were read", "begin anew")
            with self._opened(segment) as file:
                yield file
            return
        self._readers += 1
        try:
            yield file
        finally:
            self._readers -= 1
            self._close_old()

    def _close_old(self) -> None:
        while self._old and not self._readers:
            self._old.pop().close()

    def last_before(self, position: Position, count: int) -> list[bytes]:
        """The last `count` lines before a position as they are; fewer where the journal begins.

        Raises:
            IntegrityError: the segment ends before it.
        """
        found: list[bytes] = []
        for segment in range(position.segment, self.begin.segment - 1, -1):
            with self._reading(segment) as file:
                end = position.offset if segment == position.segment else file.size
                if end > file.size:
                    raise IntegrityError(f"{self._shown(segment)} ends before its last known line", _RESTORE)
                found = last_lines(file, end, count - len(found)) + found
            if len(found) >= count:
                break
        return found

    def settled(self, position: Position) -> Position:
        """The same point as reading gives it: the end of a segment that is not the last is the next one's beginning."""
        if position.segment < self._current[0]:
            with self._reading(position.segment) as file:
                if position.offset == file.size:
                    return position._replace(segment=position.segment + 1, offset=0)
        return position

    # Writing

    def resume(self, position: Position) -> bytes:
        """Go on after `position`: cut what stands behind it, and take lines from here on.

        Returns:
            What was cut: lines that never counted, or the torn end of a write that a crash interrupted.

        Raises:
            IntegrityError: the file ends before `position`, or it is not the last.
        """
        segment, file = self._current
        if position.segment != segment or position.offset > file.size:
            raise IntegrityError(f"{self._shown(segment)} ends before its last known line", _RESTORE)
        if self._unused:
            self._store.remove(segment_path(segment + 1))
            self._unused = False
        cut = file.pread(position.offset, file.size - position.offset)
        if cut:
            file.truncate(position.offset)
        else:
            # A process that was killed may have written these lines and not flushed them. They count from here on, so
            # they must be on the disk before an anchor, or the seal's state, says so.
            file.flush()
        self._taken = self._durable = position
        self.seq, self.head, self._offset = position.seq, position.head, position.offset
        if position.offset:
            self._begun = _time(next(lines_of(file, self._shown(segment), 0, position.offset))[0])
        self._ready = True
        return cut

    def require_open(self) -> None:
        """Raise `Halted` after a failed write, `Internal` before `resume`."""
        if self._failed:
            raise Halted("the audit journal cannot be written", "see the log, repair the cause, then restart vaultd")
        if not self._ready:
            raise Internal("the journal was not resumed")

    def stage(self, line: bytes, head: bytes, receipt: Receipt | None = None) -> None:
        """Put one line, whose hash is `head`, behind those staged; a tag line has no receipt."""
        if not self._offset:
            self._begun = _time(line)
        self._lines.append(line)
        if receipt is not None:
            self._receipts.append(receipt)
        self._offset += len(line)
        self.seq += 1
        self.head = head

    def full(self, now: int) -> bool:
        """Whether the segment that lines are staged for has had its size or, at wall time `now`, its time."""
        size, age = self.limits
        return bool(self._offset) and (
            (size is not None and self._offset >= size) or (age is not None and now - self._begun >= age)
        )

    def take(self, *, closing: bool = False) -> Batch | None:
        """Everything staged since the last call, or None; batches must be written in the order they were taken.

        Args:
            closing: the segment ends here, and the batch makes the next one's file.
        """
        self._close_old()
        if not self._lines and not closing:
            return None
        if closing:
            self._segment, self._offset = self._segment + 1, 0
        end = Position(self._segment, self._offset, self.seq, self.head)
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
            segment, file = self._current
            if batch.start != self._durable or batch.start.segment != segment or file.size != batch.start.offset:
                raise Internal("audit batches were written out of order")  # noqa: TRY301 (must halt as any failure)
            file.check()
            if batch.data:
                file.append(batch.data)
                file.flush()
            if batch.end.segment != segment:
                self._begin_segment(batch.end.segment)
        except BaseException:
            self._failed = True
            raise
        self._durable = batch.end

    def _begin_segment(self, segment: int) -> None:
        self._store.create(segment_path(segment), b"")
        before = self._current[1]
        self._current = (segment, self._store.append(segment_path(segment)))
        self._old.append(before)  # closed by the thread that reads, when nobody does

    def close(self) -> None:
        """Let go of the files; staged lines are lost."""
        self._readers = 0
        self._close_old()
        self._current[1].close()


def _time(line: bytes) -> int:
    """Wall time of a line, nanoseconds; one that says none is old: reading it is what finds that it is bad."""
    at = line.find(b'"time":"') + 8
    try:
        return parse_timestamp(line[at : at + 27].decode("ascii"))
    except ValueError:
        return 0
