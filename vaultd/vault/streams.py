"""A blob on its way in and on its way out: `BlobWriter` and `BlobReader`, in constant memory.

Both work on one thread at a time, but not on a certain one: what is said to be for a worker thread touches nothing of
the vault's but its own keys, buffers and file. The thread that decides may end either at any moment (`end`): a call
that is under way is finished first, its result is withheld, and keys are wiped when nothing uses them any more.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Self

from vaultd.crypto.memory import Key, SecretBytes, wipe
from vaultd.crypto.primitives import does_not_open
from vaultd.crypto.stream import check_size
from vaultd.crypto.values import VALUE_MAX, pad
from vaultd.errors import Conflict, Internal, Invalid, VaultdError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultd.audit.body import Actor
    from vaultd.crypto.stream import StreamOpener, StreamSealer
    from vaultd.store import NewFile, RangeFile
    from vaultd.vault.blob_place import BlobPlace, Share
    from vaultd.vault.sealing import SecretRef, Stored

__all__ = ["BlobReader", "BlobWriter", "Stream"]


def _ended() -> VaultdError:
    return Conflict("the file was closed already", "open it anew")


class Stream:
    """What a writer and a reader share: one user at a time, and an end that anybody may bring."""

    file: bytes | None = None
    """The blob's id; None for a value in the log, and while nothing is in a file yet."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: tuple[type[VaultdError], str, str] | None = None
        self._cleaned = False

    def end(self, error: VaultdError) -> None:
        """Let every call from now on fail with `error`; the first error stays. For the thread that decides."""
        self._fail(error)
        self._clean()

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to do with it."""
        return self._error is not None

    @contextmanager
    def _using(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            self._still()  # it may be that it is just being cleared up
            raise Internal("a stream was used by two threads at once")
        try:
            self._still()
            yield
        finally:
            self._lock.release()
            if self._error is not None:
                self._clean()
        self._still()  # if it was ended while this went on, whatever came of it is not to be used

    def _still(self) -> None:
        if self._error is not None:
            kind, message, hint = self._error
            raise kind(message, hint)

    def _fail(self, error: BaseException) -> None:
        # Its words, not itself: an error keeps the frames that it came through, and what is in them.
        if self._error is None:
            known = error if isinstance(error, VaultdError) else _ended()
            self._error = type(known), known.message, known.hint

    def _clean(self) -> None:
        # Whoever finds it in use leaves it to the user, who looks again after letting go: one of the two cleans up.
        if self._lock.acquire(blocking=False):
            try:
                if not self._cleaned:
                    self._cleaned = True
                    self._drop()
            finally:
                self._lock.release()

    def _drop(self) -> None:
        """Wipe and close everything. Called once, with nobody inside."""
        raise NotImplementedError


class BlobWriter(Stream):
    """Takes in a new version's value in pieces; made by `Barrier.put_stream`.

    Up to 1 MiB it gathers in memory and becomes a value like any other. Beyond that it is sealed chunk by chunk into a
    file that has no name until it is whole. Nothing of it shows before `finish`; `abort`, or the end of a `with` block
    without `finish`, leaves nothing.

    Threads: `write` and `seal` do all the sealing and all the file's work and may run in a worker thread, one call at a
    time. `finish` belongs to the thread that decides; after `seal` it only stages the record.

    Attributes:
        size: bytes taken in so far.
        actor: who finishes it, for the record, when that is another than who began it.
    """

    def __init__(
        self,
        place: BlobPlace,
        share: Share,
        finish: Callable[[BlobWriter], Stored],
    ) -> None:
        super().__init__()
        self.size = 0
        self.actor: Actor | None = None
        self.data_key = Key.random()
        self._place, self._share, self._finish = place, share, finish
        # Of fixed size, all of them: a buffer that grew would leave copies of what is in it behind.
        self._value: bytearray | None = bytearray(VALUE_MAX)
        self._chunk = self._sealed = bytearray()
        self._fill = 0
        self._sealer: StreamSealer | None = None
        self._file: NewFile | None = None
        self._whole = False
        self._kept = False

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Take in more of the value; returns how many bytes, which is all of them.

        Raises:
            StoreError: the disk refuses (full, for one); nothing is left of the file.
            QuotaExceeded: the tenant may not keep as much.
            Sealed, NotFound: the tenant was sealed or deleted meanwhile.
        """
        with self._using(), self._or_end(), memoryview(data) as given, given.cast("B") as view:
            if self._whole:
                raise Internal("a value was written to after its end")
            check_size(self.size + len(view) or 1)
            self._share.grow(self.size + len(view))
            if self._value is not None and self.size + len(view) <= VALUE_MAX:
                self._value[self.size : self.size + len(view)] = view
            else:
                if self._value is not None:
                    self._spill(self._value)
                self._feed(view)
            self.size += len(view)
            return len(view)

    def seal(self) -> None:
        """End the value: seal the last chunk, make the file durable and give it its name. No record names it yet.

        Raises:
            Invalid: the value is empty.
            StoreError: the disk refuses; nothing is left of the file.
        """
        with self._using(), self._or_end():
            if self._whole:
                return
            if not self.size:
                raise Invalid("a secret's value is empty", "give at least one byte")
            if self._sealer is not None and self._file is not None:
                self._pad(self._sealer)
                self._file.commit()
            self._whole = True

    def finish(self) -> Stored:
        """Seal, if that is not done, and stage the record: the version is there once a flush has made it durable.

        Raises:
            Conflict: `cas` names another version by now.
            QuotaExceeded: the tenant may not keep any more.
            As `write` and `seal`. Whatever it raises, nothing is left.
        """
        self.seal()
        try:
            stored = self._finish(self)
        except BaseException as error:
            self.end(error if isinstance(error, VaultdError) else _ended())
            raise
        self._kept = True
        self.end(_ended())
        return stored

    def abort(self) -> None:
        """Give it up: nothing is left of it. May be called again, and after `finish`, when it does nothing."""
        self.end(_ended())

    def value(self) -> SecretBytes | None:
        """The value, if it is short enough to be one in the log; the caller wipes it."""
        return None if self._value is None else SecretBytes.copy_of(memoryview(self._value)[: self.size])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def _spill(self, value: bytearray) -> None:
        """It is more than a value in the log may be: begin the file with what there is."""
        self._file = self._place.begin()
        self.file = self._place.file
        self._sealer = self._place.sealer(self.data_key)
        self._chunk = bytearray(self._sealer.chunk)
        self._sealed = bytearray(self._sealer.sealed_chunk)
        self._file.append(self._sealer.header)
        with memoryview(value) as view:
            self._feed(view[: self.size])
        wipe(value)
        self._value = None

    def _feed(self, view: memoryview) -> None:
        whole, at = len(self._chunk), 0
        while at < len(view):
            # A whole chunk is held back until more comes: it might be the last, which is sealed as such.
            if self._fill == whole:
                self._emit(self._chunk)
                self._fill = 0
            if not self._fill and len(view) - at > whole:
                self._emit(view[at : at + whole])  # out of the caller's memory: no copy
                at += whole
                continue
            count = min(whole - self._fill, len(view) - at)
            self._chunk[self._fill : self._fill + count] = view[at : at + count]
            self._fill += count
            at += count

    def _emit(self, chunk: bytearray | memoryview, size: int | None = None) -> None:
        if self._sealer is None or self._file is None:
            raise Internal("a chunk was sealed before there was a file")
        length = self._sealer.seal(chunk, self._sealed, size=size)
        self._file.append(memoryview(self._sealed)[:length])

    def _pad(self, sealer: StreamSealer) -> None:
        left = pad(self.size) - (self.size - self._fill)
        with memoryview(self._chunk) as chunk:
            while left:
                wipe(chunk[self._fill :])  # padding is zeros
                count = min(left, sealer.chunk)
                left -= count
                self._emit(chunk[:count], None if left else self.size)
                self._fill = 0

    @contextmanager
    def _or_end(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            # What is in the file now is not known, so nothing may follow it; `_using` then clears up.
            self._fail(error)
            raise

    def _drop(self) -> None:
        self._share.release()
        self.data_key.wipe()
        if self._sealer is not None:
            self._sealer.wipe()
        for buffer in (self._value, self._chunk):
            if buffer:
                wipe(buffer)
        if self._file is not None:
            self._file.abort()
        if self.file is not None and not self._kept:
            # It may have its name, and no record has it. If it cannot be removed now, the tenant's next opening does.
            with suppress(VaultdError):
                self._place.remove()


class BlobReader(Stream):
    """Reads any part of a version's value; made by `Barrier.open_blob`.

    Each chunk that a read touches is verified whole before a byte of it is given out, and the last one, which binds the
    size, before the first. A version that is destroyed, or a tenant that is sealed, closed or deleted ends it; rotating
    keys does not.

    Threads: `read_into` may run in a worker thread, one call at a time. `close` may be called from any.

    Attributes:
        size: bytes of the value.
        ref: which version it is.
    """

    def __init__(
        self, ref: SecretRef, *, value: SecretBytes | None = None, blob: tuple[RangeFile, StreamOpener] | None = None
    ) -> None:
        super().__init__()
        self.ref = ref
        self._value = value
        self._blob = blob
        self._held: int | None = None
        self._ends_well = False
        self._sealed = self._plain = bytearray()
        if value is not None:
            self.size = len(value)
        elif blob is not None:
            self.size = blob[1].layout.size
            self._sealed = bytearray(blob[1].sealed_chunk)
            self._plain = bytearray(blob[1].layout.chunk)
        else:
            raise Internal("a reader without anything to read")

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` with the value from `offset` on.

        Returns:
            How many bytes were filled in: fewer than there is room for only at the value's end.

        Raises:
            IntegrityError: the file was changed, cut or exchanged; `buffer` holds nothing of it. Hand the reader to
                `Barrier.record_damage`.
            Sealed, NotFound: it was ended, as the class says.
            StoreError: the disk cannot be read.
        """
        if offset < 0:
            raise Invalid("an offset is negative", "count from 0")
        with memoryview(buffer) as given, given.cast("B") as view:
            count = min(len(view), max(0, self.size - offset))
            try:
                with self._using():
                    if self._value is not None:
                        view[:count] = self._value.view()[offset : offset + count]
                    else:
                        self._read(offset, view[:count])
            except BaseException:
                wipe(view)  # not a byte of what was read before it went wrong
                raise
            return count

    def close(self) -> None:
        """Wipe and close it. May be called again."""
        self.end(_ended())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, offset: int, view: memoryview) -> None:
        if self._blob is None:
            raise Internal("a reader without anything to read")
        layout = self._blob[1].layout
        if not self._ends_well:
            self._take(layout.chunks - 1, self._plain)
            self._held, self._ends_well = layout.chunks - 1, True
        done = 0
        while done < len(view):
            index, begin = divmod(offset + done, layout.chunk)
            content = layout.content(index)
            count = min(content - begin, len(view) - done)
            if index != self._held and count == layout.chunk:
                self._take(index, view[done : done + count])  # straight into the caller's memory: no copy
            else:
                if index != self._held:
                    self._held = None  # what is there now is about to go
                    self._take(index, self._plain)
                    self._held = index
                with memoryview(self._plain) as plain:
                    view[done : done + count] = plain[begin : begin + count]
            done += count

    def _take(self, index: int, out: bytearray | memoryview) -> None:
        if self._blob is None:
            raise Internal("a reader without anything to read")
        file, opener = self._blob
        length = opener.layout.plain(index) + opener.layout.algorithm.tag
        with memoryview(self._sealed) as whole, whole[:length] as sealed:
            if file.read_into(opener.layout.offset(index), sealed) != length:
                raise does_not_open()
            opener.open(index, sealed, out)

    def _drop(self) -> None:
        if self._value is not None:
            self._value.wipe()
        if self._blob is not None:
            file, opener = self._blob
            opener.wipe()
            file.close()
        if self._plain:
            wipe(self._plain)
