"""Canonical JSON and times: one spelling each."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.audit.canonical import MAX_INT, canonical, parse_canonical, parse_second, parse_timestamp, timestamp
from vaultd.errors import IntegrityError, Internal

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX_INT, MAX_INT) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_what_canonical_writes_parses_back_to_the_same(value: dict[str, object]) -> None:
    """Parsing the canonical form gives the value, and writing it again gives the same bytes."""
    text = canonical(value)
    assert parse_canonical(text) == value
    assert canonical(parse_canonical(text)) == text
    assert text.isascii()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "[]",
        "null",
        '{"a":1}x',
        ' {"a":1}',
        '{"a": 1}',
        '{"b":1,"a":2}',
        '{"a":1,"a":1}',
        '{"a":1.0}',
        '{"a":1e3}',
        '{"a":NaN}',
        '{"a":-0}',
        '{"a":01}',
        '{"a":"\\u0041"}',
        '{"a":"\\/"}',
        '{"a":"é"}',
        '{"a":"\x7f\x00"}',
        '{"a":9223372036854775808}',
        '{"a":' + "9" * 5000 + "}",
        '{"a":' + "[" * 100_000,
        '{"a":' + "[" * 17 + "]" * 17 + "}",
        '{"a":"\\uD800"}',
    ],
)
def test_another_spelling_is_refused(text: str) -> None:
    """Spaces, order, duplicates, fractions, escapes that need not be, depth and size: none of them gets through."""
    with pytest.raises(IntegrityError):
        parse_canonical(text)


@pytest.mark.parametrize("value", [{"a": 1.5}, {"a": b"x"}, {1: 2}, {"a": MAX_INT + 1}, {"a": {1, 2}}])
def test_what_json_cannot_say_in_one_way_is_a_bug_of_the_caller(value: object) -> None:
    """Writing refuses fractions, bytes, keys that are not strings and numbers beyond 64 bits."""
    with pytest.raises(Internal):
        canonical(value)


@given(st.integers(0, 4_102_444_800_000_000_000))
def test_a_timestamp_is_rfc_3339_cut_to_microseconds(wall: int) -> None:
    """It reads as the standard library's time, and parses back to the microsecond."""
    text = timestamp(wall)
    assert datetime.fromisoformat(text) == datetime.fromtimestamp(wall // 1_000_000_000, UTC).replace(
        microsecond=wall // 1000 % 1_000_000
    )
    assert parse_timestamp(text) == wall // 1000 * 1000
    assert json.loads(f'"{text}"') == text
    assert len(text) == 27


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-24T10:00:00Z",
        "2026-11-24T10:00:00.1Z",
        "2026-13-24T10:00:00.000000Z",
        "2026-02-30T10:00:00.000000Z",
        "2026-11-24T24:00:00.000000Z",
        "2026-11-24T23:59:60.000000Z",
        "2026-11-24T10:00:00.000000z",
        "2026-11-24 10:00:00.000000Z",
        "2026-11-24T10:00:00.000000Z\n",
        "٢٠٢٦-11-24T10:00:00.000000Z",
    ],
)
def test_another_spelling_of_a_time_is_refused(text: str) -> None:
    """Missing digits, impossible dates, other separators and other digits are not times."""
    with pytest.raises(IntegrityError):
        parse_timestamp(text)


def test_the_cached_second_is_the_calendar_s() -> None:
    """A second parses to the same count as the standard library's, again and again."""
    for _ in range(2):
        assert parse_second("2026-11-24T10:00:00") == int(datetime(2026, 11, 24, 10, tzinfo=UTC).timestamp())
