"""The book of what is live: runs, their leases and the grants' rates, kept in step with each other.

This is what the daemon holds. Every way in which a run can end goes through here, so no lease can outlive its run, and
every id that a caller sends is answered as if foreign ones did not exist.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from vaultd.access.decide import Decision, Request, Usage
from vaultd.access.denials import denied
from vaultd.access.leases import Lease, Leased, LeaseTable
from vaultd.access.runs import OpenedRun, RunTable
from vaultd.access.throttle import Buckets
from vaultd.errors import Internal, QuotaExceeded

if TYPE_CHECKING:
    from vaultd.access.facts import PeerFacts, Process
    from vaultd.access.grants import Grant
    from vaultd.access.ids import Random
    from vaultd.access.instants import Now
    from vaultd.access.quotas import Limits
    from vaultd.access.run import Run
    from vaultd.access.scope import Scope
    from vaultd.names import ServiceName

__all__ = ["MOST_GRANTS_USED", "Book", "Ended"]

MOST_GRANTS_USED: Final = 512
"""Grants that one run's acquisitions are counted for: what is kept of a run has to fit into a record."""


class Ended(NamedTuple):
    """What one event ended: to be recorded once, and told to the holders."""

    runs: list[Run]
    leases: list[Lease]

    def __bool__(self) -> bool:
        return bool(self.runs or self.leases)


class Book:
    """Live runs and leases.

    Args:
        limits: caps.
        random: source of random bytes for ids and tokens.
    """

    __slots__ = ("_limits", "_overdue", "_random", "leases", "rates", "runs")

    def __init__(self, limits: Limits, random: Random) -> None:
        self._limits = limits
        self._random = random
        self.runs = RunTable(limits)
        self.leases = LeaseTable(limits)
        self.rates: Buckets[str] = Buckets()
        self._overdue = Ended([], [])

    @property
    def limits(self) -> Limits:
        """The caps in force; setting them changes what may be opened and acquired from now on."""
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self.runs.set_limits(limits)
        self.leases.set_limits(limits)

    # -- runs

    def open_run(
        self,
        *,
        tenant: bytes,
        service: ServiceName,
        scope: Scope,
        opener: PeerFacts,
        anchor: Process,
        now: Now,
        ttl: int | None = None,
        uid: int | None = None,
        claimable: bool = False,
        confined: bool = False,
        implicit: bool = False,
        parent: Run | None = None,
    ) -> OpenedRun:
        """Open a run that `decide_open` allowed; arguments and errors as in `RunTable.open`."""
        self._sweep(now)
        return self.runs.open(
            tenant=tenant,
            service=service,
            scope=scope,
            opener=opener,
            anchor=anchor,
            now=now,
            random=self._random,
            ttl=ttl,
            uid=uid,
            claimable=claimable,
            confined=confined,
            implicit=implicit,
            parent=parent,
        )

    def find_run(self, token: bytes | bytearray | memoryview, facts: PeerFacts, now: Now) -> Run:
        """The run that this peer may act in; raises the constant `Denied`."""
        return self.runs.find(token, facts, now)

    def claim(self, token: bytes | bytearray | memoryview, facts: PeerFacts, now: Now) -> Run:
        """Tie a run to the claiming process, once; raises the constant `Denied`."""
        return self.runs.claim(token, facts, now)

    def end_run(self, run: Run) -> Ended:
        """End a run, the runs below it, and all their leases; deepest first."""
        return self._end_runs([run])

    def close_run(self, run_id: str, uid: int, now: Now) -> Ended:
        """End the run with this id when `uid` opened it or runs in it; raises the constant `Denied`."""
        return self.end_run(self.runs.owned(run_id, uid, now))

    def forget_grant(self, grant_id: str) -> None:
        """Drop the rate of a removed grant; its live leases run on to their end and are not renewed under it."""
        self.rates.drop(grant_id)

    def anchor_died(self, process: Process) -> Ended:
        """End every run that is tied to a process that has ended."""
        self.runs.process_died(process)
        return self._end_runs(self.runs.anchored(process))

    def _end_runs(self, runs: list[Run]) -> Ended:
        ended = Ended([], [])
        for run in runs:
            for one in self.runs.end(run):
                ended.leases.extend(self.leases.end_run(one))
                ended.runs.append(one)
        return ended

    # -- leases

    def usage(self, run: Run | None) -> Usage:
        """What `decide` holds a request against; None for a request outside a run."""
        if run is None:
            return Usage({}, 0, self.rates)
        if run.above is None:
            return Usage(run.uses, run.total, self.rates)
        above = tuple((one.scope, one.total) for one in run.above.lineage())
        return Usage(run.root.uses, run.total, self.rates, above)

    def acquire(self, run: Run, request: Request, decision: Decision, leased: Leased, now: Now) -> Lease:
        """Enter the lease that `decision` allows, and charge the grant's uses and rate.

        Args:
            run: the run that the peer was found to act in, now.
            request: what was asked; a renewal when the run takes anew what it held before the daemon restarted.
            decision: `decide`'s answer to it at this same instant.
            leased: secret and version that the vault found.
            now: the instant.

        Raises:
            QuotaExceeded: the run's uid or its tenant has too many live leases, or the run used too many grants.
        """
        grant = self._allowing(decision)
        if grant.service != run.service:
            raise Internal("a lease was allowed by another service's grant")
        rate = None if request.renewal else grant.rate
        if rate is not None and self.rates.wait(grant.id, rate, now.boot):
            raise Internal("a lease was allowed at another instant than it is entered")
        used = run.root.uses  # all that any run of the tree has used
        if not (request.renewal or run.implicit) and len(used) >= MOST_GRANTS_USED and grant.id not in used:
            raise QuotaExceeded(
                f"the run has used {MOST_GRANTS_USED} grants, as many as one may", "open another run, or merge grants"
            )
        if self.leases.full(run):
            self._sweep(now)  # leases past their time must not count against the cap
        lease = self.leases.acquire(
            run,
            leased,
            delivery=request.delivery,
            purpose=request.purpose if request.purpose is not None else run.scope.purpose,
            grant=grant.id,
            ttl=decision.ttl,
            max_ttl=decision.max_ttl,
            now=now,
            random=self._random,
        )
        if request.renewal:
            run.take_anew(leased.secret_id, leased.version)
            return lease
        run.charge(grant.id)
        if rate is not None:
            self.rates.take(grant.id, rate, now.boot)
        return lease

    def charge_refused(self, decision: Decision, now: Now) -> None:
        """Charge the rate of an allowed request whose secret turned out not to exist: probing names is not free."""
        grant = self._allowing(decision)
        if grant.rate is not None:
            self.rates.take(grant.id, grant.rate, now.boot)

    @staticmethod
    def _allowing(decision: Decision) -> Grant:
        if not decision.allowed or decision.grant is None:
            raise Internal("a refused request was carried out")
        return decision.grant

    def lease_in(self, lease_id: str, run: Run | None, facts: PeerFacts, now: Now) -> Lease:
        """The live lease with this id that the peer may renew or release.

        Args:
            lease_id: what the caller sent.
            run: the run of its token; None without one: then the lease must be of an implicit run that the peer is in.
            facts: the peer.
            now: the instant.

        Raises:
            Denied: of another run, another tenant, ended or never there; always the same.
        """
        lease = self.leases.get(lease_id, now)
        if lease is None:
            raise denied()
        if run is None:
            if not lease.run.implicit or not lease.run.admits(facts):
                raise denied()
        elif lease.run is not run:
            raise denied()
        return lease

    @staticmethod
    def renewal(lease: Lease, ttl: int | None) -> Request:
        """The request that `decide` must allow, against the grants of this instant, for the lease to go on."""
        return Request("lease", lease.run.service, lease.secret, lease.purpose, lease.delivery, ttl, renewal=True)

    def renew(self, lease: Lease, decision: Decision, now: Now) -> Lease:
        """Let a lease end `decision.ttl` seconds from now, but no later than its run."""
        self._allowing(decision)
        self.leases.renew(lease, decision.ttl, decision.max_ttl, now)
        return lease

    def release(self, lease: Lease) -> Ended:
        """End one lease that `lease_in` gave."""
        return Ended([], [lease] if self.leases.end(lease) else [])

    def leases_of_uid(self, uid: int, now: Now) -> list[Lease]:
        """The live leases in runs that this uid opened or runs in."""
        return [lease for run in self.runs.of_uid(uid, now) for lease in self.leases.of_run(run, now)]

    # -- stopping harm: for admins and responders, who are told when an id is not there

    def revoke_lease(self, lease_id: str, now: Now) -> Ended:
        """End one lease; empty when there is none."""
        lease = self.leases.get(lease_id, now)
        return self.release(lease) if lease is not None else Ended([], [])

    def revoke_run(self, run_id: str, now: Now) -> Ended:
        """End one run and its leases; empty when there is none."""
        run = self.runs.get(run_id, now)
        return self.end_run(run) if run is not None else Ended([], [])

    def revoke_secret(self, tenant: bytes, secret: str) -> Ended:
        """End every lease of one secret; its runs go on."""
        return Ended([], self.leases.end_secret(tenant, secret))

    def revoke_tenant(self, tenant: bytes, now: Now) -> Ended:
        """End every lease and every run of a tenant (revoke, seal, delete)."""
        leases = self.leases.end_tenant(tenant)
        return Ended(self._end_runs(self.runs.of_tenant(tenant, now)).runs, leases)

    def revoke_service(self, service: str, now: Now) -> Ended:
        """End every run of a service that is being removed: a later one of the same name is another identity."""
        return self._end_runs([run for run in self.runs.all(now) if run.service == service])

    def revoke_all(self, now: Now) -> Ended:
        """End everything (the whole vault is sealed)."""
        leases = self.leases.end_all()
        return Ended(self._end_runs(self.runs.all(now)).runs, leases)

    # -- time

    def expire(self, now: Now) -> Ended:
        """End what is past its time; what was swept in between is included, so that each end is reported once."""
        self._sweep(now)
        swept, self._overdue = self._overdue, Ended([], [])
        return swept

    def _sweep(self, now: Now) -> None:
        self._overdue.leases.extend(self.leases.due(now))
        for run in self.runs.due(now):
            ended = self.end_run(run)
            self._overdue.runs.extend(ended.runs)
            self._overdue.leases.extend(ended.leases)

    def next_deadline(self) -> int | None:
        """Boot instant (ns) at which `expire` is next worth calling."""
        if self._overdue:
            return 0
        deadlines = [at for at in (self.leases.next_deadline(), self.runs.next_deadline()) if at is not None]
        return min(deadlines, default=None)
