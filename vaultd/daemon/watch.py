"""Noticing that the configuration file changed, however it was written: in place, or by renaming a new one over it."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

__all__ = ["FileWatch", "Watching"]

_log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.2
"""An editor makes several events of one save; one reload after the last of them is enough."""


class Watching(FileSystemEventHandler):
    """A thread that watches, and a timer in the event loop that waits for changes to settle; until it is closed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._observer = Observer()
        self._closed = False

    def close(self) -> None:
        """Stop watching and end the thread; nothing is called back or reported afterwards."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._observer.is_alive():
            self._observer.stop()
            self._observer.join()


class FileWatch(Watching):
    """Calls back, in the event loop, some time after the file at `path` was written, replaced or removed.

    Args:
        path: absolute. Its directory is watched, so it need not exist yet; the directory must.
        callback: called from the event loop.
        loop: the event loop.
    """

    def __init__(self, path: str, callback: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._path = path
        self._callback = callback

    def start(self) -> bool:
        """Begin to watch; False where it cannot be done (no directory, no inotify watches left), and SIGHUP remains."""
        directory = os.path.dirname(self._path)
        try:
            self._observer.schedule(self, directory)
            self._observer.start()
        except OSError as error:
            _log.warning("%s is not watched: %s; SIGHUP reads it again", directory, error.strerror)
            return False
        return True

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called in the watching thread, for every file of the directory and for reads as well."""
        if event.event_type in ("opened", "closed_no_write"):
            return
        if self._path in (os.fsdecode(event.src_path), os.fsdecode(event.dest_path or "")) and not self._closed:
            self._loop.call_soon_threadsafe(self._changed)

    def _changed(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self._closed:
            self._timer = self._loop.call_later(SETTLE_SECONDS, self._callback)
