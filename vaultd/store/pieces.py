"""Large files of a directory store: written in pieces before they have a name, read here and there after."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vaultd.errors import Exists, Internal, NotFound, StoreError
from vaultd.store.descriptors import FILE_MODE, open_at, system_errors, write_all
from vaultd.store.interface import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.store.directory import DirectoryStore

__all__ = ["DirectoryNewFile", "DirectoryRangeFile"]


class DirectoryNewFile:
    """See `interface.NewFile`. Made by `DirectoryStore.begin`.

    Args:
        store: must still be open, and so still hold the lock, at every write.
        parent: a descriptor of the directory; stays the caller's.
        name: what the file is to be called.
        shown: its path for messages.
    """

    def __init__(self, store: DirectoryStore, parent: int, name: str, shown: str) -> None:
        self._store = store
        self._name = name
        self._shown = shown
        self._size = 0
        self._failed = False
        self._fd: int | None = None
        self._parent = os.dup(parent)  # the walk to it was checked once, and leads nowhere else any more
        try:
            self._fd = open_at(TEMPORARY + name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, parent)
            os.fchmod(self._fd, FILE_MODE)  # whatever the umask
        except BaseException:
            self.abort()
            raise

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes | bytearray | memoryview) -> None:
        with self._writing("write") as fd:
            write_all(fd, data, self._size)
            self._size += len(data)

    def commit(self) -> None:
        with self._writing("write") as fd:
            os.fsync(fd)  # before it has a name: a name must never lead to bytes that are not on the disk
            # The lock makes us the only writer, so asking first is not a race.
            with suppress(FileNotFoundError):
                os.stat(self._name, dir_fd=self._parent, follow_symlinks=False)
                raise Exists(f"{self._shown} exists")
            os.rename(TEMPORARY + self._name, self._name, src_dir_fd=self._parent, dst_dir_fd=self._parent)
            os.fsync(self._parent)
        self._close()

    def abort(self) -> None:
        if self._fd is not None:
            # What cannot be removed now is removed by the next `tidy`; it has no name that anybody reads.
            with suppress(OSError):
                os.unlink(TEMPORARY + self._name, dir_fd=self._parent)
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, None
        parent, self._parent = self._parent, -1
        if fd is not None:
            os.close(fd)
        if parent >= 0:
            os.close(parent)

    @contextmanager
    def _writing(self, action: str) -> Iterator[int]:
        if self._fd is None or not self._store.is_open:
            raise Internal("a file was written after it was finished, or its store closed")
        if self._failed:
            raise StoreError(f"an earlier write to {self._shown} failed", "begin it anew")
        try:
            with system_errors(action, self._shown):
                yield self._fd
        except NotFound as error:
            self._failed = True
            raise StoreError(f"{self._shown} was removed while it was written", "begin it anew") from error
        except BaseException:
            self._failed = True
            raise


class DirectoryRangeFile:
    """See `interface.RangeFile`.

    Args:
        fd: of the file, checked; becomes this object's.
        facts: what the check found.
        shown: its path for messages.
    """

    def __init__(self, fd: int, facts: os.stat_result, shown: str) -> None:
        self._fd: int | None = fd
        self._size = facts.st_size
        self._shown = shown

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        if self._fd is None:
            raise Internal("a file was read after it was closed")
        view, found = memoryview(buffer), 0
        with system_errors("read", self._shown):
            while found < len(view):
                count = os.preadv(self._fd, [view[found:]], offset + found)
                if not count:
                    break
                found += count
        return found

    def close(self) -> None:
        fd, self._fd = self._fd, None
        if fd is not None:
            os.close(fd)
