"""Large files of a store in memory: the same steps, in the same order, as on disk."""

from __future__ import annotations

from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from vaultd.errors import Exists, Internal, StoreError
from vaultd.store.descriptors import system_errors
from vaultd.store.interface import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.store.disk import Directory, File
    from vaultd.store.memory import MemoryStore

__all__ = ["MemoryNewFile", "MemoryRangeFile"]


class MemoryNewFile:
    """See `interface.NewFile`."""

    def __init__(self, store: MemoryStore, path: str, parent: Directory, name: str, file: File) -> None:
        self._store = store
        self._path = path
        self._parent = parent
        self._name = name
        self._file = file
        self._size = 0
        self._failed = False
        self._ended = False

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes | bytearray | memoryview) -> None:
        with self._writing():
            self._store.disk.write(self._file, self._size, bytes(data), self._path)
            self._size += len(data)

    def commit(self) -> None:
        with self._writing():
            disk, temporary = self._store.disk, TEMPORARY + self._name
            disk.flush(self._file, self._path)
            if self._name in self._parent.live:
                raise Exists(f"{self._path} exists")
            if self._parent.live.get(temporary) is not self._file:
                raise StoreError(f"{self._path} was removed while it was written", "begin it anew")
            disk.rename(self._parent, temporary, self._name, self._path)
            disk.sync(self._parent, self._path)
        self._ended = True

    def abort(self) -> None:
        temporary = TEMPORARY + self._name
        with self._store._mutex:
            if not self._ended and self._parent.live.get(temporary) is self._file:
                with suppress(OSError):
                    self._store.disk.set_name(self._parent, temporary, None, "unlink", self._path)
            self._ended = True

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._ended:
            raise Internal("a file was written after it was finished, or its store closed")
        self._store._alive()
        if self._failed:
            raise StoreError(f"an earlier write to {self._path} failed", "begin it anew")
        try:
            with self._store._mutex, system_errors("write", self._path):
                yield
        except BaseException:
            self._failed = True
            raise


class MemoryRangeFile:
    """See `interface.RangeFile`."""

    def __init__(self, store: MemoryStore, path: str, file: File) -> None:
        self._store = store
        self._path = path
        self._file = file
        self._size = len(file.live)
        self._closed = False

    @property
    def size(self) -> int:
        return self._size

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        if self._closed:
            raise Internal("a file was read after it was closed")
        with self._store._mutex, system_errors("read", self._path):
            self._store.disk.step("read", self._path)
            found = self._file.live[offset : offset + len(buffer)]
        memoryview(buffer)[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._closed = True
