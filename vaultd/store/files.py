"""The open files of a directory store: one that grows at its end, one of slots that are overwritten in place."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from vaultd.errors import IntegrityError, Internal, NotFound, StoreError
from vaultd.store.descriptors import system_errors, write_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.store.directory import DirectoryStore

__all__ = ["DirectoryAppendFile", "DirectorySlotFile", "pread"]

_READ_CHUNK: Final = 1 << 20


class DirectoryAppendFile:
    """See `interface.AppendFile`."""

    def __init__(self, store: DirectoryStore, path: str) -> None:
        self._store = store
        self._path = path
        self._shown = store._shown(path)
        self._fd, facts = store._open_file(path, os.O_RDONLY if store._read_only else os.O_RDWR)
        self._identity = (facts.st_dev, facts.st_ino)
        self._size = facts.st_size
        self._failed = False
        self._closed = False

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes) -> int:
        self._may_grow()
        offset = self._size
        with self._or_fail("append to"):
            write_all(self._fd, data, offset)
        self._size = offset + len(data)
        return offset

    def flush(self) -> None:
        self._may_grow()
        with self._or_fail("flush"):
            os.fdatasync(self._fd)

    def pread(self, offset: int, length: int) -> bytes:
        with system_errors("read", self._shown):
            return pread(self._fd, offset, length)

    def truncate(self, size: int) -> None:
        self._may_grow()
        if not 0 <= size <= self._size:
            raise Internal("a file may be cut, not stretched")
        with self._or_fail("cut"):
            os.ftruncate(self._fd, size)
            self._size = size
            os.fsync(self._fd)

    def check(self) -> None:
        try:
            with system_errors("look at", self._shown):
                facts = self._store._stat(self._path)
        except NotFound:
            raise _tampered(self._shown, "is gone") from None
        if (facts.st_dev, facts.st_ino) != self._identity:
            raise _tampered(self._shown, "was replaced by another file")
        if facts.st_size != self._size:
            raise _tampered(self._shown, f"has {facts.st_size} bytes where {self._size} were written")
        if facts.st_nlink != 1 or facts.st_mode & 0o177 or facts.st_uid != self._store._owner:
            raise _tampered(self._shown, "has another owner, mode or number of links")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def _may_grow(self) -> None:
        self._store._writable()
        if self._failed:
            raise StoreError(f"an earlier write to {self._shown} failed", "open the vault again")

    @contextmanager
    def _or_fail(self, action: str) -> Iterator[None]:
        try:
            with system_errors(action, self._shown):
                yield
        except BaseException:
            # After a failed fdatasync the kernel may call the lost pages clean: a second try would say yes and lie.
            self._failed = True
            raise


class DirectorySlotFile:
    """See `interface.SlotFile`."""

    def __init__(self, store: DirectoryStore, path: str, size: int, count: int) -> None:
        self._shown = store._shown(path)
        self._slot_size = size
        self._count = count
        self._fd, facts = store._open_file(path, os.O_RDONLY if store._read_only else os.O_RDWR)
        self._closed = False
        if facts.st_size != size * count:
            self.close()
            raise IntegrityError(
                f"{self._shown} does not have the length of its kind", "restore the vault from a backup"
            )
        if not store._read_only:
            try:
                with system_errors("flush", self._shown):
                    # A killed process may have left what is read here in memory alone, and who reads it acts on it.
                    os.fdatasync(self._fd)
            except BaseException:
                self.close()
                raise

    def read(self, index: int) -> bytes:
        with system_errors("read", self._shown):
            data = pread(self._fd, self._offset(index), self._slot_size)
        if len(data) != self._slot_size:
            raise IntegrityError(f"{self._shown} was cut", "restore the vault from a backup")
        return data

    def read_into(self, index: int, buffer: bytearray) -> None:
        with system_errors("read", self._shown):
            done = os.preadv(self._fd, [buffer], self._offset(index))
        if done != self._slot_size or len(buffer) != self._slot_size:  # a regular file gives all that is there
            raise IntegrityError(f"{self._shown} was cut", "restore the vault from a backup")

    def write(self, index: int, data: bytes | memoryview) -> None:
        if len(data) != self._slot_size:
            raise Internal("a slot is written whole")
        offset = self._offset(index)
        with system_errors("write", self._shown):
            try:
                # The blocks are there already, so one synchronous overwrite needs no journal commit of the file system.
                written = os.pwritev(self._fd, [data], offset, os.RWF_DSYNC)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
                    raise
                written = 0
            if written != len(data):  # not supported here, or cut short: the plain way
                write_all(self._fd, data, offset)
                os.fdatasync(self._fd)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    def _offset(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise Internal("there is no such slot")
        return index * self._slot_size


def _tampered(shown: str, what: str) -> IntegrityError:
    return IntegrityError(f"{shown} {what}", "somebody changed the vault's files while it was open: find out who first")


def pread(fd: int, offset: int, length: int) -> bytes:
    """Up to `length` bytes from `offset`, fewer only at the end of the file."""
    chunks = []
    while length > 0:
        chunk = os.pread(fd, min(length, _READ_CHUNK), offset)
        if not chunk:
            break
        chunks.append(chunk)
        offset += len(chunk)
        length -= len(chunk)
    return b"".join(chunks)
