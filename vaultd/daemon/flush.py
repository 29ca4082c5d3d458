"""Making batches durable away from the event loop."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["FlushThread", "timed_write"]


class FlushThread:
    """Writes batches one after the other in a thread of its own, and reports back to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, write: Callable[[Any], None]) -> None:
        self._loop = loop
        self._write = write
        self._queue: queue.SimpleQueue[tuple[Any, Callable[[BaseException | None, float], None]] | None]
        self._queue = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="flush")
        self._thread.start()

    def submit(self, batch: Any, done: Callable[[BaseException | None, float], None]) -> None:
        """Write `batch`, then call `done(error, seconds)` in the event loop."""
        self._queue.put((batch, done))

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            batch, done = job
            error, seconds = timed_write(self._write, batch)
            self._loop.call_soon_threadsafe(done, error, seconds)


def timed_write(write: Callable[[Any], None], batch: Any) -> tuple[BaseException | None, float]:
    """Write `batch`; what it raised, and how many seconds it took."""
    started = time.monotonic()
    error: BaseException | None = None
    try:
        write(batch)
    except Exception as raised:  # noqa: BLE001  whatever it is, the group must not be acknowledged; `finish` judges it
        error = raised
    return error, time.monotonic() - started
