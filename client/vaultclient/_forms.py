"""The forms that a value takes in text: raw, hex, base64, base64url, URL-encoded, JSON-escaped, as Python shows bytes.

All of them are made by tables and loops into buffers that are wiped, never by the library's encoders, which return
objects that nobody can wipe.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LEAST", "MOST_ENCODED", "forms"]

LEAST: Final = 4
"""Bytes of the shortest value looked for: a mark in place of each `7` would tell the value, not hide it."""

MOST_ENCODED: Final = 65_536
"""Bytes of the longest value whose encoded forms are looked for as well; of longer ones the raw form is."""

_BASE64: Final = (string.ascii_uppercase + string.ascii_lowercase + string.digits + "+/").encode("ascii")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_UNRESERVED: Final = (string.ascii_letters + string.digits + "_.-~").encode("ascii")
_SHORT: Final = {8: b"\\b", 9: b"\\t", 10: b"\\n", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}
_PYTHON: Final = {9: b"\\t", 10: b"\\n", 13: b"\\r", 92: b"\\\\"}


def _table(of: Callable[[int], bytes]) -> tuple[bytes, ...]:
    return tuple(of(byte) for byte in range(256))


def _percent(safe: bytes, *, upper: bool, plus: bool) -> tuple[bytes, ...]:
    kept = frozenset(_UNRESERVED + safe)
    pattern = "%%%02X" if upper else "%%%02x"

    def one(byte: int) -> bytes:
        if plus and byte == 0x20:
            return b"+"
        return bytes([byte]) if byte in kept else (pattern % byte).encode("ascii")

    return _table(one)


_HEX: Final = (
    _table(lambda byte: b"%02x" % byte),
    _table(lambda byte: b"%02X" % byte),
)

_URL: Final = tuple(
    _percent(safe, upper=upper, plus=plus)
    # All escaped; paths; and what JavaScript's encodeURIComponent leaves as it is.
    for safe in (b"", b"/", b"!'()*")
    for upper in (True, False)
    for plus in (False, True)
)


def _json(*, slash: bool) -> tuple[bytes, ...]:
    def one(byte: int) -> bytes:
        if byte == 0x2F and slash:
            return b"\\/"
        return _SHORT.get(byte, b"\\u%04x" % byte if byte < 0x20 else bytes([byte]))

    return _table(one)


_JSON: Final = (_json(slash=False), _json(slash=True))

_REPR: Final = _table(
    lambda byte: _PYTHON.get(byte, bytes([byte]) if 0x20 <= byte < 0x7F else b"\\x%02x" % byte)  # b'...' of Python
)


def _latin_1_json(byte: int, table: tuple[bytes, ...], *, ascii_only: bool) -> bytes:
    if byte < 0x7F:
        return table[byte]
    return b"\\u%04x" % byte if ascii_only else chr(byte).encode("utf-8")


_LATIN_1: Final = _table(lambda byte: chr(byte).encode("utf-8"))
"""What a program makes of bytes that are not UTF-8 when it takes each for a character; below, the same as JSON."""

_LATIN_1_JSON: Final = tuple(
    tuple(_latin_1_json(byte, table, ascii_only=ascii_only) for byte in range(256))
    for table in _JSON
    for ascii_only in (True, False)
)


def _by_table(value: Sequence[int], table: tuple[bytes, ...]) -> bytearray:
    made = bytearray()
    for byte in value:
        made += table[byte]
    return made


def _json_ascii(value: Sequence[int], pattern: bytes, *, slash: bool) -> bytearray | None:
    """JSON with every character beyond ASCII as `\\u…`; None when the value is not UTF-8."""
    made, table = bytearray(), _JSON[slash]
    rest = iter(value)
    for byte in rest:
        if byte < 0x80:
            escaped = byte == 0x7F or (byte < 0x20 and byte not in _SHORT)
            made += pattern % byte if escaped else table[byte]
            continue
        following = 1 if 0xC2 <= byte <= 0xDF else 2 if 0xE0 <= byte <= 0xEF else 3 if 0xF0 <= byte <= 0xF4 else 0
        point = byte & (0x3F >> following)
        for _ in range(following):
            more = next(rest, 0)
            if more & 0xC0 != 0x80:
                following = 0
                break
            point = point << 6 | more & 0x3F
        if not following:
            made[:] = bytes(len(made))
            return None
        if point > 0xFFFF:  # a surrogate pair, RFC 8259 section 7
            point -= 0x10000
            made += pattern % (0xD800 | point >> 10) + pattern % (0xDC00 | point & 0x3FF)
        else:
            made += pattern % point
    return made


def _sextets(value: Sequence[int], skip: int) -> tuple[bytearray, int | None]:
    """Base64 of the value from its bit `skip` on: whole characters, and the last one that what is left would give."""
    made = bytearray()
    gathered, bits = 0, -skip
    for byte in value:
        gathered = (gathered << 8 | byte) & 0xFFFF
        if bits < 0:
            gathered &= 0xFF >> -bits
        bits += 8
        while bits >= 6:
            bits -= 6
            made.append(_BASE64[gathered >> bits & 0x3F])
    return made, _BASE64[gathered << 6 - bits & 0x3F] if bits else None


def forms(value: bytearray) -> list[bytearray]:
    """Every form of the value, each once; all of them the caller's to wipe.

    Base64 depends on where the value begins within what is encoded (`user:value`): there is a form for each of the
    three places, without the characters at the ends that hold bits of others.

    Args:
        value: the bytes; one trailing line ending is not looked for, as programs strip it. Shorter than `LEAST`: no
            forms.
    """
    end = len(value)
    while end and value[end - 1] in b"\r\n":
        end -= 1
    if end < LEAST:
        return []
    core = value[:end]
    made = [core]

    def add(form: bytearray | None) -> None:
        if form is None:
            return
        if len(form) < LEAST or form in made:
            form[:] = bytes(len(form))
            return
        made.append(form)

    if end > MOST_ENCODED:
        return made
    for table in _HEX:
        add(_by_table(core, table))
    for skip in (0, 4, 2):
        whole, last = _sextets(core, skip)
        ended = whole + bytes([last]) if last is not None else None
        for one in (whole, ended):
            if one is not None:
                add(one.translate(_TO_URL))
                add(one)
    for table in (*_URL, *_JSON, _REPR):
        add(_by_table(core, table))
    for slash in (False, True):
        for pattern in (b"\\u%04x", b"\\u%04X"):
            escaped = _json_ascii(core, pattern, slash=slash)
            add(escaped)
    if escaped is None:
        for table in (_LATIN_1, *_LATIN_1_JSON):
            add(_by_table(core, table))
    return made
