"""Noticing that somebody else changed the vault's files while the daemon has them open: said, logged, recorded.

Nothing is done about it here: what a file says is held against keys, hashes and the journal wherever it is read. This
is for whoever runs the daemon, who learns at once and not at the next opening.

Only closing after writing, making, removing and renaming are listened to. Our own appends keep their files open, so
none of them costs an event.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
    FileSystemEvent,
)

from vaultd.audit.body import Actor, Event
from vaultd.daemon.watch import Watching

if TYPE_CHECKING:
    import asyncio

    from vaultd.daemon.engine import Engine
    from vaultd.store.noted import NotedStore

__all__ = ["VaultWatch"]

_log = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.3
"""Many files change together; one report is enough."""

MOST_FOLDERS: Final = 2_048
"""Tenants whose own folders are watched: each takes one of the kernel's watches, and time at start."""

_MOST_NAMED: Final = 16
_MOST_WAITING: Final = 1_024

_EVENTS: Final = [
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileMovedEvent,
]

_NOTICE: Final = "changed files"


class VaultWatch(Watching):
    """Watches one vault's directory until it is closed.

    Args:
        store: knows how we left each file.
        engine: where it is said and recorded.
        loop: the event loop.
    """

    def __init__(self, store: NotedStore, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._store = store
        self._root = os.path.realpath(store.location)
        self._engine = engine
        self._waiting: set[str] = set()
        self._told: list[str] = []

    def start(self) -> None:
        """Begin to watch; where it cannot be done, the log says so and the daemon serves all the same."""
        try:
            few = len(os.listdir(os.path.join(self._root, "tenants"))) <= MOST_FOLDERS
        except OSError:
            few = True  # no tenant yet
        try:
            if few:
                self._observer.schedule(self, self._root, recursive=True, event_filter=list(_EVENTS))
            else:
                for folder in ("", "audit", "system", "tenants"):
                    path = os.path.join(self._root, folder) if folder else self._root
                    self._observer.schedule(self, path, event_filter=list(_EVENTS))
                _log.warning("over %d tenants: the files in their own folders are not watched", MOST_FOLDERS)
            self._observer.start()
        except OSError as error:
            _log.warning("%s is not watched: %s", self._root, os.strerror(error.errno or 0).lower())

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Called in the watching thread."""
        for path in (os.fsdecode(event.src_path), os.fsdecode(event.dest_path or "")):
            if path.startswith(self._root + "/") and not self._closed:
                self._loop.call_soon_threadsafe(self._signed, path[len(self._root) + 1 :])

    def _signed(self, path: str) -> None:
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.add(path)
        if self._timer is None and not self._closed:
            self._timer = self._loop.call_later(SETTLE_SECONDS, self._settled)

    def _settled(self) -> None:
        self._timer = None
        # With no flush under way nothing of ours is half done, and every file is as we noted it.
        self._engine.vaults.when_landed(self._compare)

    def _compare(self) -> None:
        waiting, self._waiting = self._waiting, set()
        if self._closed:
            return
        changed = [path for path in sorted(waiting) if self._store.changed(path)]
        if not changed:
            return
        named = [ascii(path)[1:-1][:96] for path in changed[:_MOST_NAMED]]
        _log.error("files of the vault were changed by somebody else: %s", ", ".join(named))
        self._told = [*self._told, *(name for name in named if name not in self._told)][-_MOST_NAMED:]
        self._engine.notices[_NOTICE] = "files of the vault were changed by somebody else: " + ", ".join(self._told)
        event = Event("vault.changed", "ok", Actor("system"), public={"count": len(changed), "files": named})
        if not self._engine.try_record(event):
            _log.error("that is not recorded: nothing can be any more")
        self._engine.commit_soon()
