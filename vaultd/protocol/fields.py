"""What a value in a header may be: each kind is a label for `PROTOCOL.md` and a test that says yes or no.

These bound and type; whether a name is well formed or a duration sensible is for the daemon to judge (code `invalid`).
`bool` is never an `int` here, and `1.0` is never `1`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ANY_MAP",
    "BOOL",
    "CURSOR",
    "DESCRIPTION",
    "DURATION",
    "ID",
    "INSTANT",
    "ITEMS",
    "NAME",
    "PATH",
    "RATE",
    "SECRET",
    "SIZE",
    "TEXT",
    "TOKEN",
    "UINT32",
    "UINT64",
    "WORD",
    "Kind",
    "choice",
    "integer",
    "text",
    "texts",
]


class Kind(NamedTuple):
    """A kind of value: how the specification calls it, and whether a value is one."""

    label: str
    accepts: Callable[[Any], bool]


def text(most: int, *, least: int = 1) -> Kind:
    """Text of `least` to `most` characters."""
    return Kind(f"text {least}–{most}", lambda value: type(value) is str and least <= len(value) <= most)


def integer(least: int, most: int, label: str = "") -> Kind:
    """An integer from `least` to `most`, both included."""
    return Kind(label or f"int {least}–{most}", lambda value: type(value) is int and least <= value <= most)


def choice(*words: str) -> Kind:
    """One of a few words."""
    allowed = frozenset(words)
    return Kind(" or ".join(f'"{word}"' for word in words), lambda value: type(value) is str and value in allowed)


def texts(most: int, *, least: int, each: int) -> Kind:
    """A list of `least` to `most` texts of up to `each` characters."""

    def accepts(value: Any) -> bool:
        return (
            type(value) is list
            and least <= len(value) <= most
            and all(type(item) is str and 1 <= len(item) <= each for item in value)
        )

    return Kind(f"list of {least}–{most} texts 1–{each}", accepts)


def _is_instant(value: Any) -> bool:
    # 2**53 s is where a double stops counting seconds; NaN fails every comparison
    return (type(value) is int or type(value) is float) and 0 <= value <= 2**53


def _is_rate(value: Any) -> bool:
    return (
        type(value) is list and len(value) == 2 and all(type(part) is int and 1 <= part <= 2**31 - 1 for part in value)
    )


BOOL: Final = Kind("bool", lambda value: type(value) is bool)
UINT32: Final = integer(0, 2**32 - 1, "u32")
UINT64: Final = integer(0, 2**64 - 1, "u64")
SIZE: Final = integer(0, 2**63 - 1, "bytes, 0–2^63-1")
"""A size, or a place in a value: what a file offset holds."""
ID: Final = integer(1, 2**32 - 1, "request id: u32, not 0")
DURATION: Final = integer(-(2**31), 2**31 - 1, "seconds, i32")
"""Zero and negative durations are well-formed bytes; the daemon answers them `invalid`, naming the field."""
INSTANT: Final = Kind("unix seconds: int or float64, 0–2^53", _is_instant)
RATE: Final = Kind("[count, seconds], both 1–2^31-1", _is_rate)
TOKEN: Final = Kind("32 bytes", lambda value: type(value) is bytes and len(value) == 32)
NAME: Final = text(128, least=0)
"""Twice what any name may be: a name that is a little wrong is the daemon's to refuse, with a hint."""
SECRET: Final = text(512, least=0)
"""A secret's name or pattern; twice the longest valid one."""
WORD: Final = text(128)
"""A public id (`run_…`, `lease_…`, `grant_…`) or another short word."""
CURSOR: Final = text(512)
"""Where a listing goes on: a reply's `next`, opaque to the client; long enough for the longest name."""
DESCRIPTION: Final = text(1_024, least=0)
TEXT: Final = text(4_096, least=0)
PATH: Final = text(4_096)
ANY_MAP: Final = Kind("map", lambda value: type(value) is dict)
ITEMS: Final = Kind("list of maps", lambda value: type(value) is list and all(type(item) is dict for item in value))
