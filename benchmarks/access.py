#!/usr/bin/env python3
"""P11 and P13, the part of access: one lease decided and entered, with few and with many live; a whole tenant revoked.

python benchmarks/access.py
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from _machine import facts, in_turn, table

from vaultd.access.book import Book
from vaultd.access.decide import Request, decide
from vaultd.access.facts import PeerFacts
from vaultd.access.grants import Grant, GrantTable
from vaultd.access.instants import SECOND, Now
from vaultd.access.leases import Lease, Leased
from vaultd.access.quotas import Limits
from vaultd.access.scope import Scope
from vaultd.names import service_name

if TYPE_CHECKING:
    from vaultd.access.runs import OpenedRun

MANY = 100_000
NOW = Now(10**12, 1_767_225_600 * SECOND)
TENANTS = [bytes([n]) * 16 for n in range(2)]
AGENT = service_name("agent")
PEER = PeerFacts(uid=1000, gid=1000, pid=50, start_time=7, session=50)


class Bench:
    """A book with a thousand grants and a hundred runs of each of two tenants."""

    def __init__(self) -> None:
        self.book = Book(Limits(runs_per_uid=10**6, leases_per_uid=10**7, leases_per_tenant=10**7), os.urandom)
        others = [Grant.parse({"id": f"grant_{n}", "service": "agent", "secrets": [f"svc{n}/*"]}) for n in range(1_000)]
        mine = Grant.parse({"id": "grant_mine", "service": "agent", "secrets": ["openai/*"], "max_uses": 10**8})
        self.grants = GrantTable([*others, mine])
        self.runs = [[self._open(tenant) for _ in range(100)] for tenant in TENANTS]
        self.turn = 0

    def _open(self, tenant: bytes) -> OpenedRun:
        scope = Scope.parse(["openai/**"], "chat")
        return self.book.open_run(
            tenant=tenant, service=AGENT, scope=scope, opener=PEER, anchor=PEER.process, now=NOW, ttl=86_400
        )

    def lease(self, tenant: int = 0) -> Lease:
        """One request: the run by its token, the decision, the entry."""
        self.turn += 1
        run = self.book.find_run(self.runs[tenant][self.turn % 100].token, PEER, NOW)
        secret = f"openai/key{self.turn % 50}"
        request = Request("lease", AGENT, secret)
        decision = decide(request, self.grants.candidates(AGENT, secret), run.scope, self.book.usage(run), NOW)
        return self.book.acquire(run, request, decision, Leased(secret, b"s" * 16, 1), NOW)

    def lease_and_release(self) -> None:
        """The same, and its end."""
        self.book.release(self.lease())


def main() -> None:
    """Measure and print."""
    print(facts())
    few, many = Bench(), Bench()
    for _ in range(MANY):
        many.lease(tenant=1)
    times = in_turn({"few": few.lease_and_release, "many": many.lease_and_release})
    grown = times["many"] / times["few"]
    started = time.perf_counter()
    ended = len(many.book.revoke_tenant(TENANTS[1], NOW).leases)
    revoked = time.perf_counter() - started
    table(
        ["what", "time"],
        [
            ["lease and release, no other lease live", f"{times['few'] * 1e6:.1f} µs"],
            [
                f"the same with {MANY:,} live leases",
                f"{times['many'] * 1e6:.1f} µs ({grown:.2f} x)",
            ],
            [f"revoke a tenant with {ended:,} leases in 100 runs", f"{revoked * 1e3:.1f} ms"],
        ],
    )


if __name__ == "__main__":
    main()
