"""I7: an acknowledged change survives any crash, any other is wholly there or absent, and the vault opens by itself."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.vault_crashes import live_and_crash


@settings(max_examples=400)
@given(st.integers(0, 2**32))
def test_a_crash_leaves_one_whole_state(seed: int) -> None:
    """Whatever is staged, flushed and interrupted, and however the disk looks afterwards, one whole state is found."""
    live_and_crash(seed)
