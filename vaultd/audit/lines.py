"""Lines out of an open segment: forwards between two places, and the last ones before a place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.audit.chain import MAX_LINE
from vaultd.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vaultd.store import AppendFile

__all__ = ["last_lines", "lines_of"]

_CHUNK: Final = 256 << 10
_REACH: Final = 8 << 10
"""Bytes read to find the last two lines before a place, unless they are longer."""

_RESTORE: Final = "restore the vault from a backup"


def lines_of(file: AppendFile, shown: str, offset: int, stop: int) -> Iterator[tuple[bytes, int]]:
    """The lines between two offsets, each with its end's; the last may lack its newline.

    Raises:
        IntegrityError: the file is shorter.
    """
    rest = b""
    while offset < stop:
        chunk = file.pread(offset, min(_CHUNK, stop - offset))
        if not chunk:
            raise IntegrityError(f"{shown} was cut while it was read", "find out who changes the vault's files")
        start = offset - len(rest)
        offset += len(chunk)
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            start += len(line) + 1
            yield line + b"\n", start
        if len(rest) > MAX_LINE:
            break
    if rest:
        yield rest, offset


def last_lines(file: AppendFile, end: int, count: int) -> list[bytes]:
    """The last `count` lines before an offset, fewer where the file begins.

    Raises:
        IntegrityError: no line ends there.
    """
    reach = _REACH
    while True:
        start = max(0, end - reach)
        data = file.pread(start, end - start)
        *lines, rest = data.split(b"\n")
        if rest:
            raise IntegrityError("the journal's last known line is cut short", _RESTORE)
        # Unless it is the very first, a line may have begun before `start`.
        lines = lines[1:] if start else lines
        if start == 0 or len(lines) >= count:
            return [line + b"\n" for line in lines[-count:]]
        reach *= 16
