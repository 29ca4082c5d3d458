"""A store that reads from another one and keeps every change to itself: for trying things without touching the disk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from vaultd.errors import Exists, IntegrityError, Internal, NotFound
from vaultd.store.interface import split

if TYPE_CHECKING:
    from types import TracebackType

    from vaultd.store.interface import RangeFile, Store

__all__ = ["OverlayStore"]


class _Content:
    """One file as the overlay shows it: the first bytes are the base's, the rest is ours."""

    def __init__(self, base: Store | None, path: str, kept: int, own: bytes = b"") -> None:
        self._base = base
        self._path = path
        self.kept = kept
        self.own = bytearray(own)

    @property
    def size(self) -> int:
        return self.kept + len(self.own)

    def pread(self, offset: int, length: int) -> bytes:
        found = b""
        if offset < self.kept and self._base is not None:
            # Opened for each read: a check of many tenants would run out of descriptors otherwise.
            file = self._base.append(self._path)
            try:
                found = file.pread(offset, min(length, self.kept - offset))
            finally:
                file.close()
            if len(found) < min(length, self.kept - offset):
                raise IntegrityError(
                    f"{self._path} was cut while it was read", "find out who changes the vault's files"
                )
        begin = max(offset + len(found) - self.kept, 0)
        return found + bytes(self.own[begin : begin + length - len(found)])

    def truncate(self, size: int) -> None:
        del self.own[max(size - self.kept, 0) :]
        self.kept = min(self.kept, size)

    def overwrite(self, offset: int, data: bytes | memoryview) -> None:
        whole = bytearray(self.pread(0, self.size))
        whole[offset : offset + len(data)] = data
        self._base, self.kept, self.own = None, 0, whole


class OverlayStore:
    """A `Store` whose changes nobody else sees, and which are gone with it.

    Args:
        base: only read from; stays the caller's to close.
    """

    def __init__(self, base: Store) -> None:
        self._base = base
        self._files: dict[str, _Content | None] = {}
        self._directories: dict[str, bool] = {}

    @property
    def location(self) -> str:
        return self._base.location

    def close(self) -> None:
        """The changes are forgotten with the object; the base stays open."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, path: str, limit: int) -> bytes:
        content = self._content(path)
        if content.size > limit:
            raise IntegrityError(f"{path} is longer than any file of its kind", "restore the vault from a backup")
        return content.pread(0, content.size)

    def exists(self, path: str) -> bool:
        split(path)
        if self._files.get(path) is not None or self._directories.get(path):
            return True
        if path in self._files or self._directories.get(path) is False or self._inside_removed(path):
            return False
        return self._base.exists(path)

    def list(self, path: str = "") -> list[str]:
        own = self._directories.get(path) if path else None
        names: set[str] = set()
        if own is None and not self._inside_removed(path):
            names.update(self._base.list(path))
        elif not own:
            raise NotFound(f"cannot list {path}: it does not exist")
        prefix = f"{path}/" if path else ""
        for known, there in [*self._files.items(), *self._directories.items()]:
            parent, _, name = known.rpartition("/")
            if parent == path and known.startswith(prefix):
                (names.add if there else names.discard)(name)
        return sorted(names)

    def tidy(self, path: str = "") -> int:
        """What lies in the base stays there: here nothing is ever on its way."""
        self.list(path)  # for its error
        return 0

    def replace(self, path: str, data: bytes) -> None:
        self._need_parent(path)
        self._files[path] = _Content(None, path, 0, data)

    def create(self, path: str, data: bytes) -> None:
        if self.exists(path):
            raise Exists(f"{path} exists")
        self.replace(path, data)

    def rename(self, source: str, target: str) -> None:
        if split(source)[:-1] != split(target)[:-1]:
            raise Internal("a store renames within one directory only")
        content = self._content(source)
        self._files[source] = None  # first: a file may be given the name that it has
        self._files[target] = content

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        try:
            self._content(path)
            self._files[path] = None
        except NotFound:
            if not missing_ok:
                raise

    def mkdir(self, path: str, *, exist_ok: bool = False) -> None:
        self._need_parent(path)
        if self.exists(path):
            if not exist_ok:
                raise Exists(f"{path} exists")
            return
        self._directories[path] = True

    def remove_tree(self, path: str, *, missing_ok: bool = False) -> None:
        if not self.exists(path):
            if not missing_ok:
                raise NotFound(f"cannot remove {path}: it does not exist")
            return
        for known in [known for known in self._files if known.startswith(f"{path}/")]:
            del self._files[known]
        for known in [known for known in self._directories if known.startswith(f"{path}/")]:
            del self._directories[known]
        self._directories[path] = False

    def append(self, path: str) -> OverlayAppendFile:
        return OverlayAppendFile(path, self._content(path))

    def begin(self, path: str) -> OverlayNewFile:
        self._need_parent(path)
        return OverlayNewFile(self, path)

    def ranges(self, path: str) -> RangeFile:
        if path not in self._files and not self._inside_removed(path):
            return self._base.ranges(path)  # without a copy: these are the large ones
        return OverlayRangeFile(self._content(path))

    def slots(self, path: str, size: int, count: int) -> OverlaySlotFile:
        content = self._content(path)
        if content.size != size * count:
            raise IntegrityError(f"{path} does not have its kind's length", "restore the vault from a backup")
        return OverlaySlotFile(content, size, count)

    def _content(self, path: str) -> _Content:
        split(path)
        if path in self._files:
            found = self._files[path]
            if found is None:
                raise NotFound(f"cannot open {path}: it does not exist")
            return found
        if self._inside_removed(path):
            raise NotFound(f"cannot open {path}: it does not exist")
        file = self._base.append(path)
        try:
            content = _Content(self._base, path, file.size)
        finally:
            file.close()
        self._files[path] = content
        return content

    def _inside_removed(self, path: str) -> bool:
        """Whether a directory on the way is not the base's any more: then nothing of the base's shows in it."""
        parts = path.split("/")
        return any("/".join(parts[:depth]) in self._directories for depth in range(1, len(parts)))

    def _need_parent(self, path: str) -> None:
        parent = "/".join(split(path)[:-1])
        if parent and not self.exists(parent):
            raise NotFound(f"cannot write {path}: its directory does not exist")


class OverlayAppendFile:
    """See `interface.AppendFile`; nothing here can fail to become durable, because nothing does."""

    def __init__(self, path: str, content: _Content) -> None:
        self._path = path
        self._content = content
        self._size = content.size

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes) -> int:
        offset = self._size
        self._content.own += data
        self._size += len(data)
        return offset

    def flush(self) -> None:
        """There is no disk."""

    def pread(self, offset: int, length: int) -> bytes:
        return self._content.pread(offset, length)

    def truncate(self, size: int) -> None:
        if not 0 <= size <= self._size:
            raise Internal("a file may be cut, not stretched")
        self._content.truncate(size)
        self._size = size

    def check(self) -> None:
        if self._content.size != self._size:
            raise IntegrityError(f"{self._path} was changed by somebody else")

    def close(self) -> None:
        """Nothing to let go of."""


class OverlayNewFile:
    """See `interface.NewFile`; kept in memory, so not for what does not fit there."""

    def __init__(self, store: OverlayStore, path: str) -> None:
        self._store = store
        self._path = path
        self._data: bytearray | None = bytearray()

    @property
    def size(self) -> int:
        return len(self._data or b"")

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._open().extend(data)

    def commit(self) -> None:
        self._store.create(self._path, bytes(self._open()))
        self._data = None

    def abort(self) -> None:
        self._data = None

    def _open(self) -> bytearray:
        if self._data is None:
            raise Internal("a file was written after it was finished, or its store closed")
        return self._data


class OverlayRangeFile:
    """See `interface.RangeFile`."""

    def __init__(self, content: _Content) -> None:
        self._content = content
        self._closed = False

    @property
    def size(self) -> int:
        return self._content.size

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        if self._closed:
            raise Internal("a file was read after it was closed")
        found = self._content.pread(offset, len(buffer))
        memoryview(buffer)[: len(found)] = found
        return len(found)

    def close(self) -> None:
        self._closed = True


class OverlaySlotFile:
    """See `interface.SlotFile`."""

    def __init__(self, content: _Content, size: int, count: int) -> None:
        self._content = content
        self._size = size
        self._count = count

    def read(self, index: int) -> bytes:
        return self._content.pread(self._offset(index), self._size)

    def read_into(self, index: int, buffer: bytearray) -> None:
        buffer[:] = self.read(index)

    def write(self, index: int, data: bytes | memoryview) -> None:
        if len(data) != self._size:
            raise Internal("a slot is written whole")
        self._content.overwrite(self._offset(index), data)

    def close(self) -> None:
        """Nothing to let go of."""

    def _offset(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise Internal("there is no such slot")
        return index * self._size
