"""The journal's segments: how their files are named, when one is full, and places in them. Pure.

audit/000001.jsonl, audit/000002.jsonl, … lines; the first of segment n + 1 follows the last of segment n
audit/000003.base                         what the first line of segment 3 follows, once those before were pruned
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "DEFAULT",
    "DIRECTORY",
    "UNBOUNDED",
    "Place",
    "SegmentLimits",
    "base_numbers",
    "base_path",
    "numbers",
    "segment_path",
]

DIRECTORY: Final = "audit"

_SEGMENT: Final = re.compile(r"([0-9]{6,9})\.jsonl")
_BASE: Final = re.compile(r"([0-9]{6,9})\.base")


class Place(NamedTuple):
    """A point between two lines, as a reader needs it. Places are ordered as the journal is."""

    segment: int
    offset: int
    """Bytes of the segment before it."""


class SegmentLimits(NamedTuple):
    """When a segment is full: at the end of the flush that takes it past either. None is never."""

    size: int | None = None
    """Bytes."""
    age: int | None = None
    """Nanoseconds by wall time since its first line."""


UNBOUNDED: Final = SegmentLimits()

DEFAULT: Final = SegmentLimits(64 << 20, 30 * 86_400 * 10**9)
"""64 MiB, 30 days."""


def segment_path(segment: int) -> str:
    """Where a segment lies in the store."""
    return f"{DIRECTORY}/{segment:06d}.jsonl"


def base_path(segment: int) -> str:
    """Where it lies what a journal that begins with this segment follows."""
    return f"{DIRECTORY}/{segment:06d}.base"


def numbers(names: Iterable[str]) -> list[int]:
    """The numbers of the segments among the names of a journal's directory, in order."""
    return _numbers(_SEGMENT, names, segment_path)


def base_numbers(names: Iterable[str]) -> list[int]:
    """The same of bases."""
    return _numbers(_BASE, names, base_path)


def _numbers(form: re.Pattern[str], names: Iterable[str], path: Callable[[int], str]) -> list[int]:
    matches = [(name, int(match[1])) for name in names if (match := form.fullmatch(name)) is not None]
    # In the one spelling that we give: 0000001 is not another name of 000001.
    return sorted(number for name, number in matches if number and path(number) == f"{DIRECTORY}/{name}")
