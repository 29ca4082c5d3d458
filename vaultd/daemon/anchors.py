"""Being told when a process ends: pidfds in the event loop, no polling.

A run is anchored to a process, an admin's ticket to another, a connection to the one that made it. One watched process
costs one descriptor, however many of them wait for it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from vaultd.access.facts import Process
    from vaultd.daemon.processes import HeldProcess

__all__ = ["Watch", "Watcher"]

_log = logging.getLogger(__name__)


class _Watched:
    """One process and everybody who waits for its end."""

    __slots__ = ("process", "waiting")

    def __init__(self, process: HeldProcess) -> None:
        self.process = process
        self.waiting: set[Watch] = set()


class Watch:
    """One caller's interest in one process; `cancel` ends it."""

    __slots__ = ("_callback", "_watched", "_watcher")

    def __init__(self, watcher: Watcher, watched: _Watched, callback: Callable[[], None]) -> None:
        self._watcher = watcher
        self._watched: _Watched | None = watched
        self._callback = callback

    @property
    def process(self) -> HeldProcess | None:
        """The watched process, held as long as the watch lasts; None once it has ended or the watch was cancelled."""
        return None if self._watched is None else self._watched.process

    def is_alive(self) -> bool:
        """Whether the process still runs, asked of the kernel now: its end may not have reached the event loop yet."""
        return self._watched is not None and self._watched.process.is_alive()

    def cancel(self) -> None:
        """Wait no longer; does nothing when the callback has run already."""
        watched, self._watched = self._watched, None
        if watched is not None:
            self._watcher._forget(watched, self)

    def _fire(self) -> None:
        if self._watched is not None:  # an earlier callback of the same death may have cancelled this one
            self._watched = None
            self._callback()


class Watcher:
    """Watches processes for their end, in one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[Process, _Watched] = {}

    def __len__(self) -> int:
        """How many processes are watched, which is how many descriptors are held."""
        return len(self._watched)

    def watch(self, process: HeldProcess, callback: Callable[[], None]) -> Watch:
        """Call `callback` once, from the event loop, when `process` has ended; soon, when it already has.

        Takes `process` over, and closes it at once when the same one is watched already. A callback must not raise:
        what it does (ending runs, closing connections) must not depend on its neighbours.
        """
        watched = self._watched.get(process.identity)
        if watched is None:
            watched = self._watched[process.identity] = _Watched(process)
            self._loop.add_reader(process.pidfd, self._ended, watched)
        elif watched.process is not process:
            process.close()
        watch = Watch(self, watched, callback)
        watched.waiting.add(watch)
        return watch

    def close(self) -> None:
        """Forget everybody without calling anybody back, and give the descriptors back."""
        for watched in list(self._watched.values()):
            self._release(watched)

    def _ended(self, watched: _Watched) -> None:
        if watched.process.is_alive():
            return  # a spurious wake-up; the descriptor stays registered
        self._release(watched)
        for watch in list(watched.waiting):  # the first callback may cancel others: one death ends many runs
            try:
                watch._fire()
            except Exception:  # noqa: BLE001  a bug in one callback must not keep the others from hearing of the death
                _log.exception("a callback at the end of a process failed; the others are still called")

    def _forget(self, watched: _Watched, watch: Watch) -> None:
        watched.waiting.discard(watch)
        if not watched.waiting and self._watched.get(watched.process.identity) is watched:
            self._release(watched)

    def _release(self, watched: _Watched) -> None:
        del self._watched[watched.process.identity]
        self._loop.remove_reader(watched.process.pidfd)
        watched.process.close()
