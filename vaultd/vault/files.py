"""Files in and out of the embedded vault: a source that must not change while it is read, and a value as a file.

Whoever stores a file means one state of it. A source that grows, shrinks or is written to while it is read is none, and
one with holes has parts that nobody wrote: each is an error that names it, and nothing is stored.
"""

from __future__ import annotations

import io
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, BinaryIO, Final, NamedTuple

from vaultd.crypto.memory import wipe
from vaultd.errors import Conflict, IntegrityError, Invalid, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vaultd.vault.streams import BlobReader, BlobWriter

__all__ = ["FileSource", "SecretFile", "feed"]

FileSource = str | os.PathLike[str] | BinaryIO
"""A path, or a file open for reading bytes, which is read from where it stands to its end."""

_PIECE: Final = 1 << 18
_STILL: Final = "let whatever writes to it finish, or copy it first"


class _Facts(NamedTuple):
    """What must be the same before and after."""

    size: int
    modified: int
    changed: int


def feed(source: FileSource, writer: BlobWriter, *, sparse: bool = False) -> None:
    """Write a whole source into `writer`.

    Args:
        sparse: take holes for the zeros that they read as.

    Raises:
        Conflict: a regular file grew, shrank or was written to meanwhile.
        Invalid: it has holes, or is a directory, or is not open for bytes.
        StoreError: it cannot be read.
    """
    if isinstance(source, str | os.PathLike):
        with _reading(), open(source, "rb", buffering=0) as file:
            _feed(file, writer, sparse=sparse)
    else:
        with _reading():
            _feed(source, writer, sparse=sparse)


def _feed(file: Any, writer: BlobWriter, *, sparse: bool) -> None:
    fd = _regular(file)
    begin = 0 if fd is None else file.tell()
    before = None if fd is None else _facts(fd)
    if fd is not None and not sparse:
        _hold_whole(fd, begin)
    count = 0
    # One buffer, wiped: neither `read` nor a buffered file's own could be.
    with memoryview(bytearray(_PIECE)) as buffer:
        try:
            while read := _read(file, buffer):
                writer.write(buffer[:read])
                count += read
        finally:
            wipe(buffer)
    if fd is not None and before is not None:
        after = _facts(fd)
        if begin + count != before.size or after.size != before.size:
            verb = "shrank" if min(begin + count, after.size) < before.size else "grew"
            raise Conflict(f"the file {verb} while it was read, from {before.size} to {after.size} bytes", _STILL)
        if after != before:
            raise Conflict("the file was written to while it was read", _STILL)


def _read(file: Any, buffer: memoryview) -> int:
    if hasattr(file, "readinto"):
        count = file.readinto(buffer)
        if count is None:
            raise Invalid("the file is not ready to be read", "open it in blocking mode")
        return int(count)
    data = file.read(len(buffer))
    if not isinstance(data, bytes | bytearray):
        raise Invalid("the file is not open for bytes", 'open it with mode "rb"')
    buffer[: len(data)] = data
    return len(data)


def _regular(file: Any) -> int | None:
    """The descriptor behind a file, if it is of a regular file on a disk."""
    try:
        fd = file.fileno()
    except (AttributeError, OSError):
        return None
    return int(fd) if stat.S_ISREG(os.fstat(fd).st_mode) else None


def _facts(fd: int) -> _Facts:
    found = os.fstat(fd)
    return _Facts(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _hold_whole(fd: int, begin: int) -> None:
    """Hold that there are no holes behind `begin`. Leaves the file where it stands."""
    size, here = os.fstat(fd).st_size, os.lseek(fd, 0, os.SEEK_CUR)
    if begin >= size:
        return
    try:
        hole = os.lseek(fd, begin, os.SEEK_HOLE)
    finally:
        os.lseek(fd, here, os.SEEK_SET)
    if hole < size:
        raise Invalid(
            f"the file has a hole at byte {hole}: a part that was never written",
            "fill it with: cp --sparse=never FILE COPY; or say that holes are zeros with sparse=True",
        )


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        words = os.strerror(error.errno).lower() if error.errno else "unknown error"
        raise StoreError(f"cannot read the file: {words}", "check its path and permissions") from error


class SecretFile(io.RawIOBase):
    """A value as a file to be read: seekable, unbuffered, and gone when it is closed.

    `readinto` fills a buffer that its owner can wipe. `read`, and an `io.BufferedReader` around it, make copies that
    nobody wipes.

    Args:
        reader: becomes this object's.
        damaged: called when a read found the value changed, before the error goes on.
    """

    def __init__(self, reader: BlobReader, damaged: Callable[[BlobReader], None]) -> None:
        super().__init__()
        self._reader = reader
        self._damaged = damaged
        self._at = 0

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return self._reader.size

    @property
    def version(self) -> int:
        """Which version it is."""
        return self._reader.ref.version

    def readable(self) -> bool:
        """It is."""
        self._open()
        return True

    def seekable(self) -> bool:
        """It is."""
        self._open()
        return True

    def readinto(self, buffer: Any) -> int:
        """Read on into `buffer`; returns how many bytes, 0 at the end.

        Raises:
            IntegrityError: the file in the vault was changed; recorded.
            Sealed, NotFound: the tenant was sealed, the version destroyed meanwhile.
        """
        self._open()
        try:
            count = self._reader.read_into(self._at, buffer)
        except IntegrityError:
            self._damaged(self._reader)
            raise
        self._at += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place, which may lie behind the end; returns it."""
        self._open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._reader.size}.get(whence)
        if base is None or base + offset < 0:
            raise ValueError("a place before the beginning, or counted from nowhere")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Where the next read begins."""
        self._open()
        return self._at

    def close(self) -> None:
        """Wipe what is in memory of it."""
        if not self.closed:
            self._reader.close()
        super().close()

    def _open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")
