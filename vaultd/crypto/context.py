"""Associated data: what a sealed object is and where it belongs, in bytes that only that one place has.

    "vaultd" ‖ u8 format version ‖ u8 length of kind ‖ kind ‖ fields, each u32 length ‖ bytes; an integer is a u64

Big-endian throughout. Each kind has one fixed list of fields (the table in FORMAT.md), and every field carries its
length, so no two different lists of fields of a kind give the same bytes. Moving a sealed object anywhere else fails
because the place it came from is part of what was authenticated.
"""

from __future__ import annotations

from typing import Final

from vaultd.errors import Internal

__all__ = ["FORMAT_VERSION", "context", "field"]

FORMAT_VERSION: Final = 1
"""Version of every sealed construction in this room; a change of any of them changes it."""

_MAGIC: Final = b"vaultd" + bytes([FORMAT_VERSION])


def context(kind: str, *fields: bytes | int) -> bytes:
    """The associated data of one place.

    Args:
        kind: what is sealed: 1 to 255 ASCII characters, one of the kinds in a FORMAT.md.
        fields: where it belongs, in the kind's order.

    `context(kind, a) + field(b) == context(kind, a, b)`: a prefix that many objects share may be made once.
    """
    if not kind.isascii() or not 1 <= len(kind) <= 255:
        raise Internal("a kind has 1 to 255 ascii characters")
    name = kind.encode()
    return b"".join((_MAGIC, bytes([len(name)]), name, *map(field, fields)))


def field(value: bytes | int) -> bytes:
    """One field: its length, then its bytes."""
    if isinstance(value, int):
        if not 0 <= value < 1 << 64:
            raise Internal("an integer of associated data is unsigned and has 64 bits at most")
        return b"\0\0\0\x08" + value.to_bytes(8, "big")
    if len(value) >= 1 << 32:
        raise Internal("a field of associated data is shorter than 4 GiB")
    return len(value).to_bytes(4, "big") + value
