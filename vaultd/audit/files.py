"""A journal's files as they lie in a directory, read without keys and while a daemon may be writing them."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.audit.base import MAX_SIZE, NEVER_PRUNED, Base
from vaultd.audit.chain import MAX_LINE
from vaultd.audit.segments import base_numbers, numbers
from vaultd.errors import ConfigError, IntegrityError, StoreError, Uninitialised

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Gone", "Layout", "base_file", "look", "segment_file", "segment_lines"]

_CHUNK: Final = 1 << 20
_PATIENCE: Final = 5
_PAUSE_S: Final = 0.02


class Gone(Exception):
    """A segment that was there is not there any more."""


class Layout(NamedTuple):
    """What lies in a journal's directory.

    Attributes:
        base: what the journal begins after.
        last: number of its last segment.
        missing: the first segment that should be there and is not.
        notes: what else lies there.
    """

    base: Base
    last: int
    missing: int | None
    notes: tuple[str, ...]


def segment_file(folder: str, segment: int) -> str:
    """Where a segment lies."""
    return os.path.join(folder, f"{segment:06d}.jsonl")


def base_file(folder: str, segment: int) -> str:
    """Where it lies what a journal that begins with that segment follows."""
    return os.path.join(folder, f"{segment:06d}.base")


def look(folder: str) -> Layout:
    """Find out which segments there are, and where the journal begins.

    Pruning may have been interrupted, or be under way: what begins earliest and has no gap is the journal.

    Raises:
        Uninitialised: there is no journal.
        StoreError: the directory cannot be read.
        FormatVersion: a later version wrote what the journal begins after.
    """
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        raise _absent(folder) from None
    except OSError as error:
        raise unreadable(folder, error) from error
    found = numbers(names)
    if not found:
        raise _absent(folder)
    bases, notes = {1: NEVER_PRUNED}, list[str]()
    for number in base_numbers(names):
        try:
            base = Base.decode(_whole(base_file(folder, number)))
        except IntegrityError as error:
            notes.append(f"{number:06d}.base: {error.message}")
        except Gone:
            continue
        else:
            if base.segment == number:
                bases[number] = base
    last = found[-1]
    # Counted, not listed: somebody may have put a file there whose number is a thousand million.
    whole = [first for first in bases if sum(first <= number for number in found) == last - first + 1]
    begin = min(whole) if whole else max(first for first in bases if first in found or first == 1)
    missing = next((number for number in range(begin, last) if number not in found), None)
    for number in bases:
        if number not in (1, begin):
            notes.append(f"{number:06d}.base: a pruning by it was not finished; the next opening settles it")
    notes += [f"{number:06d}.jsonl lies before what the journal begins with" for number in found if number < begin]
    known = {f"{number:06d}.jsonl" for number in found} | {f"{number:06d}.base" for number in base_numbers(names)}
    notes += [f"{name!a} is not part of a journal" for name in names if name not in known]
    return Layout(bases[begin], last, missing, tuple(notes))


def _whole(path: str) -> bytes:
    fd = _open(path)
    with os.fdopen(fd, "rb") as file:
        data = file.read(MAX_SIZE + 1)
    if len(data) > MAX_SIZE:
        raise IntegrityError("it is longer than any of its kind")
    return data


def _absent(folder: str) -> Uninitialised:
    return Uninitialised(f"there is no audit journal in {folder}", "name the vault's directory with --dir")


def unreadable(path: str, error: OSError) -> StoreError:
    """The error for what the system refuses."""
    return StoreError(f"cannot read {path}: {(error.strerror or 'unknown error').lower()}", "run as the vault's owner")


def _open(path: str) -> int:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise Gone(path) from None
    except OSError as error:
        raise unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise ConfigError(f"{path} is not a regular file", "a journal is a regular file")
    return fd


def segment_lines(folder: str, segment: int, pause: Callable[[float], None]) -> Iterator[bytes]:
    """A segment's lines, each with its newline but possibly the last.

    Args:
        pause: how to wait for the rest of a line that is being written, seconds.

    Raises:
        Gone: the segment was pruned.
        ConfigError: a link or another kind of file stands in its place.
        StoreError: it cannot be read.
    """
    path = segment_file(folder, segment)
    fd = _open(path)
    try:
        rest = b""
        patience = _PATIENCE
        followed = False
        while True:
            chunk = os.read(fd, _CHUNK)
            if chunk:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    yield line + b"\n"
                if len(rest) > MAX_LINE:
                    break
            elif not followed and os.path.lexists(segment_file(folder, segment + 1)):
                followed = True  # what was written between our last look and the next segment's beginning is whole now
            elif rest and patience and not followed:
                # A daemon may be in the middle of writing this line; one that stays cut short is bad.
                patience -= 1
                pause(_PAUSE_S)
            else:
                break
        if rest:
            yield rest
    except OSError as error:
        raise unreadable(path, error) from error
    finally:
        os.close(fd)
