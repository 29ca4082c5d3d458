"""Buckets against plain models."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from vaultd.access.instants import SECOND
from vaultd.access.throttle import Buckets, Rate


@settings(max_examples=300)
@given(
    st.integers(1, 7),
    st.integers(1, 90),
    st.lists(st.tuples(st.integers(0, 40 * SECOND), st.booleans()), max_size=60),
)
def test_a_bucket_is_a_token_bucket(count: int, seconds: int, steps: list[tuple[int, bool]]) -> None:
    """Takes and waits are those of an exact bucket of `count` tokens refilled at `count` per `seconds`."""
    buckets, rate = Buckets[str](), Rate(count, seconds)
    per_ns = Fraction(count, seconds * SECOND)
    level, now = Fraction(count), 10**15
    for step, takes in steps:
        now += step
        level = min(Fraction(count), level + step * per_ns)
        wait = buckets.take("k", rate, now) if takes else buckets.wait("k", rate, now)
        expected = max(Fraction(0), (1 - level) / per_ns)
        assert wait == -(-expected.numerator // expected.denominator)
        if takes and level >= 1:
            level -= 1


@settings(max_examples=100)
@given(st.integers(1, 7), st.integers(1, 90), st.lists(st.integers(0, 10 * SECOND), max_size=200))
def test_no_span_sees_more_than_its_share(count: int, seconds: int, steps: list[int]) -> None:
    """However requests come, any span of time lets through at most the bucket and what refilled meanwhile."""
    buckets, rate = Buckets[str](), Rate(count, seconds)
    now, taken = 10**15, []
    for step in steps:
        now += step
        if buckets.take("k", rate, now) == 0:
            taken.append(now)
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken)):
            span = taken[last] - taken[first]
            assert last - first + 1 <= count + Fraction(span * count, seconds * SECOND)
