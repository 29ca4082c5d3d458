"""Validated value types for every name that comes from outside, one canonical form each, made once at the edge.

The grammar is ASCII and lower case, so no two accepted names can be confused by case folding or Unicode normalisation;
path parts, newlines and NUL are outside it. Validation is a full match: `$` would let a trailing newline through.
"""

from __future__ import annotations

import re
from typing import Final, NewType

from vaultd.errors import Invalid

__all__ = [
    "RESERVED",
    "Pattern",
    "Purpose",
    "SecretName",
    "ServiceName",
    "TenantName",
    "pattern",
    "purpose",
    "secret_name",
    "service_name",
    "tenant_name",
]

TenantName = NewType("TenantName", str)
"""A customer's name, `[a-z0-9][a-z0-9._-]{0,63}`, none of `RESERVED`."""

ServiceName = NewType("ServiceName", str)
"""A workload identity's name; same grammar as a tenant's."""

SecretName = NewType("SecretName", str)
"""One to eight segments joined by `/`, each `[a-z0-9][a-z0-9._-]{0,63}`; 255 characters at most."""

Pattern = NewType("Pattern", str)
"""A secret name in which `*` stands for any run of characters within a segment and a segment `**` for any segments."""

Purpose = NewType("Purpose", str)
"""What a lease is for, in the caller's words; same grammar as a tenant's name, reserved words allowed."""

RESERVED: Final = frozenset({"all", "any", "default", "embedded", "none", "root", "self", "system", "vault", "vaultd"})
"""Words that mean something to people or to this code, and so are nobody's name."""

_WORD: Final = r"[a-z0-9][a-z0-9._-]{0,63}"
_word = re.compile(_WORD)
_path = re.compile(rf"{_WORD}(?:/{_WORD}){{0,7}}")
_glob_segment = re.compile(r"[a-z0-9*][a-z0-9._*-]{0,63}")
_MAX_PATH: Final = 255
_GRAMMAR: Final = "lower-case letters, digits, '.', '_' and '-', starting with a letter or digit, at most 64 characters"


def _shown(value: object) -> str:
    """Caller's input as it may appear in a message: quoted, ASCII, bounded."""
    text = ascii(value) if isinstance(value, str) else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."


def _checked_word(kind: str, value: object, *, reserved: bool) -> str:
    if not isinstance(value, str) or _word.fullmatch(value) is None:
        raise Invalid(f"not a {kind} name: {_shown(value)}", f"use {_GRAMMAR}")
    if reserved and value in RESERVED:
        raise Invalid(f"{value!r} is a reserved word", f"choose another {kind} name")
    return value


def tenant_name(value: object) -> TenantName:
    """Validate a tenant's name; raises `Invalid`."""
    return TenantName(_checked_word("tenant", value, reserved=True))


def service_name(value: object) -> ServiceName:
    """Validate a service's name; raises `Invalid`."""
    return ServiceName(_checked_word("service", value, reserved=True))


def purpose(value: object) -> Purpose:
    """Validate a purpose; raises `Invalid`."""
    return Purpose(_checked_word("purpose", value, reserved=False))


def secret_name(value: object) -> SecretName:
    """Validate a secret's name; raises `Invalid`."""
    if not isinstance(value, str) or len(value) > _MAX_PATH or _path.fullmatch(value) is None:
        raise Invalid(f"not a secret name: {_shown(value)}", f"one to eight segments joined by '/', each of {_GRAMMAR}")
    return SecretName(value)


def pattern(value: object) -> Pattern:
    """Validate a secret pattern; raises `Invalid`.

    `**` is only ever a whole segment: inside one it would read as a `*` to some and as "across" to others.
    """
    if isinstance(value, str) and 0 < len(value) <= _MAX_PATH:
        segments = value.split("/")
        if len(segments) <= 8 and all(
            s == "**" or ("**" not in s and _glob_segment.fullmatch(s) is not None) for s in segments
        ):
            return Pattern(value)
    raise Invalid(
        f"not a secret pattern: {_shown(value)}",
        "a secret name in which '*' matches within a segment and a segment '**' matches any number of segments",
    )
