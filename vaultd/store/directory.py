"""The store on disk: one directory, mode 0700, everything in it 0600 and reached by descriptor, one lock holder."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Self

from vaultd.errors import ConfigError, Exists, IntegrityError, Internal, NotFound, Uninitialised
from vaultd.store import lock as locking
from vaultd.store.descriptors import (
    DIRECTORY_MODE,
    FILE_MODE,
    checked_directory,
    checked_file,
    open_at,
    system_errors,
    wording,
    write_all,
)
from vaultd.store.files import DirectoryAppendFile, DirectorySlotFile, pread
from vaultd.store.interface import TEMPORARY, split
from vaultd.store.pieces import DirectoryNewFile, DirectoryRangeFile

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["DirectoryStore"]

_TRIES: Final = 8
"""How often a directory is emptied anew because somebody put a file into it meanwhile."""


class DirectoryStore:
    """A `Store` over the directory at `path`.

    Args:
        path: the vault directory; its last part must not be a link.
        create: make it (and missing parents, mode 0700) if it is not there.
        read_only: take no lock and refuse every change; for offline checks beside a running daemon. Then root may read
            another user's vault, and all in it must have the directory's owner.

    Raises:
        Uninitialised: there is no such directory.
        ConfigError: it is a link, not a directory, somebody else's, or open to others.
        Locked: another process has it open.
        StoreError: the system refuses (read-only file system, no space, no permission).
    """

    def __init__(self, path: str | os.PathLike[str], *, create: bool = False, read_only: bool = False) -> None:
        self._path = os.fspath(path)
        self._read_only = read_only
        self._lock_fd: int | None = None
        if create and not read_only:
            _make_directories(self._path)
        try:
            with system_errors("open", self._path):
                # A trailing slash would make the kernel follow a final link in spite of O_NOFOLLOW.
                self._root_fd = open_at(self._path.rstrip("/") or "/", os.O_RDONLY | os.O_DIRECTORY, None)
        except NotFound:
            raise Uninitialised(f"there is no vault at {self._path}", "make one with: vaultctl init") from None
        self._open = True
        try:
            self._owner = os.geteuid()
            if read_only and self._owner == 0:
                self._owner = os.fstat(self._root_fd).st_uid
            checked_directory(self._root_fd, self._path, self._owner)
            if not read_only:
                self._lock_fd = locking.take(self._root_fd, self._path, self._owner)
        except BaseException:
            self.close()
            raise

    @property
    def location(self) -> str:
        return self._path

    @property
    def is_open(self) -> bool:
        """Whether it is not closed: what is still being written asks, from other threads too."""
        return self._open

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._root_fd)
            if self._lock_fd is not None:
                os.close(self._lock_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def read(self, path: str, limit: int) -> bytes:
        with self._file(path, os.O_RDONLY) as (fd, facts), system_errors("read", self._shown(path)):
            if facts.st_size > limit:
                raise IntegrityError(
                    f"{self._shown(path)} is longer than any file of its kind", "restore the vault from a backup"
                )
            return pread(fd, 0, facts.st_size)

    def exists(self, path: str) -> bool:
        try:
            with self._parent(path) as (parent, name), system_errors("look at", self._shown(path)):
                os.stat(name, dir_fd=parent, follow_symlinks=False)
        except NotFound:
            return False
        return True

    def list(self, path: str = "") -> list[str]:
        with self._directory(split(path) if path else ()) as fd, system_errors("list", self._shown(path)):
            names = sorted(name for name in os.listdir(fd) if not name.startswith(TEMPORARY))
        if not path and locking.LOCK_NAME in names:
            names.remove(locking.LOCK_NAME)
        return names

    def tidy(self, path: str = "") -> int:
        self._writable()
        with self._directory(split(path) if path else ()) as fd, system_errors("tidy", self._shown(path)):
            with os.scandir(fd) as entries:
                # A directory is none of ours: it would only stop us, who do not look into it.
                left = [e.name for e in entries if e.name.startswith(TEMPORARY) and not e.is_dir(follow_symlinks=False)]
            for name in left:
                os.unlink(name, dir_fd=fd)
            # Also when nothing is left: what is gone by an earlier holder's hand may come back with the power.
            os.fsync(fd)
        return len(left)

    def replace(self, path: str, data: bytes) -> None:
        self._put(path, data, exclusive=False)

    def create(self, path: str, data: bytes) -> None:
        self._put(path, data, exclusive=True)

    def _put(self, path: str, data: bytes, *, exclusive: bool) -> None:
        self._writable()
        with self._parent(path) as (parent, name), system_errors("write", self._shown(path)):
            # The lock makes us the only writer, so asking first is not a race.
            if exclusive and _is_there(name, parent):
                raise Exists(f"{self._shown(path)} exists")
            temporary = TEMPORARY + name
            if _is_there(temporary, parent):  # an earlier holder died on the way; its bytes were never ours
                os.unlink(temporary, dir_fd=parent)
            fd = open_at(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, parent)
            try:
                os.fchmod(fd, FILE_MODE)  # whatever the umask
                write_all(fd, data, 0)
                os.fsync(fd)  # before the rename: a name must never lead to bytes that are not on the disk
            except BaseException:
                # Free what a full disk gave us; the error that matters is the one on its way.
                os.unlink(temporary, dir_fd=parent)
                raise
            finally:
                os.close(fd)
            os.rename(temporary, name, src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)

    def rename(self, source: str, target: str) -> None:
        self._writable()
        if split(source)[:-1] != split(target)[:-1]:
            raise Internal("a store renames within one directory only")
        with self._parent(source) as (parent, name), system_errors("rename", self._shown(source)):
            os.rename(name, split(target)[-1], src_dir_fd=parent, dst_dir_fd=parent)
            os.fsync(parent)

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        self._writable()
        try:
            with self._parent(path) as (parent, name), system_errors("remove", self._shown(path)):
                os.unlink(name, dir_fd=parent)
                os.fsync(parent)
        except NotFound:
            if not missing_ok:
                raise

    def mkdir(self, path: str, *, exist_ok: bool = False) -> None:
        self._writable()
        with self._parent(path) as (parent, name), system_errors("make", self._shown(path)):
            try:
                os.mkdir(name, DIRECTORY_MODE, dir_fd=parent)
            except FileExistsError:
                if not exist_ok:
                    raise Exists(f"{self._shown(path)} exists") from None
                with self._directory(split(path)):
                    return  # there, and checked to be a directory of ours
            # Whatever the umask. Nobody else can have swapped the name: the parent is ours alone and we hold the lock.
            os.chmod(name, DIRECTORY_MODE, dir_fd=parent)
            os.fsync(parent)

    def remove_tree(self, path: str, *, missing_ok: bool = False) -> None:
        self._writable()
        try:
            with self._parent(path) as (parent, name), system_errors("remove", self._shown(path)):
                _remove_tree(name, parent)
                os.fsync(parent)
        except NotFound:
            if not missing_ok:
                raise

    def append(self, path: str) -> DirectoryAppendFile:
        return DirectoryAppendFile(self, path)

    def begin(self, path: str) -> DirectoryNewFile:
        self._writable()
        with self._parent(path) as (parent, name), system_errors("write", self._shown(path)):
            if _is_there(TEMPORARY + name, parent):  # an earlier holder died on the way
                os.unlink(TEMPORARY + name, dir_fd=parent)
            return DirectoryNewFile(self, parent, name, self._shown(path))

    def ranges(self, path: str) -> DirectoryRangeFile:
        return DirectoryRangeFile(*self._open_file(path, os.O_RDONLY), self._shown(path))

    def slots(self, path: str, size: int, count: int) -> DirectorySlotFile:
        return DirectorySlotFile(self, path, size, count)

    def _shown(self, path: str) -> str:
        return f"{self._path}/{path}" if path else self._path

    def _writable(self) -> None:
        if self._read_only:
            raise Internal("a store opened for reading was asked to change something")

    @contextmanager
    def _directory(self, parts: tuple[str, ...]) -> Iterator[int]:
        """A descriptor of the directory `parts` lead to, every step of the way checked."""
        if not self._open:
            raise Internal("the store is closed")
        fd = os.dup(self._root_fd)
        shown = self._path
        try:
            for part in parts:
                shown = f"{shown}/{part}"
                with system_errors("open", shown):
                    inner = open_at(part, os.O_RDONLY | os.O_DIRECTORY, fd)
                os.close(fd)
                fd = inner
                checked_directory(fd, shown, self._owner)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        *parents, name = split(path)
        with self._directory(tuple(parents)) as fd:
            yield fd, name

    @contextmanager
    def _file(self, path: str, flags: int) -> Iterator[tuple[int, os.stat_result]]:
        fd, facts = self._open_file(path, flags)
        try:
            yield fd, facts
        finally:
            os.close(fd)

    def _open_file(self, path: str, flags: int) -> tuple[int, os.stat_result]:
        with self._parent(path) as (parent, name), system_errors("open", self._shown(path)):
            fd = open_at(name, flags, parent)
        try:
            return fd, checked_file(fd, self._shown(path), self._owner)
        except BaseException:
            os.close(fd)
            raise

    def _stat(self, path: str) -> os.stat_result:
        with self._parent(path) as (parent, name):
            return os.stat(name, dir_fd=parent, follow_symlinks=False)


def _is_there(name: str, dir_fd: int) -> bool:
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _remove_tree(name: str, dir_fd: int) -> None:
    for _ in range(_TRIES):
        _empty(name, dir_fd)
        try:
            os.rmdir(name, dir_fd=dir_fd)
        except OSError as error:
            # A thread of ours was about to begin or finish a file in there; it will not begin another.
            if error.errno != errno.ENOTEMPTY:
                raise
            continue
        return
    raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))


def _empty(name: str, dir_fd: int) -> None:
    fd = open_at(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd)
    try:
        with os.scandir(fd) as entries:
            inner = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for inner_name, is_directory in inner:
            if is_directory:
                _remove_tree(inner_name, fd)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(inner_name, dir_fd=fd)
    finally:
        os.close(fd)


def _make_directories(path: str) -> None:
    """Make the directory at `path` and its missing parents, mode 0700 whatever the umask; leave existing ones alone."""
    path = path.rstrip("/") or "/"
    if os.path.lexists(path):
        return
    parent = os.path.dirname(path) or "."
    if not os.path.isdir(parent):
        _make_directories(parent)
    try:
        os.mkdir(path, DIRECTORY_MODE)
        os.chmod(path, DIRECTORY_MODE)
        parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(parent_fd)
        finally:
            os.close(parent_fd)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno == errno.ENOTDIR:
            raise ConfigError(f"cannot make {path}: a parent is not a directory", "choose another --dir") from error
        raise wording(f"make {path}", error) from error
