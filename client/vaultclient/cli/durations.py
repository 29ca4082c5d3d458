"""Spans of time and instants, as people type and read them.

A span is `5m`, `1h30m`, `60d` or plain seconds. An instant is RFC 3339 (`2026-11-24T10:00:00Z`; without an offset it is
UTC), a date (its first moment, UTC), `@` and Unix seconds, or a span counted from now in the direction that the option
is about: back for `--since`, forward for `--expires` and `--at`.
"""

from __future__ import annotations

import re
from typing import Final

from vaultclient.cli.failures import CliError

__all__ = ["duration", "instant", "rate", "shown_duration", "shown_instant"]

_UNITS: Final = {"w": 604_800, "d": 86_400, "h": 3_600, "m": 60, "s": 1}
_SPAN = re.compile(r"(?:([0-9]{1,9})w)?(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?")
_MAX_SPAN: Final = 100 * 365 * 86_400
"""A hundred years of seconds: longer is a typing error, and would overflow what reads it."""


def _quoted(text: str) -> str:
    shown = ascii(text)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _seconds(text: str) -> int | None:
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    match = _SPAN.fullmatch(text)
    if match is None or not text:
        return None
    return sum(int(n) * unit for n, unit in zip(match.groups(), _UNITS.values(), strict=True) if n is not None)


def duration(text: str, what: str = "duration") -> int:
    """Whole seconds, at least 1.

    Raises:
        CliError: `invalid`: not a span, zero, negative, or over a hundred years.
    """
    seconds = _seconds(text)
    if seconds is None or not 0 < seconds <= _MAX_SPAN:
        raise CliError("invalid", f"not a {what}: {_quoted(text)}", "a positive span such as 30s, 5m, 1h30m or 60d")
    return seconds


def instant(text: str, what: str, *, now: float, backward: bool = False) -> float:
    """Unix seconds.

    Args:
        text: what was typed.
        what: the option's name, for the message.
        now: Unix seconds that a span is counted from.
        backward: a span means that long ago, not from now.

    Raises:
        CliError: `invalid`: not an instant.
    """
    from datetime import UTC, datetime  # only the few verbs that take an instant pay for it

    if re.fullmatch(r"@[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return float(text[1:])
    span = _seconds(text)
    if span is not None and not text.isdigit() and span <= _MAX_SPAN:
        return now - span if backward else now + span
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        direction = "ago" if backward else "from now"
        hint = f"RFC 3339 such as 2026-11-24T10:00:00Z, a date, @UNIX-SECONDS, or a span such as 1h ({direction})"
        raise CliError("invalid", f"{what} is not a time: {_quoted(text)}", hint) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return moment.timestamp()


def rate(text: str) -> list[int]:
    """`N/SPAN` as `[count, seconds]`, such as `10/1m`.

    Raises:
        CliError: `invalid`.
    """
    count, slash, span = text.partition("/")
    if not slash or not re.fullmatch(r"[0-9]{1,9}", count) or int(count) == 0:
        raise CliError("invalid", f"not a rate: {_quoted(text)}", "a count and a span, such as 10/1m")
    return [int(count), duration(span, "rate's span")]


def shown_duration(seconds: float) -> str:
    """A span in its two largest units: `1h 30m`, `5m`, `45s`; `0s` for none."""
    left = max(0, int(seconds))
    parts: list[tuple[int, str]] = []
    for name, unit in _UNITS.items():
        if name == "w":
            continue  # people read 60d, not 8w 4d
        count, left = divmod(left, unit)
        if count or parts:
            parts.append((count, name))
        if len(parts) == 2:
            break
    return " ".join(f"{count}{name}" for count, name in parts if count) or "0s"


def shown_instant(seconds: object) -> str:
    """Unix seconds as `2026-11-24 10:00:00`, UTC; `-` for none."""
    if not isinstance(seconds, int | float) or isinstance(seconds, bool):
        return "-"
    import time

    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return str(seconds)
