"""One holder per vault directory: a `flock` on its `lock` file, which also says who holds it."""

from __future__ import annotations

import errno
import fcntl
import os
from typing import Final

from vaultd.errors import Locked
from vaultd.store.descriptors import FILE_MODE, checked_file, open_at, system_errors

__all__ = ["LOCK_NAME", "take"]

LOCK_NAME: Final = "lock"
_MAX_PID_TEXT: Final = 32


def take(root_fd: int, shown: str, owner: int) -> int:
    """Take the lock of the directory open as `root_fd`; returns the descriptor that holds it until closed.

    A `flock` belongs to the open file, not to the process as POSIX locks do: closing another descriptor of the same
    file does not drop it, and the kernel drops it when the holder dies, so a stale lock file means nothing.

    Raises:
        Locked: another process, or another store of this one, holds it.
    """
    lock_shown = f"{shown}/{LOCK_NAME}"
    with system_errors("open", lock_shown):
        fd = open_at(LOCK_NAME, os.O_RDWR | os.O_CREAT, root_fd)
    try:
        with system_errors("lock", lock_shown):
            os.fchmod(fd, FILE_MODE)
            checked_file(fd, lock_shown, owner)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno != errno.EWOULDBLOCK:
                    raise
                raise _locked(fd, shown) from None
            # Only advice for the reader of an error; the lock itself is the kernel's. No flush: it need not survive.
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _locked(fd: int, shown: str) -> Locked:
    text = os.pread(fd, _MAX_PID_TEXT, 0).strip()
    # The holder may be between taking the lock and writing its pid; then the text is empty or an earlier holder's.
    holder = f"process {int(text)}" if text.isdigit() else "another process"
    return Locked(
        f"{holder} has the vault in {shown} open",
        "talk to the daemon (vaultctl), or stop it before opening the directory itself",
    )
