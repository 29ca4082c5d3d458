"""A fair queue over uids: however much one uid sends, each other waits for at most one burst of it."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from vaultd.errors import Internal, QuotaExceeded

__all__ = ["FairQueue"]

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Round robin over uids, each served up to `burst` items in its turn (deficit round robin with equal sizes;
    Shreedhar and Varghese, SIGCOMM 1995).

    With k uids waiting, the first item of a uid is popped after at most (k - 1) times `burst` others; an empty queue
    costs nothing and keeps no credit. All operations take constant time.

    Args:
        burst: items of one uid in a row while others wait.
        per_uid: items of one uid that may wait; above it `push` refuses, so that memory is bounded by the uids.
    """

    __slots__ = ("_burst", "_left", "_per_uid", "_queues", "_size", "_turn")

    def __init__(self, burst: int = 8, per_uid: int = 1024) -> None:
        if burst < 1 or per_uid < 1:
            raise Internal("a fair queue needs a burst and a bound of at least 1")
        self._burst = burst
        self._per_uid = per_uid
        self._queues: dict[int, deque[T]] = {}
        self._turn: deque[int] = deque()  # uids with something waiting, each once, in the order of their turns
        self._left = burst  # what the uid at the front may still have in this turn
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def waiting(self, uid: int) -> int:
        """How many items of this uid wait."""
        queue = self._queues.get(uid)
        return len(queue) if queue is not None else 0

    def push(self, uid: int, item: T) -> None:
        """Put `item` at the end of the uid's own row; raises `QuotaExceeded` when that row is full."""
        queue = self._queues.get(uid)
        if queue is None:
            queue = self._queues[uid] = deque()
            self._turn.append(uid)
            if len(self._turn) == 1:
                self._left = self._burst
        elif len(queue) >= self._per_uid:
            raise QuotaExceeded("too many requests of this uid are waiting", "wait for answers before asking more")
        queue.append(item)
        self._size += 1

    def pop(self) -> tuple[int, T]:
        """The next uid and item; raises IndexError when nothing waits."""
        uid = self._turn[0]
        queue = self._queues[uid]
        item = queue.popleft()
        self._size -= 1
        self._left -= 1
        if not queue:
            self._turn.popleft()
            del self._queues[uid]
            self._left = self._burst
        elif self._left == 0:
            self._turn.rotate(-1)
            self._left = self._burst
        return uid, item

    def drop(self, uid: int) -> list[T]:
        """Take out everything of one uid (its connections are gone); linear in the number of waiting uids."""
        queue = self._queues.pop(uid, None)
        if queue is None:
            return []
        if self._turn[0] == uid:
            self._left = self._burst
        self._turn.remove(uid)
        self._size -= len(queue)
        return list(queue)
