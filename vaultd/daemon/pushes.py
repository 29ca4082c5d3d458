"""Who is told what happens: subscribers by run, by uid and by tenant.

One request can have thousands of leases to tell of, to hundreds of connections each. So what is to be told waits in a
queue, round robin over the uids whose runs it is about, and leaves in slices while others are served.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.daemon.turns import FairQueue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from vaultd.access.leases import Lease
    from vaultd.access.run import Run
    from vaultd.daemon.connection import Connection

__all__ = ["Pushes", "Topic"]

SLICE: Final = 0.000_2
"""Seconds of telling between two looks at the sockets: as long as two of the dispatcher's slices."""

MOST_WAITING: Final = 16_384
"""Events about one uid's runs that may wait to be told; more than all the runs and leases that it may have at once."""


class Topic(NamedTuple):
    """What a subscriber hears of: `run` and its id, `uid` and the uid that opened runs or runs in them, or `tenant`
    and its uid (an admin, or who manages it)."""

    kind: str
    key: Any


class _News(NamedTuple):
    """One event that is to be told."""

    event: str
    keys: dict[str, Any]
    topics: tuple[Topic, ...]
    last: Topic | None
    """Of which nothing will be told any more."""


class Pushes:
    """Sends events to subscribed connections; finding them costs nothing for those who do not hear of it."""

    def __init__(self) -> None:
        self._waiting: FairQueue[_News] = FairQueue()
        self._now: tuple[_News, Iterator[Connection]] | None = None
        """What is being told, and whom it has still to be told."""
        self._telling = False
        self._by_topic: dict[Topic, set[Connection]] = {}
        self._topics: dict[Connection, set[Topic]] = {}
        self._rights: dict[tuple[Connection, Topic], Callable[[], bool]] = {}

    def subscribe(self, connection: Connection, topic: Topic, right: Callable[[], bool] | None = None) -> None:
        """Tell this connection of the topic from now on, for as long as `right`, asked each time, says yes."""
        if right is not None:
            self._rights[connection, topic] = right
        self._by_topic.setdefault(topic, set()).add(connection)
        self._topics.setdefault(connection, set()).add(topic)

    def count(self, connection: Connection) -> int:
        """How many topics this connection hears of."""
        return len(self._topics.get(connection, ()))

    def drop(self, connection: Connection) -> None:
        """It is gone."""
        for topic in self._topics.pop(connection, ()):
            self._rights.pop((connection, topic), None)
            listeners = self._by_topic[topic]
            listeners.discard(connection)
            if not listeners:
                del self._by_topic[topic]

    def _listeners(self, topics: Iterable[Topic]) -> set[Connection]:
        found: set[Connection] = set()
        for topic in topics:
            for connection in self._by_topic.get(topic, ()):
                right = self._rights.get((connection, topic))
                if right is None or right():
                    found.add(connection)
        return found

    @staticmethod
    def _of_run(run: Run) -> tuple[Topic, ...]:
        return (
            *(Topic("run", one.id) for one in run.lineage()),
            *(Topic("uid", uid) for uid in run.owners),
            Topic("tenant", run.tenant),
        )

    def _put(self, run: Run, event: str, keys: dict[str, Any], last: Topic | None = None) -> None:
        topics = self._of_run(run)
        if not any(topic in self._by_topic for topic in topics):
            return
        if self._waiting.count(run.opener_uid) >= MOST_WAITING:
            # They cannot be told of it all; they look for themselves when they have connected again.
            for connection in self._listeners(topics):
                connection.close()
            return
        self._waiting.put(run.opener_uid, _News(event, keys, topics, last))
        if not self._telling:
            self._tell()

    def _tell(self) -> None:
        """Tell for a slice's time; what is left, after the next look at the sockets."""
        until = time.monotonic() + SLICE
        self._telling = True
        try:
            while self._now is not None or self._waiting:
                if self._now is None:
                    news = self._waiting.get()
                    self._now = news, iter(self._listeners(news.topics))
                news, connections = self._now
                for connection in connections:
                    connection.push(news.event, news.keys)
                    if time.monotonic() >= until:
                        asyncio.get_running_loop().call_soon(self._tell)
                        return
                if news.last is not None:
                    for connection in self._by_topic.pop(news.last, set()):
                        self._topics[connection].discard(news.last)
                self._now = None
        except BaseException:
            self._telling = False  # a bug of ours costs this event, and not those after it
            raise
        self._telling = False

    def run_ended(self, run: Run, reason: str) -> None:
        """Tell of a run's end; afterwards nobody hears of that run any more."""
        if self._topics:
            self._put(run, "run.ended", {"run": run.id, "reason": reason}, Topic("run", run.id))

    def lease_revoked(self, lease: Lease, reason: str) -> None:
        """Tell of a lease that ended before its holder let go of it."""
        if self._topics:
            self._put(lease.run, "lease.revoked", {"lease": lease.id, "run": lease.run.id, "reason": reason})

    def secret_rotated(self, tenant: str, secret: str, version: int, leases: list[Lease]) -> None:
        """Tell the holders of a secret that it has a new version."""
        if self._topics:
            for lease in leases:
                keys = {"tenant": tenant, "secret": secret, "version": version, "lease": lease.id, "run": lease.run.id}
                self._put(lease.run, "secret.rotated", keys)

    def tenant_sealed(self, uid: bytes, name: str) -> None:
        """Tell those who listen to a tenant that its keys were dropped."""
        for connection in self._listeners((Topic("tenant", uid),)):
            connection.push("tenant.sealed", {"tenant": name})

    def vault_sealed(self) -> None:
        """Tell everybody that no key is left."""
        for connection in list(self._topics):
            connection.push("vault.sealed", {})
