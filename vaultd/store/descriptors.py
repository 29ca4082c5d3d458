"""Opening files by directory descriptor, checking what was opened, and wording what the system says.

Every open names a single part under a descriptor of its directory with O_NOFOLLOW and O_CLOEXEC, so a link put anywhere
on the way is refused rather than followed, and no descriptor reaches a program that somebody starts.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from vaultd.errors import ConfigError, NotFound, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["DIRECTORY_MODE", "FILE_MODE", "checked_directory", "checked_file", "open_at", "system_errors", "write_all"]

DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600

_HINTS: Final = {
    errno.ENOSPC: "free space on that file system, then open the vault again",
    errno.EDQUOT: "raise the disk quota or free space, then open the vault again",
    errno.EROFS: "mount the file system read-write",
    errno.EACCES: "run as the user that owns the vault directory",
    errno.EPERM: "run as the user that owns the vault directory, and remove file attributes such as immutable",
    errno.EIO: "the device reports errors: check it before trusting it with the vault again",
    errno.EMFILE: "raise the limit of open files (RLIMIT_NOFILE)",
    errno.ENFILE: "the system is out of open files",
}


def wording(action: str, error: OSError) -> StoreError:
    """The error for a system call that failed, in the system's words."""
    words = os.strerror(error.errno).lower() if error.errno else "unknown error"
    return StoreError(f"cannot {action}: {words}", _HINTS.get(error.errno or 0, "see the system's log"))


@contextmanager
def system_errors(action: str, shown: str) -> Iterator[None]:
    """Turn `OSError` into this tree: absent is `NotFound`, a link in the way `ConfigError`, else `StoreError`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise NotFound(f"cannot {action} {shown}: it does not exist") from error
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise ConfigError(
                f"cannot {action} {shown}: a link or another kind of file stands where a file or directory should",
                "a vault holds no links: put the real file or directory in its place",
            ) from error
        raise wording(f"{action} {shown}", error) from error


def open_at(name: str, flags: int, dir_fd: int | None, mode: int = FILE_MODE) -> int:
    """`openat` of a single part, following nothing and inherited by nobody."""
    # O_NONBLOCK: opening a fifo that somebody put there must not hang; it has no effect on regular files.
    return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode, dir_fd=dir_fd)


def checked_directory(fd: int, shown: str, owner: int) -> os.stat_result:
    """Hold that an open directory is `owner`'s and closed to everybody else.

    Raises:
        ConfigError: it is not.
    """
    with system_errors("look at", shown):
        facts = os.fstat(fd)
    if facts.st_uid != owner:
        raise ConfigError(
            f"{shown} belongs to uid {facts.st_uid}, not to uid {owner}", "run as its owner, or change the owner"
        )
    if facts.st_mode & 0o077:
        raise ConfigError(
            f"{shown} is open to other users (mode {stat.S_IMODE(facts.st_mode):04o})", f"chmod 0700 {shown}"
        )
    return facts


def checked_file(fd: int, shown: str, owner: int) -> os.stat_result:
    """Hold that an open file is a regular one, `owner`'s, closed to everybody else, and known by one name only.

    Raises:
        ConfigError: it is not. A second name (hard link) would let somebody keep or change what we think is ours alone.
    """
    with system_errors("look at", shown):
        facts = os.fstat(fd)
    if not stat.S_ISREG(facts.st_mode):
        raise ConfigError(f"{shown} is not a regular file", "a vault holds regular files and directories only")
    if facts.st_uid != owner:
        raise ConfigError(f"{shown} belongs to uid {facts.st_uid}, not to uid {owner}", "change its owner back")
    if facts.st_mode & 0o077:
        raise ConfigError(
            f"{shown} is open to other users (mode {stat.S_IMODE(facts.st_mode):04o})", f"chmod 0600 {shown}"
        )
    if facts.st_nlink > 1:  # 0 is a file that our own writer replaced since it was opened: still whole, still ours
        raise ConfigError(f"{shown} has {facts.st_nlink} names (hard links)", "remove the other links to it")
    return facts


def write_all(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write every byte at `offset`: a short write goes on where it stopped until the system says why it cannot."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        if not written:  # no local file system does; one that did must not keep us here for ever
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        view = view[written:]
        offset += written
