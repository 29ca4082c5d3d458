"""Caps on live things, per uid and per tenant, so that one cannot use up the host for the others."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import Final, Generic, TypeVar

from vaultd.access.denials import denied
from vaultd.access.durations import format_duration
from vaultd.errors import ConfigError, Denied, Internal, Invalid, QuotaExceeded

__all__ = ["DEFAULT_RUN_TTL", "Limits", "Tally", "checked_run_ttl"]

DEFAULT_RUN_TTL: Final = 3600

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Limits:
    """What may live at once, and for how long a run may.

    Attributes:
        runs_per_uid: live runs of one uid.
        leases_per_uid: live leases of one uid.
        runs_per_tenant: live runs of one tenant, over all uids.
        leases_per_tenant: live leases of one tenant, over all uids.
        tickets_per_uid: admin tickets of one uid.
        run_ttl: longest life of a run, seconds.

    Raises:
        ConfigError: a limit below 1.
    """

    runs_per_uid: int = 256
    leases_per_uid: int = 4096
    runs_per_tenant: int = 16_384
    leases_per_tenant: int = 262_144
    tickets_per_uid: int = 16
    run_ttl: int = 7 * 86_400

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"limits.{item.name} is not a whole number of at least 1", "see the configuration")


def checked_run_ttl(seconds: int | None, limits: Limits) -> int:
    """Seconds of a run's life; None is one hour, or the limit where that is shorter.

    Raises:
        Invalid: zero or below.
        Denied: above the limit; the hint has the maximum.
    """
    if seconds is None:
        return min(DEFAULT_RUN_TTL, limits.run_ttl)
    if seconds <= 0:
        raise Invalid("the run's ttl is not above zero", "leave it out for one hour, or give a span such as 2h")
    if seconds > limits.run_ttl:
        raise Denied(denied().message, f"the longest run here is {format_duration(limits.run_ttl)}")
    return seconds


class Tally(Generic[K]):
    """Counts of live things by key; keys at zero are not kept."""

    __slots__ = ("_counts", "_what", "cap")

    def __init__(self, cap: int, what: str) -> None:
        self.cap = cap
        self._counts: dict[K, int] = {}
        self._what = what

    def count(self, key: K) -> int:
        """How many live things the key has."""
        return self._counts.get(key, 0)

    def full(self, key: K) -> bool:
        """Whether one more would be over the cap."""
        return self._counts.get(key, 0) >= self.cap

    def check(self, key: K) -> None:
        """Raise `QuotaExceeded` when one more would be over the cap."""
        if self.full(key):
            raise QuotaExceeded(f"too many live {self._what}", "it frees as they end; release what is not needed")

    def add(self, key: K, count: int = 1) -> None:
        """`count` more."""
        self._counts[key] = self._counts.get(key, 0) + count

    def remove(self, key: K, count: int = 1) -> None:
        """`count` fewer; more than there are is a bug."""
        left = self._counts.get(key, 0) - count
        if left < 0:
            raise Internal(f"more {self._what} ended than were live")
        if left:
            self._counts[key] = left
        else:
            self._counts.pop(key, None)
