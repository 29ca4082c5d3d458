"""Who is inside a run, whether it shows its token or not: the part of that question that takes a look at processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vaultd.daemon.processes import lineage, number_is_anothers, sessions

if TYPE_CHECKING:
    from vaultd.access.runs import RunTable
    from vaultd.daemon.connection import Connection
    from vaultd.daemon.kernel import Kernel
    from vaultd.daemon.processes import Lineage

__all__ = ["Confinement"]

_MOST_SESSIONS: Final = 256
"""Sessions of ended anchors that are kept before it is looked which of them nobody is left in."""


class Confinement:
    """Finds the confined among the peers.

    Args:
        runs: knows which processes are confined.
        kernel: for looking at processes.
    """

    def __init__(self, runs: RunTable, kernel: Kernel) -> None:
        self._runs = runs
        self._kernel = kernel
        self._sweep_at = _MOST_SESSIONS

    def holds(self, connection: Connection) -> bool:
        """Whether the peer is confined to a run: it, an ancestor, or the leader of its session is such a run's anchor.

        Dropping the token must not widen anything. A session stays confined when its leader has ended; a process that
        leaves both its session and its ancestors behind is beyond this, see THREAT_MODEL.md. Where the ancestors cannot
        be told, the answer is yes: making them hard to tell must not widen anything either.
        """
        runs = self._runs
        if not runs.confining:
            return False
        session = connection.facts.session
        if runs.confines_session(session) or self._is_left_behind(session):
            return True
        found = self.lineage(connection)
        return not found.whole or any(map(runs.confines, found.processes))

    def lineage(self, connection: Connection) -> Lineage:
        """The peer and its ancestors, as they were when first asked for: looked up once a connection."""
        known: Lineage | None = connection.context.lineage
        if known is not None:
            return known
        found = lineage(connection.peer_process, self._kernel)
        if found.settled:
            connection.context.lineage = found
        return found

    def sweep(self) -> None:
        """Forget the sessions that nobody is left in, once there are many."""
        left = self._runs.left
        if len(left) < self._sweep_at:
            return
        inhabited = sessions()
        for session, leader in left.items():
            if session not in inhabited or number_is_anothers(leader):
                self._runs.forget_session(session)
        self._sweep_at = max(_MOST_SESSIONS, 2 * len(self._runs.left))

    def _is_left_behind(self, session: int) -> bool:
        """Whether the session was led by a confined process that has ended, and still is that session."""
        leader = self._runs.leader_of(session)
        if leader is None:
            return False
        if number_is_anothers(leader):
            self._runs.forget_session(session)
            return False
        return True
