"""What a store promises: opaque bytes kept durably under names that this code makes up.

A path is one to four parts joined by `/`, each `[a-z0-9][a-z0-9._-]{0,63}`: no path from outside ever reaches a store,
so another shape is a bug (`Internal`). Names that begin with a dot belong to the store (files on their way to their
final name) and are never listed.

One process holds a store at a time. Within it, reads may run beside one writer thread.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, Protocol, Self

from vaultd.errors import Internal

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TEMPORARY", "AppendFile", "NewFile", "RangeFile", "SlotFile", "Store", "split"]

TEMPORARY: Final = ".new."
"""How the name of a file begins that is on the way to its final name."""

_PART: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MAX_DEPTH: Final = 4


def split(path: str) -> tuple[str, ...]:
    """The checked parts of `path`.

    Raises:
        Internal: the path is not one that this code could have made.
    """
    parts = tuple(path.split("/"))
    if len(parts) > _MAX_DEPTH or not all(_PART.fullmatch(part) for part in parts):
        raise Internal("a store was given an unsafe path")
    return parts


class AppendFile(Protocol):
    """A file that grows at its end.

    After a failed write or flush it refuses to grow: what reached the disk is unknown.
    """

    @property
    def size(self) -> int:
        """Bytes up to the end of the last whole append (or of the file as it was found)."""
        ...

    def append(self, data: bytes) -> int:
        """Write all of `data` at the end; returns the offset it starts at. Durable only after `flush`.

        Raises:
            StoreError: not all of it was written, or an earlier write or flush failed.
        """
        ...

    def flush(self) -> None:
        """Make every append so far durable (fdatasync).

        Raises:
            StoreError: the kernel reports an error; the caller must not acknowledge, nor try again.
        """
        ...

    def pread(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`, fewer only at the end of the file."""
        ...

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes, durably."""
        ...

    def check(self) -> None:
        """Hold that the name still leads to this very file and that nobody else touched it.

        Raises:
            IntegrityError: the file was removed, replaced, cut, grown, linked, or its mode or owner changed.
        """
        ...

    def close(self) -> None: ...


class SlotFile(Protocol):
    """A file of equal slots that are overwritten in place, each write durable when it returns."""

    def read(self, index: int) -> bytes: ...

    def read_into(self, index: int, buffer: bytearray) -> None:
        """Read one slot into `buffer`, which has its size: for slots that hold a secret."""
        ...

    def write(self, index: int, data: bytes | memoryview) -> None:
        """Overwrite one slot durably. A power cut leaves the old bytes, the new ones, or a mix within this slot only.

        Raises:
            StoreError: the write failed; the slot may hold either, or a mix.
        """
        ...

    def close(self) -> None: ...


class NewFile(Protocol):
    """A file that is written in pieces and has no name until it is whole. May be used in another thread."""

    @property
    def size(self) -> int:
        """Bytes written so far."""
        ...

    def append(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data` behind what is there.

        Raises:
            StoreError: not all of it was written, or an earlier write failed; only `abort` is left then.
        """
        ...

    def commit(self) -> None:
        """Flush it and give it its name, durably; a crash leaves the whole file under its name, or none.

        Raises:
            Exists: the name is taken.
            StoreError: the file is not there, or it is not known whether it is: only `abort` is left then.
        """
        ...

    def abort(self) -> None:
        """Leave nothing of it, unless it was committed. Never raises, and may be called again."""
        ...


class RangeFile(Protocol):
    """A file that is read here and there and never changes. May be used in another thread."""

    @property
    def size(self) -> int:
        """Bytes of the file as it was found."""
        ...

    def read_into(self, offset: int, buffer: bytearray | memoryview) -> int:
        """Fill `buffer` from `offset`; returns how many bytes there were, fewer only at the end of the file."""
        ...

    def close(self) -> None:
        """Let go of it; may be called again."""
        ...


class Store(Protocol):
    """A directory of opaque files, or its twin in memory.

    Every method may raise `StoreError`, whose message has the system's words for what went wrong and whose hint says
    what helps. A file that is a link, not a regular file, not ours or open to others raises `ConfigError`.
    """

    @property
    def location(self) -> str:
        """Where the store is, for messages."""
        ...

    def read(self, path: str, limit: int) -> bytes:
        """The whole file.

        Raises:
            NotFound: there is no such file.
            IntegrityError: it is longer than `limit` bytes, which no file of ours is.
        """
        ...

    def exists(self, path: str) -> bool: ...

    def list(self, path: str = "") -> list[str]:
        """Sorted names in a directory (the root by default), without the store's own files. Raises `NotFound`."""
        ...

    def tidy(self, path: str = "") -> int:
        """Remove what an earlier holder left on the way to its final name in a directory; returns how many.

        Afterwards all names in it are durable, and so is the absence of others: a holder that was killed may have given
        or removed some without.

        Raises `NotFound`.
        """
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Put `data` under `path`, durably; a crash leaves the old file or the new one, whole."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """As `replace`, but raises `Exists` if the name is taken; a crash leaves the whole file or none."""
        ...

    def rename(self, source: str, target: str) -> None:
        """Give a file another name in the same directory, durably and atomically, replacing what is there."""
        ...

    def remove(self, path: str, *, missing_ok: bool = False) -> None:
        """Remove a file, durably. Raises `NotFound` unless `missing_ok`."""
        ...

    def mkdir(self, path: str, *, exist_ok: bool = False) -> None:
        """Make a directory (its parent must be there), durably. Raises `Exists` unless `exist_ok`."""
        ...

    def remove_tree(self, path: str, *, missing_ok: bool = False) -> None:
        """Remove a directory and all in it, durably; a crash may leave part. Raises `NotFound` unless `missing_ok`."""
        ...

    def append(self, path: str) -> AppendFile:
        """Open an existing file for appending. Raises `NotFound`."""
        ...

    def begin(self, path: str) -> NewFile:
        """Begin a new file that is written in pieces; its directory must be there. Raises `NotFound`."""
        ...

    def ranges(self, path: str) -> RangeFile:
        """Open an existing file for reading here and there. Raises `NotFound`."""
        ...

    def slots(self, path: str, size: int, count: int) -> SlotFile:
        """Open an existing file of `count` slots of `size` bytes. What it holds then is durable, whoever wrote it.

        Raises:
            NotFound: there is no such file (make it with `create`, so that its blocks are there when needed).
            IntegrityError: it has another length.
        """
        ...

    def close(self) -> None:
        """Let go of the lock. Open files are closed by their holders."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
