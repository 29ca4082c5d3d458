"""Which runs live, left for the next daemon by one that can record nothing any more.

Stopping harm does not wait for a disk: on a halted vault runs are ended in memory and owed to the record. Without a
word of it the next daemon would find them kept and let them go on. The word can only end runs, never bring one back;
and as runs end with the boot anyway it need not reach a disk, only the kernel: it is not flushed, and where the vault's
file system takes nothing it goes beside the socket, which is usually in memory.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["LastWord"]

_log = logging.getLogger(__name__)

_MOST: Final = 64 << 20
_END: Final = "end"


class LastWord:
    """See the module.

    Args:
        paths: where to leave it; the first that takes it does.
        wrote: called with each path that was changed.
    """

    def __init__(self, paths: Sequence[str], wrote: Callable[[str], None] = lambda _: None) -> None:
        self._paths = tuple(paths)
        self._wrote = wrote

    def leave(self, living: Iterable[str]) -> bool:
        """Leave word that these runs live, and no others; False when no place takes it."""
        text = "".join(f"{run}\n" for run in (*sorted(living), _END)).encode("ascii")
        for path in self._paths:
            try:
                _write(path, text)
            except OSError as error:
                _log.warning("which runs live cannot be left at %s: %s", path, error.strerror)
            else:
                return True
            finally:
                self._wrote(path)
                self._wrote(f"{path}.new")
        return False

    def read(self) -> frozenset[str] | None:
        """The runs that lived by the last word, or None when none was left. One that is not whole names no run."""
        found: frozenset[str] | None = None
        for path in self._paths:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.error("what was left at %s cannot be read: %s", path, error.strerror)
                return frozenset()
            try:
                # `open` refuses a directory, which somebody may have put there, and leaves the descriptor to us.
                with open(descriptor, "rb", closefd=False) as file:
                    lines = (file.read(_MOST) or b"").decode("ascii", "replace").split("\n")
            except OSError as error:
                _log.error("what was left at %s cannot be read: %s", path, error.strerror)
                return frozenset()
            finally:
                os.close(descriptor)
            said = frozenset(lines[:-2]) if lines[-2:] == [_END, ""] else frozenset()
            found = said if found is None else found & said
        return found

    def clear(self) -> None:
        """What it said is on the record now."""
        for path in self._paths:
            try:
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                _log.error("%s cannot be removed, and would end runs at the next start: %s", path, error.strerror)
            self._wrote(path)


def _write(path: str, text: bytes) -> None:
    new = f"{path}.new"
    # Not blocking: a pipe that somebody put there would hold up the end of the daemon.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(new, flags, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        if file.write(text) != len(text):
            raise OSError(errno.ENOSPC, "no room for all of it")
    os.replace(new, path)
