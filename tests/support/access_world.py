"""A small world for tests of access: a book, a clock and one tenant's grants."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from vaultd.access.book import Book
from vaultd.access.decide import Decision, Request, decide
from vaultd.access.facts import PeerFacts
from vaultd.access.grants import Grant, GrantTable
from vaultd.access.instants import SECOND, Now
from vaultd.access.leases import Lease, Leased
from vaultd.access.quotas import Limits
from vaultd.access.scope import Scope

if TYPE_CHECKING:
    from vaultd.access.run import Run
    from vaultd.access.runs import OpenedRun

__all__ = ["ACME", "GLOBEX", "World"]

ACME = b"a" * 16
GLOBEX = b"g" * 16


class World:
    """A book, a clock that moves when told to, and one tenant's grants."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.book = Book(limits or Limits(), random.Random(7).randbytes)
        self.now = Now(1_000 * SECOND, 1_767_225_600 * SECOND)
        self.grants = GrantTable()

    def advance(self, seconds: float) -> None:
        """Move both clocks."""
        ns = int(seconds * SECOND)
        self.now = Now(self.now.boot + ns, self.now.wall + ns, self.now.highest)

    def grant(self, *secrets: str, **options: Any) -> Grant:
        """Add a grant for the service `agent`."""
        raw = {"id": f"grant_{len(self.grants)}", "service": "agent", "secrets": list(secrets) or ["**"], **options}
        grant = Grant.parse(raw)
        self.grants.add(grant)
        return grant

    def peer(self, uid: int = 1000, pid: int = 50, session: int | None = None, **options: Any) -> PeerFacts:
        """A peer that leads its own session unless told otherwise."""
        return PeerFacts(
            uid=uid,
            gid=uid,
            pid=pid,
            start_time=options.pop("start_time", pid * 10),
            session=pid if session is None else session,
            **options,
        )

    def open(self, *patterns: str, peer: PeerFacts | None = None, tenant: bytes = ACME, **options: Any) -> OpenedRun:
        """Open a run of `agent` anchored to the peer itself."""
        peer = peer or self.peer()
        options.setdefault("anchor", peer.process)
        scope = Scope.parse(patterns or ("**",), options.pop("purpose", None), options.pop("max_uses", None))
        return self.book.open_run(
            tenant=tenant,
            service="agent",  # type: ignore[arg-type]
            scope=options.pop("scope", scope),
            opener=peer,
            now=self.now,
            **options,
        )

    def ask(self, run: Run, secret: str, **options: Any) -> Decision:
        """Decide a lease in a run."""
        request = Request("lease", run.service, secret, **options)
        return decide(request, self.grants.candidates(run.service, secret), run.scope, self.book.usage(run), self.now)

    def lease(self, run: Run, secret: str, **options: Any) -> Lease:
        """Decide a lease in a run and enter it; a refusal is raised."""
        decision = self.ask(run, secret, **options)
        if not decision.allowed:
            raise decision.error()
        request = Request("lease", run.service, secret, **options)
        return self.book.acquire(run, request, decision, Leased(secret, b"s" * 16, 1), self.now)

    def renew(self, lease: Lease, ttl: int | None = None) -> Decision:
        """Decide a renewal and carry it out when it is allowed."""
        request = self.book.renewal(lease, ttl)
        grants = self.grants.candidates(lease.run.service, lease.secret)
        decision = decide(request, grants, lease.run.scope, self.book.usage(lease.run), self.now)
        if decision.allowed:
            self.book.renew(lease, decision, self.now)
        return decision
