"""Epoch keys: what the next one is, that the last one is gone, and that the two ways on agree."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.crypto.epochs import NO_PROOF, EpochKey
from vaultd.crypto.memory import Key
from vaultd.errors import Internal


def key_bytes(key: EpochKey) -> bytes:
    with memoryview(bytearray(32)) as place:
        key.write_to(place)
        return bytes(place)


def next_of(raw: bytes) -> bytes:
    return hashlib.blake2b(b"", key=raw, person=b"vaultd.seal.next", digest_size=32).digest()


@given(st.binary(min_size=32, max_size=32), st.lists(st.integers(0, 9), max_size=6))
def test_any_steps_lead_to_the_same_key(raw: bytes, steps: list[int]) -> None:
    """However it is divided, the way on is the one that hashlib goes; with a proof and without it is the same way."""
    expected = raw
    for _ in range(sum(steps)):
        expected = next_of(expected)
    for idle in (False, True):
        with EpochKey(Key.copy_of(raw), 0) as key:
            for step in steps:
                if idle:
                    key.idle(NO_PROOF, step)
                else:
                    key.advance(step)
            assert key.epoch == sum(steps)
            assert key_bytes(key) == expected


@given(st.integers(0, 12), st.integers(0, 12))
def test_a_proof_goes_on_where_it_stopped(one: int, two: int) -> None:
    """The proof of two runs, one behind the other, is the proof of both at once; of no epoch it is the one before."""
    with EpochKey(Key.copy_of(b"k" * 32), 0) as key, EpochKey(Key.copy_of(b"k" * 32), 0) as other:
        proof = key.idle(key.idle(NO_PROOF, one), two)
        assert proof == other.idle(NO_PROOF, one + two)
        assert key.equals(other)
        assert (proof == NO_PROOF) == (one + two == 0)


def test_the_key_before_is_gone() -> None:
    """After a step the place of the old key holds neither it nor anything that leads back to it."""
    first = Key.copy_of(b"\x07" * 32)
    place = first._place
    with EpochKey(first, 0) as key:
        for step in (1, 2, 7):
            before = key_bytes(key)
            key.advance(step)
            assert bytes(place) != before
            assert before not in b"".join(bytes(chunk) for chunk in Key._arena._chunks)


def test_uses_do_not_meet() -> None:
    """Tag, proof, identity and next key of one key over the same bytes have nothing in common."""
    key = EpochKey(Key.copy_of(b"k" * 32), 3)
    with key:
        shown = {key.tag(b""), key.tag(NO_PROOF), key.identity(), key.copy().idle(NO_PROOF), next_of(b"k" * 32)}
        assert len(shown) == 5
        assert key.verifies(b"", key.tag(b""))
        assert not key.verifies(b"", key.tag(b"x"))


def test_bounds_and_text_forms() -> None:
    """No way back, no proof of another size, no key in a text form, no use after it was wiped."""
    key = EpochKey(Key.copy_of(b"secretsecretsecretsecretsecretse"), 3)
    for call in (lambda: key.advance(-1), lambda: key.idle(b"short"), lambda: key.idle(NO_PROOF, -1)):
        with pytest.raises(Internal):
            call()
    assert "secret" not in f"{key!r} {key}"
    key.wipe()
    for call in (key.advance, lambda: key.tag(b""), lambda: key.idle(NO_PROOF)):
        with pytest.raises(Internal):
            call()
