"""Files that hold what must stay private: made 0600 under a name nobody knows, complete before they get their own."""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING

from vaultclient.cli.failures import CliError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["PrivateFile", "private_file"]


class PrivateFile:
    """A file being written; bytes go to it in order."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.size = 0

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`, without a copy of it in between."""
        view = memoryview(data)
        while view:
            done = os.write(self._descriptor, view)
            self.size += done
            view = view[done:]


def _refuse_special(directory: int, name: str, path: str) -> None:
    """A rename would replace a device or a link by a file: nobody who names `/dev/null` wants that."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise CliError("io", f"{path}: is a directory", "name a file in it")
    if not stat.S_ISREG(found.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(found.st_mode) else "not a regular file"
        raise CliError("io", f"{path}: is {kind}, and is left alone", "name a regular file, or leave --out away")


@contextlib.contextmanager
def private_file(path: str) -> Iterator[PrivateFile]:
    """A file at `path` with mode 0600 that appears whole, or not at all.

    An existing regular file is replaced at the end in one step. When the body raises, or the process is killed, nothing
    is left: the bytes go to a file without a name where the file system can do that (O_TMPFILE).

    Raises:
        CliError: `io`: the path is a directory, a link or a device.
        OSError: the file system refused.
    """
    folder, name = os.path.split(path)
    if not name:
        raise CliError("io", f"{path or 'the empty path'}: not a file's name", "name a file")
    directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary = f".{name[:100]}.{os.urandom(8).hex()}.tmp"
    named = False
    descriptor = -1
    try:
        _refuse_special(directory, name, path)
        try:
            descriptor = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=directory)
        except (OSError, NotImplementedError):  # not every file system has nameless files
            flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY | os.O_CLOEXEC
            descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
            named = True
        os.fchmod(descriptor, 0o600)  # whatever the umask made of it
        yield PrivateFile(descriptor)
        os.fsync(descriptor)
        if not named:
            os.link(f"/proc/self/fd/{descriptor}", temporary, dst_dir_fd=directory, follow_symlinks=True)
            named = True
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
        named = False
        os.fsync(directory)
    finally:
        if named:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=directory)
        if descriptor >= 0:
            os.close(descriptor)
        os.close(directory)
