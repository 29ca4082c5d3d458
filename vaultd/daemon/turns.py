"""Whose turn it is: the queue that the dispatcher takes requests and answers from."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First come, first served within a uid; round robin between uids."""

    __slots__ = ("_length", "_queues", "_turns")

    def __init__(self) -> None:
        self._queues: dict[int, deque[T]] = {}
        self._turns: deque[int] = deque()
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def next_uid(self) -> int:
        """Whose turn is next. Raises IndexError when nothing waits."""
        return self._turns[0]

    def has(self, uid: int) -> bool:
        """Whether anything of `uid` waits."""
        return uid in self._queues

    def count(self, uid: int) -> int:
        """How much of `uid` waits."""
        return len(self._queues.get(uid, ()))

    def put(self, uid: int, item: T) -> None:
        """Append to the uid's own queue; a uid that had none waiting comes after those that have."""
        waiting = self._queues.get(uid)
        if waiting is None:
            self._queues[uid] = deque((item,))
            self._turns.append(uid)
        else:
            waiting.append(item)
        self._length += 1

    def get(self) -> T:
        """The next item in turn. Raises IndexError when there is none."""
        uid = self._turns.popleft()
        waiting = self._queues[uid]
        item = waiting.popleft()
        if waiting:
            self._turns.append(uid)
        else:
            del self._queues[uid]
        self._length -= 1
        return item
