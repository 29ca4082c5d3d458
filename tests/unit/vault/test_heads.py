"""The heads: rows that come and go, and their file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaultd.audit.journal import Position
from vaultd.errors import FormatVersion, IntegrityError, Internal
from vaultd.vault.heads import NO_RECORD, NO_TRAIL, Head, Heads, Trail, hash_of

VAULT = b"v" * 16
PLACE = Position(1, 500, 4, b"p" * 32)

_uids = st.integers(0, 6).map(lambda n: n.to_bytes(16, "big"))
_steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "head", "trail"]), _uids, st.integers(1, 2**32 - 1)))


def _heads() -> Heads:
    heads = Heads(VAULT)
    for number in range(3):
        uid = bytes([number]) * 16
        heads.add(uid, number + 1)
        heads.set_head(uid, Head(number + 1, 10 + number, bytes([0xA0 + number]) * 16))
        heads.set_trail(uid, 20 + number, bytes([0xB0 + number]) * 32)
    return heads


@given(_steps)
def test_rows_follow_a_model(steps: list[tuple[str, bytes, int]]) -> None:
    """After any series of changes the rows say what a plain dictionary says, and come back from their file."""
    heads, model = Heads(VAULT), dict[bytes, tuple[Head, Trail]]()
    for action, uid, number in steps:
        tag = number.to_bytes(16, "big")
        if action == "add":
            if uid in model:
                with pytest.raises(Internal):
                    heads.add(uid, number)
                continue
            heads.add(uid, number)
            model[uid] = (Head(number, 0, NO_RECORD), NO_TRAIL)
        elif uid in model and action == "remove":
            heads.remove(uid)
            del model[uid]
        elif uid in model and action == "head":
            heads.set_head(uid, Head(number, number * 2, tag))
            model[uid] = (Head(number, number * 2, tag), model[uid][1])
        elif uid in model:
            heads.set_trail(uid, number, tag * 2)
            model[uid] = (model[uid][0], Trail(number, tag * 2))
    for known in (heads, Heads.decode(heads.encode(PLACE), VAULT)[0]):
        assert {uid: (known.head(uid), known.trail(uid)) for uid in known.uids()} == model
        assert len(known) == len(model)


def test_a_snapshot_does_not_change() -> None:
    """What was encoded stays as it was while the rows move on."""
    heads = _heads()
    encoded = heads.encode(PLACE)
    before = bytes(encoded)
    heads.set_trail(bytes(16), 99, b"x" * 32)
    assert encoded == before
    assert Heads.decode(encoded, VAULT)[1] == PLACE


def test_every_bit_counts() -> None:
    """A flipped bit anywhere changes the hash that the anchor holds."""
    whole = _heads().encode(PLACE)
    for bit in range(8 * len(whole)):
        raw = bytearray(whole)
        raw[bit // 8] ^= 1 << bit % 8
        assert hash_of(bytes(raw)) != hash_of(whole)


def test_one_spelling() -> None:
    """Cut, longer, doubled rows, another vault, another magic: refused; a later format: named."""
    whole = _heads().encode(PLACE)
    for size in range(len(whole)):
        with pytest.raises(IntegrityError):
            Heads.decode(whole[:size], VAULT)
    row = whole[88:172]
    doubled = whole[:12] + (4).to_bytes(4, "big") + whole[16:] + row
    for raw in (
        whole + b"\0",
        doubled,
        b"X" + whole[1:],
        whole[:11] + b"\1" + whole[12:],
        whole[:39] + b"\1" + whole[40:],
    ):
        with pytest.raises(IntegrityError):
            Heads.decode(raw, VAULT)
    with pytest.raises(IntegrityError, match="another vault"):
        Heads.decode(whole, b"w" * 16)
    with pytest.raises(FormatVersion):
        Heads.decode(whole[:8] + b"\0\2" + whole[10:], VAULT)
    with pytest.raises(IntegrityError):
        Heads.decode(whole[:8] + b"\0\0" + whole[10:], VAULT)
