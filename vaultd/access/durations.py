"""Spans of time as people write them: `90s`, `5m`, `1h30m`, `60d`, `2w`; whole seconds inside."""

from __future__ import annotations

import re
from typing import Final

from vaultd.errors import Invalid

__all__ = ["LONGEST", "checked_seconds", "format_duration", "parse_duration"]

LONGEST: Final = 3650 * 86_400
"""Ten years, in seconds: longer spans are typing errors, and keep every sum of instants far from 64 bits."""

_UNITS: Final = (("w", 604_800), ("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_form = re.compile("".join(rf"(?:([0-9]{{1,9}}){letter})?" for letter, _ in _UNITS))
_HINT: Final = "units are w, d, h, m and s, largest first: 90s, 5m, 1h30m, 60d"


def parse_duration(text: object) -> int:
    """Seconds in `text`; at least one unit, each once, largest first.

    Raises:
        Invalid: not that form, zero, or longer than `LONGEST`.
    """
    if isinstance(text, str) and text and len(text) <= 64:
        found = _form.fullmatch(text)
        if found is not None:
            pairs = zip(found.groups(), _UNITS, strict=True)
            return checked_seconds(sum(int(count) * size for count, (_, size) in pairs if count is not None))
    raise Invalid(f"not a duration: {ascii(text)[:40]}", _HINT)


def checked_seconds(seconds: object, what: str = "duration") -> int:
    """`seconds` when it is a whole number from 1 to `LONGEST`; `what` names it in the error.

    Raises:
        Invalid: another type (True is not a number here), zero, negative or too long.
    """
    if not isinstance(seconds, int) or isinstance(seconds, bool):
        raise Invalid(f"the {what} is not a whole number of seconds", _HINT)
    if not 1 <= seconds <= LONGEST:
        raise Invalid(f"the {what} is not between 1s and {format_duration(LONGEST)}", _HINT)
    return seconds


def format_duration(seconds: int) -> str:
    """The shortest form that `parse_duration` reads back as `seconds`; weeks are shown as days, zero as `0s`."""
    if seconds <= 0:
        return "0s"
    parts: list[str] = []
    for letter, size in _UNITS[1:]:
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{letter}")
    return "".join(parts)
