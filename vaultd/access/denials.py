"""The one answer for everything that is not allowed or not there.

Foreign, absent and forbidden must not be told apart (I2), so every refusal that could tell them apart is made here,
with the same code, message and hint. Why it was refused stands in the audit record and in `explain`.
"""

from __future__ import annotations

from typing import Final

from vaultd.errors import Denied

__all__ = ["DENIED_HINT", "DENIED_MESSAGE", "denied"]

DENIED_MESSAGE: Final = "not allowed, or not there"
DENIED_HINT: Final = "an admin can see why: vaultctl explain TENANT SECRET --service SERVICE"


def denied() -> Denied:
    """A fresh `Denied`, always with the same text."""
    return Denied(DENIED_MESSAGE, DENIED_HINT)
