"""The anchor's slots: which one is in force, and what is refused."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.audit.journal import Position
from vaultd.crypto.memory import Key
from vaultd.errors import FormatVersion, IntegrityError
from vaultd.vault.anchor import NO_BASE, SLOT_SIZE, Anchor, choose

KEY = Key.copy_of(bytes(range(32)))
VAULT = b"v" * 16
ANCHOR = Anchor(VAULT, 7, 10**18, Position(1, 1234, 5, b"h" * 32), b"k" * 32, 3, b"s" * 32, pending=True)


def _sum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=32, person=b"vaultd.state.sum").digest()


def _slots(*anchors: Anchor, key: Key = KEY) -> tuple[bytes, bytes]:
    slots = [bytes(SLOT_SIZE), bytes(SLOT_SIZE)]
    for anchor in anchors:
        slots[anchor.slot] = anchor.encode(key)
    return slots[0], slots[1]


@given(
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**32 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_an_anchor_comes_back(
    sequence: int, wall: int, segment: int, offset: int, digest: bytes, pending: bool, first: int
) -> None:
    """Whatever is written is what is chosen and verified."""
    anchor = Anchor(VAULT, sequence, wall, Position(segment, offset, 9, digest), digest, 1, digest, pending)
    if digest != NO_BASE:
        anchor = replace(anchor, first=first % segment + 1, base=digest)
    found = choose(_slots(anchor))
    assert found.anchor == anchor
    assert found.torn
    found.verify(KEY)


def test_the_newer_slot_is_in_force() -> None:
    """Of two whole slots that of the higher sequence counts, whichever place it has."""
    for sequence in (7, 8):
        newer, older = replace(ANCHOR, sequence=sequence), replace(ANCHOR, sequence=sequence - 1)
        found = choose(_slots(newer, older))
        assert found.anchor == newer
        assert not found.torn


def test_a_torn_slot_leaves_the_other() -> None:
    """Whichever sector bytes a power cut leaves of the newer slot, the older takes over and the report says so."""
    older, newer = replace(ANCHOR, sequence=6), ANCHOR
    before, after = _slots(older, replace(ANCHOR, sequence=5))[1], newer.encode(KEY)
    for cut in range(1, SLOT_SIZE):
        for torn in (after[:cut] + before[cut:], before[:cut] + after[cut:], after[:cut] + bytes(SLOT_SIZE - cut)):
            if torn in (before, after):
                continue
            found = choose((older.encode(KEY), torn))
            assert found.anchor == older
            assert found.torn


def test_every_bit_counts() -> None:
    """A flipped bit anywhere in the only slot is found, with or without a fresh checksum."""
    whole = ANCHOR.encode(KEY)
    for bit in range(8 * SLOT_SIZE):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        with pytest.raises(IntegrityError):
            choose((bytes(SLOT_SIZE), bytes(raw)))
        if bit < 8 * 480:
            # Somebody who knows the format makes the checksum fit: then the form or the MAC tells.
            raw[480:] = _sum(bytes(raw[:480]))
            with pytest.raises((IntegrityError, FormatVersion)):
                choose((bytes(SLOT_SIZE), bytes(raw))).verify(KEY)


def test_a_forged_slot_is_not_passed_over() -> None:
    """A whole slot under another key is refused: nothing older takes its place."""
    other = Key.copy_of(b"o" * 32)
    genuine = replace(ANCHOR, sequence=6).encode(KEY)
    found = choose((genuine, ANCHOR.encode(other)))
    assert found.anchor == ANCHOR
    with pytest.raises(IntegrityError, match="not written by this vault"):
        found.verify(KEY)


@pytest.mark.parametrize("distance", [3, 5])
def test_slots_follow_each_other(distance: int) -> None:
    """A slot put back from an older copy is not the neighbour of the present one."""
    with pytest.raises(IntegrityError, match="follow"):
        choose(_slots(ANCHOR, replace(ANCHOR, sequence=7 - distance)))


def test_a_slot_has_its_place() -> None:
    """A slot moved into the other's place, or doubled, is refused."""
    raw = ANCHOR.encode(KEY)
    for slots in ((raw, bytes(SLOT_SIZE)), (raw, raw)):
        with pytest.raises(IntegrityError, match="form"):
            choose(slots)


def test_of_another_vault() -> None:
    """An anchor of another vault is refused, as is one beside it."""
    with pytest.raises(IntegrityError, match="another vault"):
        choose(_slots(ANCHOR), b"w" * 16)
    with pytest.raises(IntegrityError, match="another vault"):
        choose(_slots(ANCHOR, replace(ANCHOR, sequence=6, vault_id=b"w" * 16)))


def test_a_newer_format_is_named() -> None:
    """A whole slot of a later format is not taken for damage."""
    raw = bytearray(ANCHOR.encode(KEY))
    raw[8:10] = b"\0\3"
    raw[480:] = _sum(bytes(raw[:480]))
    with pytest.raises(FormatVersion, match="format 3"):
        choose((bytes(SLOT_SIZE), bytes(raw)))


def test_a_forward_seal_raises_the_version() -> None:
    """An anchor of a journal that is sealed forward is of version 2, which older programs name; any other is of 1."""
    sealed = replace(ANCHOR, seal=7)
    assert sealed.encode(KEY)[8:10] == b"\0\2"
    assert ANCHOR.encode(KEY)[8:10] == b"\0\1"
    assert choose(_slots(sealed)).anchor == sealed
    for version, seal in ((1, 7), (2, 0)):
        raw = bytearray(replace(ANCHOR, seal=seal).encode(KEY))
        raw[8:10] = version.to_bytes(2, "big")
        raw[480:] = _sum(bytes(raw[:480]))
        with pytest.raises(IntegrityError, match="form"):
            choose((bytes(SLOT_SIZE), bytes(raw)))


def test_nothing_whole() -> None:
    """Two torn slots are an error, not an empty vault; so is a slot of another size."""
    with pytest.raises(IntegrityError, match="neither"):
        choose((bytes(SLOT_SIZE), bytes(SLOT_SIZE)))
    with pytest.raises(IntegrityError, match="length"):
        choose((bytes(SLOT_SIZE), bytes(SLOT_SIZE - 1)))
