"""Records of refusals, kept so few that nobody can fill the disk by being refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from vaultd.audit.body import Actor, Event
from vaultd.audit.throttled import OTHERS, RefusalCounter

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.audit.throttled import Counted
    from vaultd.daemon.call import Call

__all__ = ["SINGLES", "Refusals"]

SINGLES: Final = 64
"""Denials of one uid and trail that get a record each in one window; more are counted."""

_VAULTD: Final = Actor("system")


class Refusals:
    """Denials get a record each until there are too many; throttled, malformed and idle requests are counted only.

    Args:
        record: stages an event in a trail (the system's with None).
        window: nanoseconds.
    """

    def __init__(self, record: Callable[[Event, bytes | None], Any], window: int) -> None:
        self._record = record
        self._denied = RefusalCounter(singles=SINGLES, window=window)
        self._counted = RefusalCounter(window=window)

    def admit(self, call: Call, trail: bytes | None) -> bool:
        """Whether this denial is to have a record of its own; else it is counted."""
        refusal = self._denied.refuse((call.facts.uid, trail), call.now.boot)
        if refusal.counted is not None:
            self._write("refusals", refusal.counted)
        return refusal.single

    def count(self, kind: str, uid: int, boot: int) -> None:
        """Count one request of a kind that is never recorded one by one: the first of a window leaves a record."""
        refusal = self._counted.refuse((uid, kind), boot)
        if refusal.counted is not None:
            self._write(kind, refusal.counted)

    def sweep(self, boot: int) -> None:
        """Write the counts of windows that are over."""
        for counted in self._denied.due(boot):
            self._write("refusals", counted)
        for counted in self._counted.due(boot):
            self._write("counted", counted)

    def drain(self) -> None:
        """Write every count: the vault is sealed, or the daemon stops."""
        for counted in self._denied.drain():
            self._write("refusals", counted)
        for counted in self._counted.drain():
            self._write("counted", counted)

    def _write(self, kind: str, counted: Counted) -> None:
        uid, detail = counted.key if isinstance(counted.key, tuple) else (None, None)
        trail = detail if isinstance(detail, bytes) else None
        if isinstance(detail, str):
            kind = detail
        actor = Actor("peer", uid=uid) if uid is not None else _VAULTD
        public = {"of": OTHERS} if uid is None else None
        self._record(Event(kind, "counted", actor, total=counted.total, public=public), trail)
