"""Rates, and the delay after wrong slot secrets.

Rates are token buckets by the generic cell rate algorithm (ITU-T I.371): one integer per key, the instant at which its
bucket will be full again, instead of a level and a time. Instants are multiplied by the rate's tokens, so that nothing
is ever rounded and a bucket of 7 per second is exactly that.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Generic, NamedTuple, TypeVar

from vaultd.access.durations import checked_seconds
from vaultd.access.instants import SECOND
from vaultd.errors import Internal, Throttled

__all__ = ["Buckets", "FailureDelays", "Rate", "Throttle", "seconds_up", "throttled"]

K = TypeVar("K", bound=Hashable)


class Rate(NamedTuple):
    """A token bucket: holds `tokens` tokens, full at first, and gets as many new ones every `seconds`."""

    tokens: int
    seconds: int

    def __str__(self) -> str:
        return f"{self.tokens}/{self.seconds}s"


def seconds_up(ns: int) -> int:
    """Nanoseconds as whole seconds, rounded up, at least one: what a hint may promise."""
    return max(1, -(-ns // SECOND))


def throttled(wait: int) -> Throttled:
    """The error for somebody who may come back in `wait` ns."""
    return Throttled("too many requests", f"try again in {seconds_up(wait)} s")


class Buckets(Generic[K]):
    """Token buckets by key; full ones are not stored, and are swept when they would make up half of the table."""

    __slots__ = ("_full_at", "_sweep_at")

    def __init__(self) -> None:
        self._full_at: dict[K, tuple[int, int]] = {}  # key -> instant (ns times count) at which it is full, count
        self._sweep_at = 1024

    def __len__(self) -> int:
        return len(self._full_at)

    def wait(self, key: K, rate: Rate, boot: int) -> int:
        """Nanoseconds until a token is there; 0 when one is. Takes none."""
        held = self._full_at.get(key)
        if held is None:
            return 0
        full_at = held[0] if held[1] == rate.tokens else -(-held[0] * rate.tokens // held[1])
        # A bucket that is full in d has spent d / period tokens; one more must fit into `count`.
        missing = full_at + rate.seconds * SECOND - rate.seconds * SECOND * rate.tokens - boot * rate.tokens
        return -(-missing // rate.tokens) if missing > 0 else 0

    def take(self, key: K, rate: Rate, boot: int) -> int:
        """Take a token if one is there.

        Returns:
            0 when it was taken, else the nanoseconds until there is one, and nothing changed.
        """
        wait = self.wait(key, rate, boot)
        if wait:
            return wait
        held = self._full_at.get(key)
        now = boot * rate.tokens
        full_at = now if held is None else max(now, -(-held[0] * rate.tokens // held[1]))
        if held is None and len(self._full_at) >= self._sweep_at:
            self._sweep(boot)
        self._full_at[key] = (full_at + rate.seconds * SECOND, rate.tokens)
        return 0

    def drop(self, key: K) -> None:
        """Forget a key whose grant, uid or tenant is gone."""
        self._full_at.pop(key, None)

    def _sweep(self, boot: int) -> None:
        self._full_at = {key: held for key, held in self._full_at.items() if held[0] > boot * held[1]}
        self._sweep_at = max(1024, 2 * len(self._full_at))


class Throttle(Generic[K]):
    """One rate for every key: requests per uid, or per tenant."""

    __slots__ = ("_buckets", "rate")

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._buckets: Buckets[K] = Buckets()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: K, boot: int) -> int:
        """0 when the request may go on, else the nanoseconds until one may."""
        return self._buckets.take(key, self.rate, boot)

    def check(self, key: K, boot: int) -> None:
        """Take a token or raise `Throttled`."""
        wait = self._buckets.take(key, self.rate, boot)
        if wait:
            raise throttled(wait)


class FailureDelays:
    """Delay before the next try of a slot secret, per uid: doubles with each failure, capped, never a lock-out.

    Args:
        first: delay after the first failure, ns.
        longest: cap, ns.
        forget: quiet time after which a uid's failures are forgotten, seconds.
    """

    __slots__ = ("_failures", "_first", "_forget", "_longest")

    def __init__(self, first: int = SECOND // 10, longest: int = 5 * SECOND, forget: int = 900) -> None:
        if not 0 < first <= longest:
            raise Internal("a first delay must be above zero and at most the longest")
        self._first = first
        self._longest = longest
        self._forget = checked_seconds(forget) * SECOND
        self._failures: dict[int, tuple[int, int]] = {}  # uid -> count, boot instant of the last

    def wait(self, uid: int, boot: int) -> int:
        """Nanoseconds until the uid may try again; 0 when it may now."""
        count, last = self._failures.get(uid, (0, 0))
        if count == 0 or boot - last >= self._forget:
            return 0
        return max(0, last + self._delay(count) - boot)

    def failed(self, uid: int, boot: int) -> int:
        """Record a failure; returns the delay that now holds, ns."""
        count, last = self._failures.get(uid, (0, 0))
        count = 1 if boot - last >= self._forget else count + 1
        if uid not in self._failures and len(self._failures) >= _MOST_UIDS:
            self._failures = {u: f for u, f in self._failures.items() if boot - f[1] < self._forget}
        self._failures[uid] = (count, boot)
        return self._delay(count)

    def succeeded(self, uid: int) -> None:
        """Forget the uid's failures."""
        self._failures.pop(uid, None)

    def _delay(self, count: int) -> int:
        # The exponent is bounded before shifting: a million failures must not make a million-bit number.
        return min(self._longest, self._first << min(count - 1, 40))


_MOST_UIDS: Final = 4096
