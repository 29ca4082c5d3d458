"""Who is told what happens: subscribers by run, by uid and by tenant."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vaultd.access.leases import Lease
    from vaultd.access.run import Run
    from vaultd.daemon.connection import Connection

__all__ = ["Pushes", "Topic"]


class Topic(NamedTuple):
    """What a subscriber hears of: `run` and its id, `uid` and the uid that opened runs or runs in them, or `tenant`
    and its uid (an admin)."""

    kind: str
    key: Any


class Pushes:
    """Sends events to subscribed connections; finding them costs nothing for those who do not hear of it."""

    def __init__(self) -> None:
        self._by_topic: dict[Topic, set[Connection]] = {}
        self._topics: dict[Connection, set[Topic]] = {}

    def subscribe(self, connection: Connection, topic: Topic) -> None:
        """Tell this connection of the topic from now on."""
        self._by_topic.setdefault(topic, set()).add(connection)
        self._topics.setdefault(connection, set()).add(topic)

    def count(self, connection: Connection) -> int:
        """How many topics this connection hears of."""
        return len(self._topics.get(connection, ()))

    def drop(self, connection: Connection) -> None:
        """It is gone."""
        for topic in self._topics.pop(connection, ()):
            listeners = self._by_topic[topic]
            listeners.discard(connection)
            if not listeners:
                del self._by_topic[topic]

    def _listeners(self, topics: Iterable[Topic]) -> set[Connection]:
        found: set[Connection] = set()
        for topic in topics:
            found |= self._by_topic.get(topic, set())
        return found

    @staticmethod
    def _of_run(run: Run) -> tuple[Topic, ...]:
        return (
            Topic("run", run.id),
            *(Topic("uid", uid) for uid in run.owners),
            Topic("tenant", run.tenant),
        )

    def run_ended(self, run: Run, reason: str) -> None:
        """Tell of a run's end; afterwards nobody hears of that run any more."""
        if self._topics:
            for connection in self._listeners(self._of_run(run)):
                connection.push("run.ended", {"run": run.id, "reason": reason})
            for connection in self._by_topic.pop(Topic("run", run.id), set()):
                self._topics[connection].discard(Topic("run", run.id))

    def lease_revoked(self, lease: Lease, reason: str) -> None:
        """Tell of a lease that ended before its holder let go of it."""
        if self._topics:
            for connection in self._listeners(self._of_run(lease.run)):
                connection.push("lease.revoked", {"lease": lease.id, "run": lease.run.id, "reason": reason})

    def secret_rotated(self, tenant: str, secret: str, version: int, leases: list[Lease]) -> None:
        """Tell the holders of a secret that it has a new version."""
        if self._topics:
            for lease in leases:
                keys = {"tenant": tenant, "secret": secret, "version": version, "lease": lease.id, "run": lease.run.id}
                for connection in self._listeners(self._of_run(lease.run)):
                    connection.push("secret.rotated", keys)

    def tenant_sealed(self, uid: bytes, name: str) -> None:
        """Tell the admins who listen to a tenant that its keys were dropped."""
        for connection in self._listeners((Topic("tenant", uid),)):
            connection.push("tenant.sealed", {"tenant": name})

    def vault_sealed(self) -> None:
        """Tell everybody that no key is left."""
        for connection in list(self._topics):
            connection.push("vault.sealed", {})
