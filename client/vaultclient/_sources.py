"""Files on their way in: read in order, in constant memory, and held to be at the end what they were at first."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any, Protocol

from vaultclient.errors import Conflict, Invalid, VaultError
from vaultd.protocol import MAX_TAIL, wipe

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from types import TracebackType

__all__ = ["Incoming", "Progress", "Readable", "Source", "upload_source"]

Progress = "Callable[[int, int | None], object]"
"""Called with the bytes that are done, and how many there are (None: not known)."""


class Readable(Protocol):
    """What bytes are read from: an open binary file, a socket's `makefile`, an `io.BytesIO`."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Incoming(Protocol):
    """What `upload_source` reads: a `Source`, or something around one."""

    @property
    def size(self) -> int | None: ...

    def read_into(self, view: memoryview) -> int: ...

    def check(self) -> None: ...


class Source:
    """One file, or whatever else bytes come from.

    A regular file has its size announced, and must not change until its last byte was read. Anything else (a pipe, a
    device) has no size before it ends. Holes are parts that nobody wrote: a file that is still being fetched, say.

    Args:
        file: a path, a descriptor that stays the caller's, or a file object that does.
        name: what errors call it.
        sparse: take holes for the zeros that they read as.

    Attributes:
        size: bytes, or None where that is not known.

    Raises:
        VaultError: `io`: it cannot be opened or read, or is a directory.
        Invalid: it has holes, or is no binary file.
    """

    def __init__(
        self, file: str | os.PathLike[str] | int | Readable, name: str | None = None, *, sparse: bool = False
    ) -> None:
        self.size: int | None = None
        self._sparse = sparse
        self._name = name if name is not None else "the file"
        self._file: Readable | None = None
        self._descriptor = -1
        self._ours = False
        self._before: os.stat_result | None = None
        self._done = 0
        if isinstance(file, int):
            self._descriptor = file
        elif isinstance(file, (str, os.PathLike)):
            self._name = name if name is not None else os.fspath(file)
            try:
                self._descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
            except OSError as error:
                raise self._io(error) from None
            self._ours = True
        elif hasattr(file, "readinto"):
            self._file = file
        else:
            raise Invalid("what is to be stored is no binary file", "give a path, or a file opened with mode 'rb'")
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        at: int | None = None
        if self._file is not None:
            try:  # a file object of a regular file is held to the same
                self._descriptor, at = self._file.fileno(), self._file.tell()  # type: ignore[attr-defined]
            except (AttributeError, OSError):
                return
        found = os.fstat(self._descriptor)
        if stat.S_ISDIR(found.st_mode):
            raise VaultError(
                f"{self._name}: is a directory", "name a file; several go into an archive first", code="io"
            )
        if not stat.S_ISREG(found.st_mode):
            return
        here = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        at = here if at is None else at
        if found.st_size <= at:
            return  # empty; or one of the kernel's own files, which do not say how long they are
        self._before = found
        self.size = found.st_size - at
        if self._sparse:
            return
        try:
            hole = os.lseek(self._descriptor, at, os.SEEK_HOLE)
        except OSError:
            return  # this file system does not tell
        finally:
            os.lseek(self._descriptor, here, os.SEEK_SET)
        if hole < found.st_size:
            raise Invalid(
                f"{self._name} has a hole at byte {hole}, which nobody wrote",
                "let whatever fetches it finish; where the holes are meant, say so: --sparse, or sparse=True",
            )

    def read_into(self, view: memoryview) -> int:
        """Fill `view`; how many bytes there were, fewer only at the end.

        Raises:
            Conflict: the file is shorter or longer than it was.
            VaultError: `io`: it cannot be read.
        """
        filled = 0
        try:
            while filled < len(view):
                count = self._read(view[filled:])
                if not count:
                    break
                filled += count
        except OSError as error:
            raise self._io(error) from None
        self._done += filled
        if self.size is not None:
            if self._done > self.size:
                raise self._changed(f"it has grown beyond the {self.size} bytes that it had")
            if filled < len(view) and self._done < self.size:
                raise self._changed(f"it ends after {self._done} of the {self.size} bytes that it had")
        return filled

    def check(self) -> None:
        """Hold, after the last byte, that the file is what it was when it was opened. Raises `Conflict`."""
        if self._before is None:
            return
        now = os.fstat(self._descriptor)
        if now.st_size != self._before.st_size:
            what = "grown" if now.st_size > self._before.st_size else "shrunk"
            raise self._changed(f"it has {what} from {self._before.st_size} to {now.st_size} bytes")
        # The change time as well: a program may set the other one back, as copying tools do. Filling a hole, or making
        # one, moves both.
        if (now.st_mtime_ns, now.st_ctime_ns) != (self._before.st_mtime_ns, self._before.st_ctime_ns):
            raise self._changed("it was written to")

    def close(self) -> None:
        """Close what was opened here."""
        if self._ours:
            self._ours = False
            os.close(self._descriptor)

    def __enter__(self) -> Source:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, view: memoryview) -> int:
        if self._file is None:
            return os.readv(self._descriptor, [view])
        count = self._file.readinto(view)
        if count is None:
            raise Invalid("what is to be stored is not blocking", "read it whole first, or set it to blocking")
        return count

    def _changed(self, how: str) -> Conflict:
        return Conflict(
            f"{self._name} changed while it was read: {how}",
            "nothing was stored; let whatever writes to it finish, or copy it first",
        )

    def _io(self, error: OSError) -> VaultError:
        return VaultError(f"{self._name}: {(error.strerror or 'cannot be read').lower()}", code="io")


Step = tuple[str, dict[str, Any], memoryview]


def upload_source(
    source: Incoming, op: str, keys: dict[str, Any], progress: Callable[[int, int | None], object] | None = None
) -> Generator[Step, None, None]:
    """The requests, in order, that store what a source gives; the answer to the last is the result.

    Each must be answered before the next is asked for: they share one buffer, which is wiped at the end. Where this
    raises, or is closed, the connection's upload must be given up: closing the connection does.

    Args:
        source: closed by its owner.
        op: `secret.put` or `rotate.secret`.
        keys: of that operation.
        progress: see `Progress`.

    Raises:
        Invalid: there is nothing.
        Conflict, VaultError: as `Source.read_into` and `Source.check`.
    """
    buffer = bytearray(MAX_TAIL)
    view = memoryview(buffer)
    try:
        count = source.read_into(view)
        if not count:
            raise Invalid("the value is empty", "a value has at least 1 byte")
        if count < len(view):
            source.check()
            yield op, keys, view[:count]
            return
        announced = dict(keys) if op == "secret.put" else {**keys, "rotate": True}
        if source.size is not None:
            announced["size"] = source.size
        yield "value.begin", announced, view[:0]
        done = 0
        while count:
            yield "value.chunk", {"offset": done}, view[:count]
            done += count
            if progress is not None:
                progress(done, source.size)
            count = source.read_into(view)
        source.check()
        yield op, {**keys, "upload": True}, view[:0]
    finally:
        wipe(view)
