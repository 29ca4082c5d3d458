"""Spans of time as people write them."""

from __future__ import annotations

import pytest

from vaultd.access.durations import LONGEST, checked_seconds, format_duration, parse_duration
from vaultd.errors import Invalid


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1s", 1), ("90s", 90), ("5m", 300), ("1h30m", 5400), ("60d", 5_184_000), ("2w", 1_209_600), ("1d1h1m1s", 90_061)],
)
def test_units_add_up(text: str, seconds: int) -> None:
    """A duration is the sum of its units."""
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0s",
        "5",
        "m",
        "-5m",
        "+5m",
        "5 m",
        "1m1h",
        "1m1m",
        "5m\n",
        "1.5h",
        "5M",
        "٥m",
        "9999999999s",
        "3651d",
        None,
        5,
    ],
)
def test_anything_else_is_refused(text: object) -> None:
    """Zero, negative, unordered, repeated, foreign digits and trailing bytes are Invalid."""
    with pytest.raises(Invalid):
        parse_duration(text)


def test_what_is_shown_reads_back() -> None:
    """The shown form of a span parses to the same span."""
    for seconds in [1, 59, 60, 61, 3600, 86_399, 86_400, 90_061, LONGEST]:
        assert parse_duration(format_duration(seconds)) == seconds
    assert format_duration(0) == "0s"


@pytest.mark.parametrize("value", [True, 0, -1, 1.0, "5", LONGEST + 1])
def test_seconds_are_whole_and_bounded(value: object) -> None:
    """Booleans, floats, zero and absurd spans are not numbers of seconds."""
    with pytest.raises(Invalid):
        checked_seconds(value)
