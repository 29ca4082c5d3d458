"""A directory store that remembers how it left each file, so that changes of somebody else's can be told from ours.

What is remembered is a file's inode, size, links and time of change, taken after each of our own writes. Whoever asks,
asks when nothing of ours is under way.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, Self

from vaultd.store.interface import TEMPORARY

if TYPE_CHECKING:
    from types import TracebackType

    from vaultd.store.directory import DirectoryStore
    from vaultd.store.interface import AppendFile, NewFile, RangeFile, SlotFile

__all__ = ["NotedStore"]

_REMEMBERED: Final = 4_096
"""Removed names that are remembered: their events come within a moment, and a name is used again or never."""

_Print = tuple[int, int, int, int]


class NotedStore:
    """`Store` over a `DirectoryStore`, which it closes; see the module.

    Args:
        inner: what does the work.
    """

    def __init__(self, inner: DirectoryStore) -> None:
        self._inner = inner
        self._left: dict[str, _Print | None] = {}
        """By path, how we left a file or directory: None where there is none any more."""

    def changed(self, path: str) -> bool:
        """Whether somebody else changed, made or removed `path` since we left it; from then on it counts as left so.

        What was never written here since the store was opened counts as changed: ask only where there is a sign of it.
        """
        if os.path.basename(path).startswith(TEMPORARY) or path == "lock":
            return False
        found = self._look(path)
        if path in self._left:
            differs = self._left[path] != found
        else:
            parts = path.split("/")
            ours = any("/".join(parts[:n]) in self._left and self._left["/".join(parts[:n])] is None for n in (1, 2, 3))
            differs = found is not None or not ours
        if differs:
            self._left[path] = found
        return differs

    def _look(self, path: str) -> _Print | None:
        try:
            status = os.lstat(os.path.join(self._inner.location, path))
        except (OSError, ValueError):
            return None  # gone, or in a folder that is, or a path that the store refuses as well
        if stat.S_ISDIR(status.st_mode):
            return (status.st_ino, 0, 0, 0)  # a directory is only there or not: what is in it has its own events
        return (status.st_ino, status.st_size, status.st_nlink, status.st_mtime_ns)

    def note(self, path: str, at: str | None = None) -> None:
        """Remember how `path` is now; with `at`, how it will be once the file that is there now has its name."""
        found = self._look(path if at is None else at)
        self._left.pop(path, None)
        self._left[path] = found
        if found is None and len(self._left) > _REMEMBERED:
            # A copy, and `pop`: a thread that finishes a blob notes as well.
            for old in [old for old, left in list(self._left.items()) if left is None][:-_REMEMBERED]:
                self._left.pop(old, None)

    # -- Store

    @property
    def location(self) -> str:
        """See `Store`."""
        return self._inner.location

    def read(self, path: str, limit: int) -> bytes:
        """See `Store`."""
        return self._inner.read(path, limit)

    def exists(self, path: str) -> bool:
        """See `Store`."""
        return self._inner.exists(path)

    def list(self, path: str = "") -> list[str]:
        """See `Store`."""
        return self._inner.list(path)

    def tidy(self, path: str = "") -> int:
        """See `Store`. Nothing to note: such names are nobody's news."""
        return self._inner.tidy(path)

    def replace(self, path: str, data: bytes) -> None:
        """See `Store`."""
        try:
            self._inner.replace(path, data)
        finally:
            self.note(path)

    def create(self, path: str, data: bytes) -> None:
        """See `Store`."""
        try:
            self._inner.create(path, data)
        finally:
            self.note(path)

    def rename(self, source: str, target: str) -> None:
        """See `Store`."""
        try:
            self._inner.rename(source, target)
        finally:
            self.note(source)
            self.note(target)

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        """See `Store`."""
        try:
            self._inner.remove(path, missing_ok=missing_ok)
        finally:
            self.note(path)

    def mkdir(self, path: str, *, exist_ok: bool = False) -> None:
        """See `Store`."""
        try:
            self._inner.mkdir(path, exist_ok=exist_ok)
        finally:
            self.note(path)

    def remove_tree(self, path: str, *, missing_ok: bool = False) -> None:
        """See `Store`."""
        try:
            self._inner.remove_tree(path, missing_ok=missing_ok)
        finally:
            for below in [one for one in self._left if one.startswith(path + "/")]:
                self.note(below)
            self.note(path)

    def append(self, path: str) -> AppendFile:
        """See `Store`."""
        file = self._inner.append(path)
        self.note(path)
        return _NotedAppendFile(file, self, path)

    def begin(self, path: str) -> NewFile:
        """See `Store`."""
        return _NotedNewFile(self._inner.begin(path), self, path)

    def ranges(self, path: str) -> RangeFile:
        """See `Store`."""
        return self._inner.ranges(path)

    def slots(self, path: str, size: int, count: int) -> SlotFile:
        """See `Store`."""
        file = self._inner.slots(path, size, count)
        self.note(path)
        return _NotedSlotFile(file, self, path)

    def close(self) -> None:
        """See `Store`."""
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _NotedAppendFile:
    """`AppendFile` that notes what it wrote."""

    def __init__(self, inner: AppendFile, store: NotedStore, path: str) -> None:
        self._inner = inner
        self._store = store
        self._path = path

    @property
    def size(self) -> int:
        return self._inner.size

    def append(self, data: bytes) -> int:
        try:
            return self._inner.append(data)
        finally:
            self._store.note(self._path)

    def flush(self) -> None:
        self._inner.flush()  # changes nothing that is noted

    def pread(self, offset: int, length: int) -> bytes:
        return self._inner.pread(offset, length)

    def truncate(self, size: int) -> None:
        try:
            self._inner.truncate(size)
        finally:
            self._store.note(self._path)

    def check(self) -> None:
        self._inner.check()

    def close(self) -> None:
        self._inner.close()


class _NotedNewFile:
    """`NewFile` that notes what it made."""

    def __init__(self, inner: NewFile, store: NotedStore, path: str) -> None:
        self._inner = inner
        self._store = store
        self._path = path
        directory, _, name = path.rpartition("/")
        self._temporary = f"{directory}/{TEMPORARY}{name}" if directory else TEMPORARY + name

    @property
    def size(self) -> int:
        return self._inner.size

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._inner.append(data)

    def commit(self) -> None:
        # Before it has its name: this may be another thread than the one that asks what has changed.
        self._store.note(self._path, self._temporary)
        try:
            self._inner.commit()
        finally:
            self._store.note(self._path)

    def abort(self) -> None:
        self._inner.abort()


class _NotedSlotFile:
    """`SlotFile` that notes what it wrote."""

    def __init__(self, inner: SlotFile, store: NotedStore, path: str) -> None:
        self._inner = inner
        self._store = store
        self._path = path

    def read(self, index: int) -> bytes:
        return self._inner.read(index)

    def read_into(self, index: int, buffer: bytearray) -> None:
        self._inner.read_into(index, buffer)

    def write(self, index: int, data: bytes | memoryview) -> None:
        try:
            self._inner.write(index, data)
        finally:
            self._store.note(self._path)

    def close(self) -> None:
        self._inner.close()
