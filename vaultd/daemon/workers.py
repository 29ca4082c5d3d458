"""The threads for what is slow about blobs: their files and their ciphers. They never wait for a peer.

Each job is short (a chunk, or a memory file), and whoever asks has one under way: so uploads and streams take turns,
and a disk that hangs holds them up, but not the event loop, which goes on deciding.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from vaultd.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

__all__ = ["Workers"]

P = ParamSpec("P")
T = TypeVar("T")

THREADS: Final = 4
"""More than the disk and two cores can use, so that one hanging file does not hold up another's."""


class Workers:
    """A few threads, and the tasks that wait for them. Used from the event loop."""

    def __init__(self, threads: int = THREADS) -> None:
        self._pool = ThreadPoolExecutor(threads, "blobs")
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `function` returns in one of the threads. Raises `Unavailable` when they have ended."""
        if self._closed:
            raise Unavailable("the daemon is stopping", "try again when it is back")
        return await asyncio.wrap_future(self._pool.submit(function, *args, **kwargs))

    def later(self, function: Callable[[], object]) -> None:
        """Have `function`, which raises nothing, run in one of the threads; here and now when they have ended."""
        if self._closed:
            function()
        else:
            self._pool.submit(function)

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which ends by itself and raises nothing, as a task."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Finish what was asked for and end the threads."""
        self._closed = True
        self._pool.shutdown(wait=True)
