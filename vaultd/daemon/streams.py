"""Pipes through which long values leave: chunk by chunk, as their readers read, for as long as the right to them holds.

A worker thread opens a chunk and writes what the pipe takes; then the event loop waits until it takes more. So a reader
that stops costs one chunk of memory and, after a while, its pipe; and no thread ever waits for one.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Final, Protocol

from vaultd.crypto.memory import wipe
from vaultd.daemon.dispatch import describe
from vaultd.daemon.memfd import READABLE
from vaultd.errors import IntegrityError, QuotaExceeded, VaultdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.daemon.config import Limits
    from vaultd.daemon.workers import Workers

__all__ = ["CHUNK", "Reader", "Stream", "Streams"]

_log = logging.getLogger(__name__)

CHUNK: Final = 1 << 18
"""Bytes that are opened at once: a chunk of a blob."""


class Reader(Protocol):
    """What gives a value's verified bytes, as `vaultd.vault` makes it. Any thread may call it, one at a time."""

    @property
    def ended(self) -> bool: ...

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int: ...

    def close(self) -> None: ...


class Streams:
    """All that are under way.

    Args:
        workers: where chunks are opened.
        clock: boot instants (ns).
    """

    def __init__(self, workers: Workers, clock: Callable[[], int]) -> None:
        self._workers = workers
        self._clock = clock
        self._all: set[Stream] = set()
        self._owned: dict[object, set[Stream]] = {}

    def __len__(self) -> int:
        return len(self._all)

    def check(self, uid: int, limits: Limits) -> None:
        """Raise `QuotaExceeded` when one more of this uid, or of anybody, would be too many."""
        if sum(stream.uid == uid for stream in self._all) >= limits.streams_per_uid:
            raise QuotaExceeded("this uid has too many pipes under way", "read some to their end, or close them")
        if len(self._all) >= limits.streams:
            raise QuotaExceeded("too many pipes are under way", "try again when some have ended")

    def start(self, stream: Stream) -> int:
        """Begin to send; the read end of the pipe, which is the caller's.

        Raises:
            OSError: no descriptor is left; the stream has ended.
        """
        try:
            read, write = os.pipe2(os.O_CLOEXEC)
            try:
                os.set_blocking(write, False)  # ours alone: the two ends are two open files
                os.fchmod(read, READABLE)
            except BaseException:
                os.close(read)
                os.close(write)
                raise
        except BaseException:
            stream.reader.close()
            raise
        self._all.add(stream)
        self._owned.setdefault(stream.owner, set()).add(stream)
        self._workers.start(self._send(stream, write))
        return read

    def end_of(self, owner: object) -> None:
        """End those whose right was `owner`: a lease, or a connection."""
        for stream in self._owned.get(owner, ()):  # of a hundred thousand leases that end at once, few have any
            stream.end()

    def end_all(self) -> None:
        """End every one."""
        for stream in self._all:
            stream.end()

    def sweep(self, limits: Limits) -> None:
        """End those that are left unread for too long, and those whose right is gone."""
        now = self._clock()
        for stream in self._all:
            since = stream.stalled_since
            if since is not None and (not stream.holds() or now - since > limits.stream_seconds * 10**9):
                stream.end()

    async def _send(self, stream: Stream, write: int) -> None:
        loop = asyncio.get_running_loop()
        try:
            while stream.left and stream.holds():
                await self._workers.run(stream.step, write)
                if not stream.waiting:
                    continue
                stream.stalled_since = self._clock()
                stream.wake.clear()
                loop.add_writer(write, stream.wake.set)
                try:
                    if not stream.ended:
                        await stream.wake.wait()
                finally:
                    loop.remove_writer(write)
                    stream.stalled_since = None
        except BrokenPipeError:
            pass  # its reader closed it, as it may
        except IntegrityError:
            self._damaged(stream)
        except (VaultdError, OSError) as error:
            _log.info("a pipe ended before its value: %s", describe(error))
        finally:
            self._forget(stream)
            os.close(write)
            stream.close()

    def _forget(self, stream: Stream) -> None:
        self._all.discard(stream)
        owned = self._owned[stream.owner]
        owned.discard(stream)
        if not owned:
            del self._owned[stream.owner]

    @staticmethod
    def _damaged(stream: Stream) -> None:
        _log.error("a file does not verify; its pipe has ended")
        try:
            stream.damaged()
        except VaultdError as error:  # sealed or halted meanwhile
            _log.error("that could not be recorded: %s", error.message)


class Stream:
    """One value or range on its way through a pipe.

    Args:
        reader: of the value; becomes this object's.
        uid: whose it is.
        owner: whose end is this one's end.
        offset: where it begins.
        length: bytes, all of which are there.
        right: whether the right to it still holds.
        damaged: called when a chunk does not verify: it is recorded.

    Attributes:
        left: bytes that have not been written yet.
        stalled_since: boot instant (ns) since which the pipe is full; None while it is not.
        ended: whether it is to end before its time.
        wake: set when there is something to do again.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        uid: int,
        owner: object,
        offset: int,
        length: int,
        right: Callable[[], bool],
        damaged: Callable[[], None],
    ) -> None:
        self.reader = reader
        self.uid = uid
        self.owner = owner
        self.left = length
        self.stalled_since: int | None = None
        self.ended = False
        self.wake = asyncio.Event()
        self.damaged = damaged
        self._offset = offset
        self._right = right
        self._buffer = bytearray(min(CHUNK, length))
        self._ready = memoryview(self._buffer)[:0]
        """What was opened and not written yet."""

    @property
    def waiting(self) -> bool:
        """Whether the pipe took less than there was."""
        return len(self._ready) > 0

    def holds(self) -> bool:
        """Whether more of it may be sent."""
        return not (self.ended or self.reader.ended) and self._right()

    def step(self, write: int) -> None:
        """Open the next chunk, if the one before is written, and write what the pipe takes. In a worker thread.

        Raises:
            IntegrityError: it does not verify; nothing of it was written.
            BrokenPipeError: nobody reads any more.
            VaultdError: as `Reader.read_into`.
        """
        if not self._ready:
            # Whole chunks but for the first and last piece: each is opened once.
            count = min(CHUNK - self._offset % CHUNK, self.left, len(self._buffer))
            piece = memoryview(self._buffer)[:count]
            if self.reader.read_into(self._offset, piece) != count:
                raise IntegrityError("the value is shorter than its record says")
            self._ready = piece
        try:
            while self._ready and not self.ended:
                written = os.write(write, self._ready)
                self._ready = self._ready[written:]
                self._offset += written
                self.left -= written
        except BlockingIOError:
            return
        if not self._ready:
            wipe(self._buffer)

    def end(self) -> None:
        """End it as soon as the chunk that is being opened is."""
        self.ended = True
        self.wake.set()

    def close(self) -> None:
        """Wipe what was opened."""
        self.reader.close()
        self._ready = self._ready[:0]
        wipe(self._buffer)
