"""Token buckets, the fair queue, and the delay after wrong secrets."""

from __future__ import annotations

import pytest

from vaultd.access.instants import SECOND
from vaultd.access.throttle import Buckets, FailureDelays, Rate, Throttle, seconds_up
from vaultd.errors import Internal, Throttled

T0 = 5_000 * SECOND


def test_a_bucket_starts_full_and_refills_evenly() -> None:
    """Its count may be taken at once, then one each time a share of the span has passed."""
    buckets, rate = Buckets[str](), Rate(3, 60)
    assert [buckets.take("k", rate, T0) for _ in range(3)] == [0, 0, 0]
    assert buckets.take("k", rate, T0) == 20 * SECOND
    assert buckets.take("k", rate, T0 + 20 * SECOND - 1) == 1
    assert buckets.take("k", rate, T0 + 20 * SECOND) == 0
    assert buckets.take("k", rate, T0 + 20 * SECOND) == 20 * SECOND


def test_asking_takes_nothing() -> None:
    """`wait` leaves the bucket as it is, and so does a refused `take`."""
    buckets, rate = Buckets[str](), Rate(1, 10)
    assert buckets.wait("k", rate, T0) == 0
    assert buckets.take("k", rate, T0) == 0
    for _ in range(5):
        assert buckets.wait("k", rate, T0) == buckets.take("k", rate, T0) == 10 * SECOND


def test_keys_do_not_share_a_bucket() -> None:
    """One key's emptiness is nothing to another."""
    buckets, rate = Buckets[str](), Rate(1, 10)
    buckets.take("a", rate, T0)
    assert buckets.wait("b", rate, T0) == 0
    buckets.drop("a")
    assert buckets.wait("a", rate, T0) == 0


def test_full_buckets_are_forgotten() -> None:
    """A flood of keys that are quiet again does not stay in memory."""
    buckets, rate = Buckets[int](), Rate(10, 1)
    for key in range(100_000):
        buckets.take(key, rate, T0 + key * SECOND // 100)
    assert len(buckets) < 5_000


def test_a_throttle_raises_with_the_wait() -> None:
    """The error says when to come back, rounded up to whole seconds."""
    throttle = Throttle[int](Rate(1, 2))
    throttle.check(1000, T0)
    throttle.check(1001, T0)
    with pytest.raises(Throttled) as refused:
        throttle.check(1000, T0 + SECOND // 2)
    assert refused.value.hint == "try again in 2 s"
    assert throttle.take(1000, T0 + 2 * SECOND) == 0
    assert seconds_up(1) == 1
    assert len(throttle) == 2


def test_wrong_secrets_delay_longer_each_time_up_to_a_cap() -> None:
    """Delays double per failure, stop growing at the cap, and even a thousand failures leave a way in."""
    delays = FailureDelays(first=SECOND, longest=8 * SECOND)
    now = T0
    seen = []
    for _ in range(1_000):
        seen.append(delays.failed(1000, now))
        assert delays.wait(1000, now) == seen[-1]
        now += seen[-1]
        assert delays.wait(1000, now) == 0
    assert seen[:5] == [SECOND, 2 * SECOND, 4 * SECOND, 8 * SECOND, 8 * SECOND]
    assert max(seen) == 8 * SECOND


def test_failures_of_one_uid_delay_no_other() -> None:
    """Another uid may try at once."""
    delays = FailureDelays()
    delays.failed(1000, T0)
    assert delays.wait(1001, T0) == 0


def test_success_and_quiet_time_forget_failures() -> None:
    """After a success, or a quarter of an hour, counting starts anew."""
    delays = FailureDelays(first=SECOND, longest=64 * SECOND, forget=900)
    delays.failed(1, T0)
    delays.failed(1, T0)
    delays.succeeded(1)
    assert delays.wait(1, T0) == 0
    delays.failed(1, T0)
    delays.failed(1, T0)
    assert delays.failed(1, T0 + 900 * SECOND) == SECOND


def test_many_failing_uids_are_forgotten_in_time() -> None:
    """The table of failures does not keep uids whose failures no longer count."""
    delays = FailureDelays(forget=1)
    for uid in range(20_000):
        delays.failed(uid, T0 + uid * SECOND)
    assert len(delays._failures) <= 4096


def test_delays_are_sane() -> None:
    """A first delay of zero, or above the cap, is a bug in the caller."""
    for first, longest in [(0, 1), (2, 1)]:
        with pytest.raises(Internal):
            FailureDelays(first, longest)
