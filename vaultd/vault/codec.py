"""The one way in which maps become sealed bytes and back: msgpack, narrowed until a value has a single spelling.

What is allowed: maps with distinct `str` keys, lists, `str`, `bytes`, `int` (64 bits), `bool`, `None`. No fractions
(NaN, two zeros), no extension types, no timestamps. Nesting ends at `MAX_DEPTH`, sizes at the caller's limit. What
`unpack` accepts, `pack` gives back byte for byte, so two programs cannot read one record in two ways.

Secrets never pass here: msgpack leaves copies that nobody can wipe.
"""

from __future__ import annotations

from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no annotations

from vaultd.errors import IntegrityError, Internal

__all__ = ["MAX_DEPTH", "MAX_MAP", "pack", "unpack"]

MAX_MAP: Final = 60_000
"""Bytes of the longest packed map: a record's header states its length in 16 bits."""

MAX_DEPTH: Final = 8
"""Maps and lists within each other, the outermost included."""


def pack(value: dict[str, Any]) -> bytes:
    """The bytes of `value`.

    Raises:
        Internal: it holds what `unpack` would refuse, or is longer than `MAX_MAP`; a bug of the caller.
    """
    _check(value, MAX_DEPTH)
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True, strict_types=True)
    except (TypeError, ValueError, OverflowError) as error:
        raise Internal("a record cannot be packed") from error
    if len(packed) > MAX_MAP:
        raise Internal("a record is too long to be packed")
    return packed


def unpack(packed: bytes | bytearray | memoryview, limit: int = MAX_MAP) -> dict[str, Any]:
    """The map that `pack` made `packed` of.

    Raises:
        IntegrityError: it is anything else: another type, a second spelling, trailing bytes, too long, too deep.
    """
    data = bytes(packed)
    if len(data) > limit:
        raise IntegrityError("a record's header is too long")
    try:
        # The length of the input bounds every count in it; msgpack's own caps default to that.
        value = msgpack.unpackb(
            data, raw=False, strict_map_key=True, use_list=True, object_pairs_hook=_pairs, max_ext_len=0
        )
    except (ValueError, TypeError, RecursionError) as error:
        # StackError, ExtraData, FormatError and bad UTF-8 are ValueErrors all.
        raise IntegrityError("a record's header is not what this program packs") from error
    if type(value) is not dict:
        raise IntegrityError("a record's header is not a map")
    try:
        again = pack(value)
    except Internal as error:
        raise IntegrityError("a record's header holds what this program never packs") from error
    # A longer spelling of a number or a length would read the same: only the shortest counts.
    if again != data:
        raise IntegrityError("a record's header has another spelling")
    return value


def _pairs(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")
    return found


def _check(value: Any, depth: int) -> None:
    kind = type(value)
    if kind in _SCALARS:
        return
    if depth == 0:
        raise Internal("a record is nested too deep")
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise Internal("a record's key is not a string")
            if type(item) not in _SCALARS:
                _check(item, depth - 1)
    elif kind is list or kind is tuple:
        for item in value:
            if type(item) not in _SCALARS:
                _check(item, depth - 1)
    else:
        raise Internal(f"a record cannot hold a {kind.__name__}")


_SCALARS: Final = frozenset({str, bytes, int, bool, type(None)})
