"""Hours of the day, midnight, zones and daylight saving."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pytest

from vaultd.access.hours import Hours, load_zone, parse_hours, utc_only
from vaultd.access.instants import SECOND
from vaultd.errors import Invalid


def at(hour: int, minute: int = 0, second: int = 0) -> int:
    """Wall ns at this time of 2026-11-24, UTC."""
    return int(datetime(2026, 11, 24, hour, minute, second, tzinfo=UTC).timestamp()) * SECOND


def test_the_first_minute_is_in_and_the_last_is_out() -> None:
    """08:00-18:00 holds from 08:00:00 up to, not including, 18:00:00."""
    hours = parse_hours("08:00-18:00")
    assert [hours.hold(w, UTC) for w in (at(7, 59, 59), at(8), at(17, 59, 59), at(18))] == [False, True, True, False]


def test_hours_cross_midnight() -> None:
    """22:00-06:00 holds on both sides of midnight and not by day."""
    hours = parse_hours("22:00-06:00")
    assert all(hours.hold(at(h), UTC) for h in (22, 23, 0, 5))
    assert not any(hours.hold(at(h), UTC) for h in (6, 12, 21))


def test_a_day_may_end_at_24() -> None:
    """00:00-24:00 is the whole day and 18:00-24:00 its last quarter."""
    assert all(parse_hours("00:00-24:00").hold(at(h), UTC) for h in range(24))
    assert [parse_hours("18:00-24:00").hold(at(h), UTC) for h in (17, 18, 23, 0)] == [False, True, True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "8-18",
        "8:00-18:00",
        "08:00-18:00\n",
        "24:00-06:00",
        "08:60-09:00",
        "08:00-25:00",
        "08:00-24:01",
        "08:00-08:00",
        "24:00-24:00",
        "00:00-00:00",
        "08:00–18:00",
        None,
        8,
    ],
)
def test_other_forms_are_refused(text: object) -> None:
    """No time of day, and a start that equals the end, are Invalid."""
    with pytest.raises(Invalid):
        parse_hours(text)


def test_the_zone_shifts_the_hours() -> None:
    """The same instant is within the hours in one zone and outside in another."""
    hours = parse_hours("08:00-18:00")
    assert hours.hold(at(7), timezone(timedelta(hours=1)))
    assert not hours.hold(at(17), timezone(timedelta(hours=1)))


class _Switching(tzinfo):
    """One hour ahead from noon UTC of the day on, none before: a change to summer time."""

    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(hours=1 if when is not None and when.hour >= 13 else 0)

    def dst(self, when: datetime | None) -> timedelta:
        return self.utcoffset(when)

    def fromutc(self, when: datetime) -> datetime:
        return when + timedelta(hours=1 if when.hour >= 12 else 0)


def test_hours_follow_a_change_of_the_clocks() -> None:
    """When the zone's clocks jump ahead, the hours end an hour earlier in UTC."""
    hours = parse_hours("08:00-18:00")
    assert hours.hold(at(8), _Switching())
    assert not hours.hold(at(17), _Switching())


def test_an_impossible_clock_is_outside_all_hours() -> None:
    """A wall clock beyond what a date can hold never falls within hours."""
    assert not Hours(0, 1440).hold(2**63 * 1000, UTC)


def test_zones_come_from_the_callers_loader() -> None:
    """The loader is asked for well-formed names only, and what it cannot find is Invalid."""
    asked: list[str] = []

    def load(name: str) -> tzinfo:
        asked.append(name)
        if name == "Europe":
            raise IsADirectoryError(name)
        raise KeyError(name)

    for name in ["Europe/Nowhere", "Europe", "../../etc/passwd", "/etc/localtime", "a\0b", "", "Europe/..", None]:
        with pytest.raises(Invalid):
            load_zone(name, load)
    assert asked == ["Europe/Nowhere", "Europe"]
    assert load_zone("UTC", load) is UTC
    assert utc_only("UTC") is UTC
