"""Whether a run may open another in it: what is asked must lie within the run, by every bound (I6).

The time is not asked here: a child run that would outlast its parent is cut to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.access.denials import denied
from vaultd.access.run import MOST_DEEP
from vaultd.errors import Denied

if TYPE_CHECKING:
    from vaultd.access.run import Run
    from vaultd.access.scope import Scope

__all__ = ["MOST_PATTERNS", "Refusal", "refusal"]

MOST_PATTERNS: Final = 16
"""Patterns of a child run that are not its parent's own: each is compared with all of those, while others wait."""


class Refusal(NamedTuple):
    """Why not: in a word for the record, and for the one who asked, who is in the run and knows its bounds."""

    reason: str
    hint: str

    def error(self) -> Denied:
        """What the one refused is told."""
        return Denied(denied().message, self.hint)


_DEPTH: Final = Refusal("child runs nest too deep", f"child runs nest {MOST_DEEP} deep at most: open it further up")
_SECRETS: Final = Refusal(
    "beyond the secrets of the run above",
    "a child run may lease what lies within the run that it is opened in: ask for less",
)
_PURPOSE: Final = Refusal(
    "for another purpose than the run above",
    "a child run has the purpose of the run above it: leave it out",
)
_PATTERNS: Final = Refusal(
    "too many patterns of its own",
    f"name secrets, take patterns as the run above has them, or at most {MOST_PATTERNS} others",
)
_UID: Final = Refusal(
    "for another uid, by one that was handed the run",
    "only the uid that opened the first run of all may open one in it for another uid",
)


def refusal(parent: Run, asked: Scope, opener_uid: int, uid: int) -> Refusal | None:
    """The first reason why the run may not open this child, or None: then it gets `asked.completed(parent.scope)`.

    Args:
        parent: live.
        asked: what it leaves open is as in the parent's.
        opener_uid: who asks, inside `parent`.
        uid: for whom. Another uid than one's own only from the uid that opened the whole tree: a run that was handed to
            a uid is meant for that one.
    """
    if parent.depth >= MOST_DEEP:
        return _DEPTH
    if uid != opener_uid and opener_uid != parent.root.opener_uid:
        return _UID
    if asked.purpose is not None and parent.scope.purpose not in (None, asked.purpose):
        return _PURPOSE
    left = parent.uses_left
    # What is left now, not what was given: others draw on it as well, so it may be less by the time it is used.
    if asked.max_uses is not None and left is not None and asked.max_uses > left:
        return Refusal("more uses than the run above has left", f"the run has {left} uses left to give")
    given = {matcher.text for matcher in parent.scope.patterns}
    if sum(not matcher.literal and matcher.text not in given for matcher in asked.patterns) > MOST_PATTERNS:
        return _PATTERNS
    return None if asked.completed(parent.scope).within(parent.scope) else _SECRETS
