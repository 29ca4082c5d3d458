"""Associated data: the exact bytes, and that no two places share them."""

from __future__ import annotations

import pytest

from vaultd.crypto.context import context, field
from vaultd.errors import Internal


def test_layout() -> None:
    """The bytes are the ones that FORMAT.md draws."""
    assert context("value", b"ab", 5) == (
        b"vaultd\x01" + b"\x05value" + b"\0\0\0\x02ab" + b"\0\0\0\x08" + b"\0\0\0\0\0\0\0\x05"
    )
    assert context("k") == b"vaultd\x01\x01k"


def test_prefix_and_fields_join() -> None:
    """A prefix made once and fields behind it are the whole made at once."""
    assert context("k", b"a", 1) + field(b"b") + field(2) == context("k", b"a", 1, b"b", 2)


def test_integers_are_u64() -> None:
    """Integers have eight bytes; what does not fit is a bug, not a wrapped number."""
    assert field((1 << 64) - 1) == b"\0\0\0\x08" + b"\xff" * 8
    for value in (-1, 1 << 64):
        with pytest.raises(Internal):
            field(value)


def test_kinds() -> None:
    """A kind is named, in ASCII, in at most 255 characters."""
    assert context("x" * 255)[7] == 255
    for kind in ("", "x" * 256):
        with pytest.raises(Internal):
            context(kind)
    with pytest.raises(Internal):
        context("wért")


def test_moving_a_byte_between_fields_changes_the_whole() -> None:
    """Lengths stand before fields, so that no byte can change sides."""
    assert (
        len({context("k", b"ab", b"c"), context("k", b"a", b"bc"), context("k", b"abc", b""), context("ka", b"bc")})
        == 4
    )
