"""The store in memory: same promises as on disk, and it can fail at any step or lose power at any moment.

It keeps what a real file system keeps: what is on the medium, and a list of what was written but not yet flushed.
Reads see both. When power is cut, each unflushed write is there, missing, or torn by sectors (some kept, some missing,
some rubbish), writes to one file independently of each other; unflushed names of one directory survive up to some
point in their order. So a missing flush anywhere above shows up as a lost or half-applied change in some image.

The model assumes powersafe overwrite: a write that was cut changes no bytes but those it was writing.
"""

from __future__ import annotations

import errno
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from vaultd.errors import Exists, IntegrityError, Internal, Locked, NotFound, StoreError
from vaultd.store.descriptors import system_errors
from vaultd.store.disk import Directory, Disk, Fault, File, PowerCut
from vaultd.store.interface import TEMPORARY, split
from vaultd.store.memory_pieces import MemoryNewFile, MemoryRangeFile

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["Disk", "Fault", "MemoryStore", "PowerCut"]


class MemoryStore:
    """A `Store` over a simulated `Disk`, a new empty one by default.

    Raises:
        Locked: another store has the disk open.
    """

    def __init__(self, disk: Disk | None = None) -> None:
        self.disk = Disk() if disk is None else disk
        self._mutex = threading.RLock()
        if self.disk.holder is not None:
            raise Locked(f"process {os.getpid()} has the vault in memory open", "close the other store first")
        self.disk.holder = self

    @property
    def location(self) -> str:
        return "memory"

    def close(self) -> None:
        if self.disk.holder is self:
            self.disk.holder = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def arm(self, fault: Fault) -> None:
        """Let the disk fail as `fault` says, counting steps from now."""
        self.disk.arm(fault)

    def crash(self, rng: random.Random) -> MemoryStore:
        """Cut the power; returns a store over one of the images that may be found afterwards, chosen by `rng`."""
        with self._mutex:
            return MemoryStore(self.disk.crash(rng))

    def read(self, path: str, limit: int) -> bytes:
        with self._step("read", path):
            content = self._file(path).live
            if len(content) > limit:
                raise IntegrityError(f"{path} is longer than any file of its kind", "restore the vault from a backup")
            return bytes(content)

    def exists(self, path: str) -> bool:
        try:
            with self._mutex, system_errors("look at", path):
                parent, name = self._parent(path)
                return name in parent.live
        except NotFound:
            return False

    def list(self, path: str = "") -> list[str]:
        with self._step("read", path):
            directory = self._directory(split(path)) if path else self.disk.root
            return sorted(name for name in directory.live if not name.startswith(TEMPORARY))

    def tidy(self, path: str = "") -> int:
        with self._mutex, system_errors("tidy", path):
            directory = self._directory(split(path) if path else ())
            left = [n for n, node in directory.live.items() if n.startswith(TEMPORARY) and isinstance(node, File)]
            for name in left:
                self.disk.set_name(directory, name, None, "unlink", path)
            self.disk.sync(directory, path)
        return len(left)

    def replace(self, path: str, data: bytes) -> None:
        self._put(path, data, exclusive=False)

    def create(self, path: str, data: bytes) -> None:
        self._put(path, data, exclusive=True)

    def _put(self, path: str, data: bytes, *, exclusive: bool) -> None:
        # The same steps in the same order as on disk, each of which may fail or be the last before power is gone.
        with self._mutex, system_errors("write", path):
            parent, name = self._parent(path)
            if exclusive and name in parent.live:
                raise Exists(f"{path} exists")
            temporary, file = TEMPORARY + name, File()
            self.disk.set_name(parent, temporary, file, "create", path)
            try:
                self.disk.write(file, 0, data, path)
                self.disk.flush(file, path)
            except OSError:
                self.disk.set_name(parent, temporary, None, "unlink", path)
                raise
            self.disk.rename(parent, temporary, name, path)
            self.disk.sync(parent, path)

    def rename(self, source: str, target: str) -> None:
        if split(source)[:-1] != split(target)[:-1]:
            raise Internal("a store renames within one directory only")
        with self._mutex, system_errors("rename", source):
            parent, name = self._parent(source)
            if name not in parent.live:
                raise FileNotFoundError(errno.ENOENT, "absent")
            self.disk.rename(parent, name, split(target)[-1], source)
            self.disk.sync(parent, source)

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        self._unlink(path, File, missing_ok=missing_ok)

    def remove_tree(self, path: str, *, missing_ok: bool = False) -> None:
        self._unlink(path, Directory, missing_ok=missing_ok)

    def _unlink(self, path: str, kind: type[File | Directory], *, missing_ok: bool) -> None:
        try:
            with self._mutex, system_errors("remove", path):
                parent, name = self._parent(path)
                node = parent.live.get(name)
                if node is None:
                    raise FileNotFoundError(errno.ENOENT, "absent")
                if not isinstance(node, kind):
                    raise NotADirectoryError(errno.ENOTDIR, "another kind of file")
                if isinstance(node, Directory):
                    self._empty(node, path)
                self.disk.set_name(parent, name, None, "unlink", path)
                self.disk.sync(parent, path)
        except NotFound:
            if not missing_ok:
                raise

    def _empty(self, directory: Directory, path: str) -> None:
        for name, node in sorted(directory.live.items()):
            if isinstance(node, Directory):
                self._empty(node, path)
            self.disk.set_name(directory, name, None, "unlink", path)

    def mkdir(self, path: str, *, exist_ok: bool = False) -> None:
        with self._mutex, system_errors("make", path):
            parent, name = self._parent(path)
            if name in parent.live:
                if exist_ok and isinstance(parent.live[name], Directory):
                    return
                raise Exists(f"{path} exists")
            self.disk.set_name(parent, name, Directory(), "mkdir", path)
            self.disk.sync(parent, path)

    def append(self, path: str) -> MemoryAppendFile:
        with self._step("read", path):
            return MemoryAppendFile(self, path, self._file(path))

    def begin(self, path: str) -> MemoryNewFile:
        with self._mutex, system_errors("write", path):
            parent, name = self._parent(path)
            if TEMPORARY + name in parent.live:
                self.disk.set_name(parent, TEMPORARY + name, None, "unlink", path)
            file = File()
            self.disk.set_name(parent, TEMPORARY + name, file, "create", path)
            return MemoryNewFile(self, path, parent, name, file)

    def ranges(self, path: str) -> MemoryRangeFile:
        with self._step("read", path):
            return MemoryRangeFile(self, path, self._file(path))

    def slots(self, path: str, size: int, count: int) -> MemorySlotFile:
        with self._step("read", path):
            file = self._file(path)
            if len(file.live) != size * count:
                raise IntegrityError(f"{path} does not have the length of its kind", "restore the vault from a backup")
            self.disk.flush(file, path)  # what a killed process wrote and did not flush
            return MemorySlotFile(self, path, file, size, count)

    @contextmanager
    def _step(self, kind: str, path: str) -> Iterator[None]:
        with self._mutex, system_errors(kind, path):
            self._alive()
            self.disk.step(kind, path)
            yield

    def _alive(self) -> None:
        if self.disk.holder is not self:
            raise Internal("the store is closed")

    def _directory(self, parts: tuple[str, ...]) -> Directory:
        self._alive()
        node: Directory | File = self.disk.root
        for part in parts:
            if not isinstance(node, Directory):
                raise NotADirectoryError(errno.ENOTDIR, "a file where a directory should be")
            if part not in node.live:
                raise FileNotFoundError(errno.ENOENT, "absent")
            node = node.live[part]
        if not isinstance(node, Directory):
            raise NotADirectoryError(errno.ENOTDIR, "a file where a directory should be")
        return node

    def _parent(self, path: str) -> tuple[Directory, str]:
        *parents, name = split(path)
        return self._directory(tuple(parents)), name

    def _file(self, path: str) -> File:
        parent, name = self._parent(path)
        node = parent.live.get(name)
        if node is None:
            raise FileNotFoundError(errno.ENOENT, "absent")
        if not isinstance(node, File):
            raise NotADirectoryError(errno.ENOTDIR, "a directory where a file should be")
        return node


class MemoryAppendFile:
    """See `interface.AppendFile`."""

    def __init__(self, store: MemoryStore, path: str, file: File) -> None:
        self._store = store
        self._path = path
        self._file = file
        self._size = len(file.live)
        self._failed = False

    @property
    def size(self) -> int:
        return self._size

    def append(self, data: bytes) -> int:
        offset = self._size
        with self._change("append to"):
            self._store.disk.write(self._file, offset, bytes(data), self._path)
        self._size = offset + len(data)
        return offset

    def flush(self) -> None:
        with self._change("flush"):
            self._store.disk.flush(self._file, self._path)

    def pread(self, offset: int, length: int) -> bytes:
        with self._store._mutex, system_errors("read", self._path):
            self._store.disk.step("read", self._path)
            return bytes(self._file.live[offset : offset + length])

    def truncate(self, size: int) -> None:
        if not 0 <= size <= self._size:
            raise Internal("a file may be cut, not stretched")
        with self._change("cut"):
            self._store.disk.truncate(self._file, size, self._path)
            self._size = size
            self._store.disk.flush(self._file, self._path)

    def check(self) -> None:
        try:
            with self._store._mutex, system_errors("look at", self._path):
                present = self._store._file(self._path)
        except NotFound:
            raise self._tampered("is gone") from None
        if present is not self._file:
            raise self._tampered("was replaced by another file")
        if len(present.live) != self._size:
            raise self._tampered(f"has {len(present.live)} bytes where {self._size} were written")

    def close(self) -> None:
        """Nothing to let go of: the kernel's descriptor has no twin here."""

    def _tampered(self, what: str) -> IntegrityError:
        return IntegrityError(
            f"{self._path} {what}", "somebody changed the vault's files while it was open: find out who first"
        )

    @contextmanager
    def _change(self, action: str) -> Iterator[None]:
        if self._failed:
            raise StoreError(f"an earlier write to {self._path} failed", "open the vault again")
        try:
            with self._store._mutex, system_errors(action, self._path):
                self._store._alive()
                yield
        except BaseException:
            self._failed = True
            raise


class MemorySlotFile:
    """See `interface.SlotFile`."""

    def __init__(self, store: MemoryStore, path: str, file: File, size: int, count: int) -> None:
        self._store = store
        self._path = path
        self._file = file
        self._size = size
        self._count = count

    def read(self, index: int) -> bytes:
        offset = self._offset(index)
        with self._store._mutex, system_errors("read", self._path):
            self._store.disk.step("read", self._path)
            data = bytes(self._file.live[offset : offset + self._size])
        if len(data) != self._size:
            raise IntegrityError(f"{self._path} was cut", "restore the vault from a backup")
        return data

    def read_into(self, index: int, buffer: bytearray) -> None:
        buffer[:] = self.read(index)

    def write(self, index: int, data: bytes | memoryview) -> None:
        if len(data) != self._size:
            raise Internal("a slot is written whole")
        offset = self._offset(index)
        with self._store._mutex, system_errors("write", self._path):
            self._store._alive()
            self._store.disk.write(self._file, offset, bytes(data), self._path)
            self._store.disk.flush(self._file, self._path)

    def close(self) -> None:
        """Nothing to let go of."""

    def _offset(self, index: int) -> int:
        if not 0 <= index < self._count:
            raise Internal("there is no such slot")
        return index * self._size
