"""Public identifiers of runs, leases, grants and tickets: a prefix that says what it is, then 100 random bits."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Final

from vaultd.errors import Internal

__all__ = ["GRANT", "LEASE", "RUN", "TICKET", "Random", "new_id"]

Random = Callable[[int], bytes]
"""A source of random bytes: given a count, returns as many."""

RUN: Final = "run_"
LEASE: Final = "lease_"
GRANT: Final = "grant_"
TICKET: Final = "ticket_"

_BYTES: Final = 13  # 104 bits; base32 spends 5 a character, so 20 characters carry 100 of them
_CHARACTERS: Final = 20


def new_id(prefix: str, random: Random) -> str:
    """A fresh identifier: `prefix` and 20 characters of base32 in lower case (RFC 4648), one case only."""
    drawn = random(_BYTES)
    if len(drawn) != _BYTES:
        raise Internal(f"the random source gave {len(drawn)} bytes instead of {_BYTES}")
    return prefix + base64.b32encode(drawn)[:_CHARACTERS].decode("ascii").lower()
