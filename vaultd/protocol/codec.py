"""Headers: one strict, canonical form of msgpack. Nothing else in this package, and nothing in the client, packs.

The form is canonical so that no two byte strings mean the same header and no header can be read in two ways: after
parsing, packing again must give the same bytes. That one comparison refuses duplicate keys, integers and lengths in a
longer form than needed, 32-bit floats and trailing bytes, and it runs at C speed. What it cannot see is refused on its
own: extension types, keys that are not text, floats that are not finite.

Bounds are set before and while parsing: the frame bounds the bytes, so at most one object arises per byte; each text,
byte string, array and map has a cap below; nesting is read without recursion and refused beyond `MAX_DEPTH`.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, Final, NoReturn

from msgpack import Packer, unpackb  # type: ignore[import-untyped]  # it ships no annotations

from vaultd.protocol.errors import LocalProtocolError, RemoteProtocolError
from vaultd.protocol.framing import MAX_HEADER

__all__ = ["MAX_DEPTH", "MAX_ITEMS", "MAX_KEYS", "MAX_REQUEST_HEADER", "MAX_TEXT", "Header", "decode", "encode"]

Header = dict[str, Any]
"""A header: text keys; values are None, bool, int (64 bits), finite float, str, bytes, and lists and maps of these."""

MAX_REQUEST_HEADER: Final = 16_384
"""Most header bytes of a request: what bounds the work that a stranger can ask for. Replies may fill a frame."""

MAX_TEXT: Final = 8_192
"""Most bytes of one text or byte string."""

MAX_ITEMS: Final = 1_024
"""Most items of one array."""

MAX_KEYS: Final = 64
"""Most keys of one map."""

MAX_DEPTH: Final = 5
"""How deep containers may nest, the header itself included."""


def _pack_alone(header: Any) -> bytes:
    packed: bytes = Packer(use_bin_type=True).pack(header)
    return packed


# One packer is five times faster than one a call. The compiled one may be shared: its pack() runs no Python code here,
# so no other thread enters it. msgpack's Python fallback may not: there every call has its own.
_pack: Final = _pack_alone if "fallback" in Packer.__module__ else Packer(use_bin_type=True, buf_size=MAX_HEADER).pack


def encode(header: Header, *, limit: int = MAX_HEADER) -> bytes:
    """Pack a header.

    Raises:
        LocalProtocolError: a value has no place in a header, or the whole is over `limit` bytes.
    """
    try:
        packed: bytes = _pack(header)
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"a header value cannot be sent: {type(error).__name__}") from None
    if len(packed) > limit:
        raise LocalProtocolError(f"a header of {len(packed)} bytes is over the limit of {limit}")
    return packed


def decode(packed: bytes, *, limit: int = MAX_HEADER) -> Header:
    """Parse a header; `encode(decode(b)) == b`, or this raises.

    Raises:
        RemoteProtocolError: not one canonical msgpack map within the bounds.
    """
    if len(packed) > limit:
        raise RemoteProtocolError(f"a header of {len(packed)} bytes is over the limit of {limit}")
    try:
        header = unpackb(
            packed,
            raw=False,
            strict_map_key=True,
            ext_hook=_refuse_extension,
            max_str_len=MAX_TEXT,
            max_bin_len=MAX_TEXT,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_KEYS,
            max_ext_len=0,
        )
    except RemoteProtocolError:
        raise
    except Exception as error:  # noqa: BLE001  msgpack raises a dozen types, not all of them ValueErrors; none quotes safely
        raise RemoteProtocolError(f"the header is not msgpack within the limits: {type(error).__name__}") from None
    if type(header) is not dict:
        raise RemoteProtocolError("the header is not a map")
    for key, value in header.items():
        if type(key) is not str:
            raise RemoteProtocolError("a header key is not text")
        kind = type(value)
        if kind is list or kind is dict or kind is float:
            _check(value, MAX_DEPTH - 1)
    if _pack(header) != packed:
        raise RemoteProtocolError("the header is not in its one canonical form")
    return header


def _check(value: Any, depth: int) -> None:
    """Refuse what canonical packing cannot see, and nesting before it is packed again (that recurses)."""
    if type(value) is float:
        if not isfinite(value):
            raise RemoteProtocolError("a number in the header is not finite")
        return
    if type(value) is list:
        if depth == 0:
            raise RemoteProtocolError("the header nests too deep")
        for item in value:
            _check(item, depth - 1)
    elif type(value) is dict:
        if depth == 0:
            raise RemoteProtocolError("the header nests too deep")
        for key, item in value.items():
            if type(key) is not str:
                raise RemoteProtocolError("a header key is not text")
            _check(item, depth - 1)


def _refuse_extension(_code: int, _data: bytes) -> NoReturn:
    raise RemoteProtocolError("extension types are not used")
