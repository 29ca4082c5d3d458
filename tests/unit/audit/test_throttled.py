"""Counting refusals: bounded records, and none that no record stands for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from vaultd.audit.throttled import OTHERS, WINDOW_NS, Counted, Refusal, RefusalCounter

S = 1_000_000_000


def test_the_first_refusal_is_recorded_at_once_and_the_rest_as_one_count() -> None:
    """One record when a uid's window opens, one for all the others when it ends."""
    counter = RefusalCounter()
    assert counter.refuse(1000, 0) == Refusal(False, Counted(1000, 1))
    for second in range(1, 59):
        assert counter.refuse(1000, second * S) == Refusal(False, None)
    assert counter.due(59 * S) == []
    assert counter.due(60 * S) == [Counted(1000, 58)]
    assert counter.due(200 * S) == []
    assert counter.refuse(1000, 201 * S) == Refusal(False, Counted(1000, 1))


def test_a_refusal_after_the_window_carries_what_was_counted() -> None:
    """Without a tick in between, the next refusal's record stands for the waiting ones too."""
    counter = RefusalCounter()
    counter.refuse(7, 0)
    counter.refuse(7, 1)
    counter.refuse(7, 2)
    assert counter.refuse(7, WINDOW_NS) == Refusal(False, Counted(7, 3))


def test_uids_are_counted_apart() -> None:
    """One uid's window says nothing of another's."""
    counter = RefusalCounter()
    counter.refuse(1, 0)
    assert counter.refuse(2, 0) == Refusal(False, Counted(2, 1))


def test_singles_get_their_own_records_up_to_their_number() -> None:
    """With `singles`, that many a window are recorded by themselves, the rest counted."""
    counter = RefusalCounter(singles=2)
    assert [counter.refuse(1, 0).single for _ in range(4)] == [True, True, False, False]
    assert counter.refuse(1, WINDOW_NS) == Refusal(True, Counted(1, 2))
    assert counter.refuse(1, WINDOW_NS + 1) == Refusal(True, None)
    assert counter.refuse(1, WINDOW_NS + 2) == Refusal(False, None)


def test_made_up_uids_share_one_count() -> None:
    """Beyond the cap, keys are counted together, and the table does not grow."""
    counter = RefusalCounter(max_keys=10)
    written = [counter.refuse(uid, 0).counted for uid in range(1000)]
    assert written[:11] == [Counted(uid, 1) for uid in range(10)] + [Counted(OTHERS, 1)]
    assert written[11:] == [None] * 989
    assert counter.drain() == [Counted(OTHERS, 989)]


def test_the_shared_count_has_no_records_of_single_refusals() -> None:
    """What is counted together is counted only, also where others' first refusals get their own records."""
    counter = RefusalCounter(singles=3, max_keys=1)
    assert counter.refuse(1, 0) == Refusal(True, None)
    assert counter.refuse(2, 0) == Refusal(False, Counted(OTHERS, 1))
    assert counter.refuse(3, 0) == Refusal(False, None)


def test_draining_writes_the_open_counts() -> None:
    """Before stopping, what was only counted is written; draining again finds nothing."""
    counter = RefusalCounter()
    counter.refuse(1, 0)
    counter.refuse(1, 1)
    assert counter.drain() == [Counted(1, 1)]
    assert counter.drain() == []


@given(
    st.integers(0, 3),
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 40), st.booleans()), max_size=200),
)
def test_every_refusal_is_in_some_record_and_records_are_few(
    singles: int, keys: int, steps: list[tuple[int, int, bool]]
) -> None:
    """Whatever comes: records add up to the refusals, and any minute holds no more of a key's than two windows'."""
    counter = RefusalCounter(singles=singles, max_keys=keys)
    now = refusals = recorded = 0
    times: dict[object, list[int]] = {}
    for key, seconds, tick in steps:
        now += seconds * S
        if tick:
            counts = counter.due(now)
        else:
            refusals += 1
            single, counted = counter.refuse(key, now)
            if single:
                recorded += 1
                times.setdefault(key, []).append(now)
            counts = [] if counted is None else [counted]
        for count in counts:
            recorded += count.total
            times.setdefault(count.key, []).append(now)
    assert recorded + sum(count.total for count in counter.drain()) == refusals
    for stamps in times.values():
        for start in stamps:
            assert sum(start <= stamp < start + WINDOW_NS for stamp in stamps) <= 2 * (singles + 1)
