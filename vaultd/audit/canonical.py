"""The one spelling of JSON and of times that audit records use. Pure."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

from vaultd.errors import IntegrityError, Internal

__all__ = ["MAX_INT", "canonical", "parse_canonical", "parse_second", "parse_timestamp", "timestamp"]

MAX_INT: Final = (1 << 63) - 1
"""The largest integer, either sign, that a record may hold."""

_MAX_DEPTH: Final = 16
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z", re.ASCII)


@lru_cache(maxsize=8)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def timestamp(wall: int) -> str:
    """`wall` (UTC nanoseconds since 1970) as the journal writes it: RFC 3339 with microseconds, cut, not rounded."""
    return f"{_second(wall // 1_000_000_000)}.{wall // 1_000 % 1_000_000:06d}Z"


@lru_cache(maxsize=8)
def parse_second(text: str) -> int:
    """Seconds since 1970 of a time cut after its seconds; `ValueError` if there is no such time."""
    return int(datetime.strptime(text, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC).timestamp())


def parse_timestamp(text: str) -> int:
    """The inverse of `timestamp`: UTC nanoseconds since 1970.

    Raises:
        IntegrityError: not a time in the journal's one spelling.
    """
    if _TIME.fullmatch(text) is not None:
        try:
            return parse_second(text[:19]) * 1_000_000_000 + int(text[20:26]) * 1_000
        except ValueError:  # a thirteenth month
            pass
    raise IntegrityError("not a time as the journal writes it")


_encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False, sort_keys=True, separators=(",", ":"))


def canonical(value: object) -> str:
    """`value` as canonical JSON: ASCII, keys sorted, no spaces.

    It may hold objects, lists, strings, booleans, null and 64-bit integers. Fractions are left out because they have
    many spellings.

    Raises:
        Internal: something else is in it, or it is nested more than 16 deep.
    """
    _check(value, 0)
    return _encoder.encode(value)


def _check(value: object, depth: int) -> None:
    if value is None or isinstance(value, (str, bool)):
        return
    if isinstance(value, int):
        if not -MAX_INT <= value <= MAX_INT:
            raise Internal("a number in an audit body does not fit 64 bits")
        return
    if depth >= _MAX_DEPTH:
        raise Internal("an audit body is nested too deep")
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                raise Internal("a key in an audit body is not a string")
            _check(item, depth + 1)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _check(item, depth + 1)
    else:
        raise Internal("an audit body holds what canonical JSON cannot say")


def _refuse(_text: str) -> Any:
    raise ValueError("not an integer")


_decoder = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse)


def parse_canonical(text: str) -> dict[str, Any]:
    """The object that `text` spells.

    Raises:
        IntegrityError: it is not one JSON object in canonical form.
    """
    try:
        value = _decoder.decode(text)  # of a key that stands twice it keeps one, and so the spelling differs
        spelling = canonical(value)
    except (ValueError, RecursionError, Internal) as error:
        raise IntegrityError("an audit body is not canonical json") from error
    if not isinstance(value, dict) or spelling != text:
        raise IntegrityError("an audit body is not canonical json")
    return value
