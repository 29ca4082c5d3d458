"""Values of any size on their way out: read piece by piece by ranges, or once, in order, through a pipe."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, Final

from vaultclient._memory import check_sealed, read_into
from vaultclient.errors import Invalid, Unavailable
from vaultd.protocol import MAX_TAIL, wipe

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultclient._calls import Answer

__all__ = ["AT_ONCE", "Place", "ValueFile", "ValueStream"]

AT_ONCE: Final = 1 << 20
"""Most bytes of one range: every daemon gives as many in a memory file."""


class Place:
    """Where in a value a reader is, and what was read ahead. Does no I/O of its own."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.at = 0
        self._ahead = bytearray()
        self._ahead_at = 0

    def wanted(self, room: int) -> tuple[int, int]:
        """Offset and length of the range to ask for; a short one is asked for as a whole tail, to go on in."""
        return self.at, min(AT_ONCE, room) if room > MAX_TAIL else MAX_TAIL

    def take_ahead(self, view: memoryview) -> int:
        """Bytes that are here already, into `view`."""
        skip = self.at - self._ahead_at
        if not 0 <= skip < len(self._ahead):
            return 0
        count = min(len(view), len(self._ahead) - skip)
        view[:count] = memoryview(self._ahead)[skip : skip + count]
        self.at += count
        return count

    def take(self, answer: Answer, view: memoryview) -> int:
        """Bytes of the answer to what was `wanted`, into `view`; the rest of a tail is kept.

        Raises:
            Unavailable: the answer is shorter than the value.
        """
        if answer.fd is not None:
            with answer:
                count = read_into(answer.fd, view)
            self.at += count
            return count
        wipe(self._ahead)
        self._ahead, answer.tail, self._ahead_at = answer.tail, bytearray(), self.at
        if not self._ahead and self.at < self.size:
            raise Unavailable(f"the value ends at {self.at} of its {self.size} bytes")
        return self.take_ahead(view)

    def seek(self, offset: int, whence: int) -> int:
        """As `io.IOBase.seek`."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}.get(whence)
        if start is None or start + offset < 0:
            raise Invalid("no such place in a value", "count from its beginning, its end, or where the reader is")
        self.at = start + offset
        return self.at

    def forget(self) -> None:
        """Wipe what was read ahead."""
        wipe(self._ahead)
        self._ahead = bytearray()


class ValueFile(io.RawIOBase):
    """A value as a raw binary file, read-only and seekable: each read asks the daemon for a range of it.

    `readinto` fills a buffer of the caller's, who wipes it; `read` gives `bytes`, which nobody can wipe. Reads fail
    with `Denied` once the lease has ended.

    Args:
        ask: gives the answer to a request for (offset, length).
        size: bytes of the value.
    """

    def __init__(self, ask: Callable[[int, int], Answer], size: int) -> None:
        super().__init__()
        self.size = size
        self._ask = ask
        self._place = Place(size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place.at

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        return self._place.seek(offset, whence)

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # of any writable buffer
        self._checkClosed()
        with memoryview(buffer) as given, given.cast("B") as view:
            if not len(view) or self._place.at >= self.size:
                return 0
            return self._place.take_ahead(view) or self._place.take(self._ask(*self._place.wanted(len(view))), view)

    def close(self) -> None:
        if not self.closed:
            self._place.forget()
        super().close()


class ValueStream(io.RawIOBase):
    """A value, or a range of it, as a raw binary file that is read once, in order: for copying what is large.

    A stream that ends before its last byte raises: what was read until then is not the value.

    Args:
        answer: what brings it: a tail, a memory file or a pipe; becomes this object's.
        length: bytes that must come.
        why: asks the daemon for what comes at this place of the stream; raises what the daemon has to say.
    """

    def __init__(self, answer: Answer, length: int, why: Callable[[int], object]) -> None:
        super().__init__()
        self.length = length
        self._answer = answer
        self._why = why
        self._done = 0
        if answer.fd is not None and not answer.pipe:
            try:
                check_sealed(answer.fd)
            except BaseException:
                answer.close()
                raise

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        """The descriptor of what is left, for a child to read and count; raises where there is none."""
        if self._answer.fd is None:
            raise io.UnsupportedOperation("fileno")
        return self._answer.fd

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # type: ignore[override]  # of any writable buffer
        self._checkClosed()
        with memoryview(buffer) as given, given.cast("B") as view:
            room = view[: self.length - self._done]
            if not len(room):
                return 0
            if self._answer.fd is None:
                count = len(room)
                room[:] = memoryview(self._answer.tail)[self._done : self._done + count]
            elif self._answer.pipe:
                count = os.readv(self._answer.fd, [room])
            else:
                count = os.preadv(self._answer.fd, [room], self._done)
            if not count:
                self._why(self._done)
                raise Unavailable(
                    f"the stream ended after {self._done} of {self.length} bytes",
                    "what came is not the value; the lease ended, or the daemon stopped: ask again",
                )
            self._done += count
            return count

    def close(self) -> None:
        if not self.closed:
            self._answer.close()
        super().close()
