"""Spans, instants and rates as people type them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultclient.cli.durations import duration, instant, rate, shown_duration, shown_instant
from vaultclient.cli.failures import CliError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        ("30s", 30),
        ("5m", 300),
        ("1h30m", 5400),
        ("60d", 5_184_000),
        ("2w", 1_209_600),
        ("1w2d3h4m5s", 788_645),
        ("90", 90),
    ],
)
def test_spans_are_whole_seconds(text: str, seconds: int) -> None:
    """Units from the largest to the smallest, each once; a bare number is seconds."""
    assert duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "0", "0s", "-5m", "m5", "5m1h", "5m5m", "1.5h", "5 m", "5M", "٥m", "5m\n", "9999999d", "9" * 30, "1e3"],
)
def test_what_is_no_positive_span_is_refused(text: str) -> None:
    """Zero, negative, out of order, other digits, trailing newline, beyond a hundred years."""
    with pytest.raises(CliError) as caught:
        duration(text)
    assert caught.value.code == "invalid"


@given(st.integers(min_value=1, max_value=100 * 365 * 86_400))
def test_what_is_shown_is_close_and_reads_back(seconds: int) -> None:
    """A shown span has two units at most, and reads back to no more than was shown, off by less than its last unit."""
    shown = shown_duration(seconds)
    assert len(shown.split()) <= 2
    back = duration(shown.replace(" ", ""))
    assert seconds - 86_400 < back <= seconds


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-24T10:00:00Z", 1_795_514_400),
        ("2026-11-24T11:00:00+01:00", 1_795_514_400),
        ("2026-11-24T10:00", 1_795_514_400),
        ("2026-11-24", 1_795_478_400),
        ("@12.5", 12.5),
    ],
)
def test_instants(text: str, expected: float) -> None:
    """RFC 3339, without an offset UTC; a date; Unix seconds behind an @."""
    assert instant(text, "--at", now=0) == expected


def test_a_span_as_instant_counts_from_now_in_the_option_s_direction() -> None:
    """--since 1h is an hour ago, --expires 1h in an hour."""
    assert instant("1h", "--since", now=10_000, backward=True) == 6_400
    assert instant("1h", "--expires", now=10_000) == 13_600


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12", "@", "@1e5", "10:00"])
def test_what_is_no_instant_is_refused(text: str) -> None:
    """A bare number could mean two things, and means none."""
    with pytest.raises(CliError, match="--at is not a time"):
        instant(text, "--at", now=0)


def test_rates() -> None:
    """A count in a span; anything else is refused."""
    assert rate("10/1m") == [10, 60]
    for text in ("10", "0/1m", "/1m", "10/", "-1/1m", "10/0s", "1.5/1m"):
        with pytest.raises(CliError):
            rate(text)


def test_shown_instants_bear_anything() -> None:
    """None, a bool and what no calendar has do not break a table."""
    assert shown_instant(1_795_514_400.7) == "2026-11-24 10:00:00"
    assert shown_instant(None) == shown_instant(True) == "-"
    assert shown_instant(1e300) == "1e+300"
