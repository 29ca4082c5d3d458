"""Space kept in reserve: a file of blocks that nobody uses, given back when the disk is full so that the rest fits."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["RESERVE", "Reserve", "out_of_space"]

RESERVE: Final = "reserve"

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class Reserve:
    """A file of `size` bytes in `directory` whose blocks are allocated.

    Args:
        directory: the vault's, which is ours alone.
        size: bytes; 0 keeps nothing. `hold` and `release` make it so.
        wrote: called after the file was made or removed.
    """

    def __init__(self, directory: str, size: int, wrote: Callable[[], None] = lambda: None) -> None:
        self.size = size
        self._directory = directory
        self._path = os.path.join(directory, RESERVE)
        self._wrote = wrote
        self.held = False
        """Whether the space is there."""

    def hold(self) -> bool:
        """Take the space, if it is to be had and as much again stays free: else the reserve itself would fill the disk.

        Returns:
            Whether it is held, which needs no space when none is wanted.
        """
        if self.held and self._has():
            return True
        self.held = False
        if self.size == 0:
            self.release()
            self.held = True
            return True
        if self._has():
            self.held = True
            return True
        self.release()
        try:
            self._make()
        except OSError:
            self.release()
            return False
        self.held = True
        return True

    def _has(self) -> bool:
        """Whether a file of ours with all its blocks lies there."""
        try:
            facts = os.lstat(self._path)
        except OSError:
            return self.size == 0
        whole = facts.st_size == self.size and facts.st_blocks * 512 >= self.size
        return whole and stat.S_ISREG(facts.st_mode) and facts.st_uid == os.geteuid() and facts.st_nlink == 1

    def _make(self) -> None:
        facts = os.statvfs(self._directory)
        if facts.f_bavail * facts.f_frsize < 2 * self.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, self.size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self._wrote()

    def release(self) -> None:
        """Give the space back, whoever needs it now."""
        self.held = False
        try:
            os.unlink(self._path)
        except OSError:
            return  # not there; or a read-only disk, which takes nothing anyway
        self._wrote()


def out_of_space(error: BaseException | None) -> bool:
    """Whether a full disk, or a quota, is what an error comes from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _FULL:
            return True
        error = error.__cause__
    return False
