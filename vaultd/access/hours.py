"""Hours of the day in which a grant works: `08:00-18:00`, `22:00-06:00` across midnight, in a named time zone.

The room stays pure: a zone is data (`datetime.tzinfo`) that the edge loads once, when a grant is added or read back,
with a `LoadZone` such as `zoneinfo.ZoneInfo`. Asking what time it is there afterwards is arithmetic on that data.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NamedTuple

from vaultd.errors import Invalid

__all__ = ["Hours", "LoadZone", "load_zone", "parse_hours", "utc_only"]

LoadZone = Callable[[str], tzinfo]
"""Name of a zone (IANA) to its rules; raises KeyError, ValueError or OSError when there is none."""

_form = re.compile(r"([0-9]{2}):([0-9]{2})-([0-9]{2}):([0-9]{2})")
_zone_name = re.compile(r"[A-Za-z0-9_+-]{1,32}(?:/[A-Za-z0-9_+-]{1,32}){0,3}")
_DAY: Final = 24 * 60
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HINT: Final = "two times of day, first included, last not: 08:00-18:00, or 22:00-06:00 across midnight"


class Hours(NamedTuple):
    """Minutes of the day from `start` (included) to `end` (not included); `end` below `start` crosses midnight."""

    start: int
    end: int

    def hold(self, wall: int, zone: tzinfo) -> bool:
        """Whether the clock on the wall of `zone` stands within these hours at `wall` (ns, UTC)."""
        try:
            local = (_EPOCH + timedelta(microseconds=wall // 1_000)).astimezone(zone)
        except OverflowError:  # a wall clock beyond year 9999, or at the very edge of what a date can hold
            return False
        minute = local.hour * 60 + local.minute
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        return f"{self.start // 60:02}:{self.start % 60:02}-{self.end // 60:02}:{self.end % 60:02}"


def parse_hours(text: object) -> Hours:
    """The hours in `text`; `24:00` is allowed as an end.

    Raises:
        Invalid: another form, no time of day, or start equal to end (which could mean always or never).
    """
    found = _form.fullmatch(text) if isinstance(text, str) else None
    if found is not None:
        h1, m1, h2, m2 = (int(part) for part in found.groups())
        start, end = h1 * 60 + m1, h2 * 60 + m2
        if h1 < 24 and m1 < 60 and m2 < 60 and end <= _DAY:
            if start != end % _DAY or (start, end) == (0, _DAY):
                return Hours(start, end)
            raise Invalid("the hours start and end at the same minute", "leave hours out for the whole day")
    raise Invalid(f"not hours of the day: {ascii(text)[:40]}", _HINT)


def utc_only(name: str) -> tzinfo:
    """The `LoadZone` that knows UTC alone: for callers that have no zone files at hand."""
    if name != "UTC":
        raise KeyError(name)
    return UTC


def load_zone(name: object, load: LoadZone) -> tzinfo:
    """The zone called `name`, through the edge's loader.

    Raises:
        Invalid: the name has not the form of a zone's, or the loader knows none so called.
    """
    if not isinstance(name, str) or _zone_name.fullmatch(name) is None:
        raise Invalid(f"not a time zone: {ascii(name)[:40]}", "use an IANA name such as Europe/Berlin, or UTC")
    if name == "UTC":
        return UTC  # must not depend on zone files
    try:
        return load(name)
    except (KeyError, ValueError, OSError) as error:
        raise Invalid(
            f"no time zone is called {name!a}", "use an IANA name; on Debian the zones come with tzdata"
        ) from error
