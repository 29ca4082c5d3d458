"""Public identifiers of runs, leases, grants and tickets: a prefix that says what it is, then 100 random bits."""

from __future__ import annotations

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

_BYTES: Final = 13  # 104 bits, of which 20 characters of base32 carry 100
_ALPHABET: Final = "abcdefghijklmnopqrstuvwxyz234567"
_PAIRS: Final = tuple(one + two for one in _ALPHABET for two in _ALPHABET)  # 10 bits at once: ids are on the hot path
_SHIFTS: Final = tuple(range(0, 100, 10))


def new_id(prefix: str, random: Random) -> str:
    """A fresh identifier: `prefix` and 20 characters of base32 in lower case (RFC 4648), one case only."""
    drawn = random(_BYTES)
    if len(drawn) != _BYTES:
        raise Internal(f"the random source gave {len(drawn)} bytes instead of {_BYTES}")
    number = int.from_bytes(drawn, "big")
    return prefix + "".join([_PAIRS[(number >> shift) & 1023] for shift in _SHIFTS])
