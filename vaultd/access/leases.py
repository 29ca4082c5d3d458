"""Leases: a time-bound right to one version of one secret within a run.

Every lookup compares the deadline itself, so a lease is dead at its instant whether or not anybody swept the table.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from vaultd.access.ids import LEASE, Random, new_id
from vaultd.access.instants import SECOND, Now
from vaultd.access.quotas import Limits, Tally
from vaultd.errors import Internal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from vaultd.access.run import Run

__all__ = ["Lease", "LeaseTable", "Leased"]

_SLACK: Final = 1024


class Leased(NamedTuple):
    """What a lease is of: names for people, ids for the vault."""

    secret: str
    secret_id: bytes
    version: int


class Lease:
    """One live lease; made by `LeaseTable` only. All instants are ns of boot time.

    Attributes:
        id: `lease_...`.
        run: the run it lives in.
        secret, secret_id, version: what it is of.
        delivery: how the value reached the process.
        purpose: what it is for, if stated.
        grant: id of the grant that allowed it.
        issued: when it was acquired.
        expires: when it ends, never after its run.
        max_ttl: longest span of a renewal when it was last allowed, seconds.
        live: False from the moment it ended for any reason.
    """

    __slots__ = (
        "_entry",
        "delivery",
        "expires",
        "grant",
        "id",
        "issued",
        "live",
        "max_ttl",
        "purpose",
        "run",
        "secret",
        "secret_id",
        "version",
    )

    def __init__(
        self,
        lease_id: str,
        run: Run,
        leased: Leased,
        delivery: str,
        purpose: str | None,
        grant: str,
        issued: int,
        expires: int,
        max_ttl: int,
    ) -> None:
        self.id = lease_id
        self.run = run
        self.secret, self.secret_id, self.version = leased
        self.delivery = delivery
        self.purpose = purpose
        self.grant = grant
        self.issued = issued
        self.expires = expires
        self.max_ttl = max_ttl
        self.live = True
        self._entry = 0

    def expires_in(self, now: Now) -> int:
        """Whole seconds left, rounded down: the holder must never believe it has more than it has."""
        return max(0, self.expires - now.boot) // SECOND

    def to_dict(self, now: Now) -> dict[str, Any]:
        """Plain data for listing."""
        return {
            "lease": self.id,
            "run": self.run.id,
            "secret": self.secret,
            "version": self.version,
            "delivery": self.delivery,
            "purpose": self.purpose,
            "service": str(self.run.service),
            "uid": self.run.uid,
            "expires_in": self.expires_in(now),
        }

    def __repr__(self) -> str:
        return f"Lease({self.id}, live={self.live})"


class _TenantLeases:
    __slots__ = ("by_run", "by_secret")

    def __init__(self) -> None:
        self.by_run: dict[str, dict[str, Lease]] = {}
        self.by_secret: dict[str, dict[str, Lease]] = {}


class LeaseTable:
    """All live leases, indexed by id, tenant, run and secret; ending n of them takes time linear in n alone."""

    __slots__ = ("_by_id", "_entries", "_heap", "_per_tenant", "_per_uid", "_tenants")

    def __init__(self, limits: Limits) -> None:
        self._by_id: dict[str, Lease] = {}
        self._tenants: dict[bytes, _TenantLeases] = {}
        self._heap: list[tuple[int, int, Lease]] = []  # deadline, number of the entry, lease
        self._entries = 0
        self._per_uid: Tally[int] = Tally(limits.leases_per_uid, "leases")
        self._per_tenant: Tally[bytes] = Tally(limits.leases_per_tenant, "leases")

    def __len__(self) -> int:
        return len(self._by_id)

    def set_limits(self, limits: Limits) -> None:
        """Go by other limits from now on; what is over them already lives on."""
        self._per_uid.cap = limits.leases_per_uid
        self._per_tenant.cap = limits.leases_per_tenant

    def full(self, run: Run) -> bool:
        """Whether the run's uid or tenant has as many leases as it may."""
        return self._per_uid.full(run.uid) or self._per_tenant.full(run.tenant)

    def acquire(
        self,
        run: Run,
        leased: Leased,
        *,
        delivery: str,
        purpose: str | None,
        grant: str,
        ttl: int,
        max_ttl: int,
        now: Now,
        random: Random,
    ) -> Lease:
        """Enter a lease that was allowed.

        Raises:
            QuotaExceeded: the run's uid or tenant is at its cap.
        """
        if not run.live or now.boot >= run.expires:
            raise Internal("a lease was entered into a run that has ended")
        self._per_uid.check(run.uid)
        self._per_tenant.check(run.tenant)
        lease = Lease(
            new_id(LEASE, random),
            run,
            leased,
            delivery,
            purpose,
            grant,
            now.boot,
            min(now.boot + ttl * SECOND, run.expires),
            max_ttl,
        )
        if lease.id in self._by_id:
            raise Internal("a lease's id came up twice")
        self._by_id[lease.id] = lease
        tenant = self._tenants.get(run.tenant)
        if tenant is None:
            tenant = self._tenants[run.tenant] = _TenantLeases()
        tenant.by_run.setdefault(run.id, {})[lease.id] = lease
        tenant.by_secret.setdefault(lease.secret, {})[lease.id] = lease
        self._per_uid.add(run.uid)
        self._per_tenant.add(run.tenant)
        self._schedule(lease)
        return lease

    def _schedule(self, lease: Lease) -> None:
        self._entries += 1
        lease._entry = self._entries
        heappush(self._heap, (lease.expires, self._entries, lease))
        if len(self._heap) > 2 * len(self._by_id) + _SLACK:
            self._compact()

    def _compact(self) -> None:
        """Drop the entries of ended and renewed leases: a loop of acquire and release must not grow the heap (I12)."""
        self._heap = [entry for entry in self._heap if entry[2].live and entry[1] == entry[2]._entry]
        heapify(self._heap)

    def get(self, lease_id: str, now: Now) -> Lease | None:
        """The live lease with this id, whosever it is."""
        lease = self._by_id.get(lease_id)
        return lease if lease is not None and now.boot < lease.expires and lease.run.live else None

    def renew(self, lease: Lease, ttl: int, max_ttl: int, now: Now) -> None:
        """Let a live lease end `ttl` seconds from now, which may be earlier than before; never after its run."""
        if not lease.live or not lease.run.live or now.boot >= min(lease.expires, lease.run.expires):
            raise Internal("an ended lease was renewed")
        lease.expires = min(now.boot + ttl * SECOND, lease.run.expires)
        lease.max_ttl = max_ttl
        self._schedule(lease)

    def end(self, lease: Lease) -> bool:
        """End one lease; False when it had ended already."""
        if not lease.live:
            return False
        self._drop(lease)
        tenant = self._tenants[lease.run.tenant]
        self._unlink(tenant.by_run, lease.run.id, lease)
        self._unlink(tenant.by_secret, lease.secret, lease)
        if not tenant.by_run:
            del self._tenants[lease.run.tenant]
        self._compact_if_sparse()
        return True

    def _drop(self, lease: Lease) -> None:
        lease.live = False
        del self._by_id[lease.id]
        self._per_uid.remove(lease.run.uid)
        self._per_tenant.remove(lease.run.tenant)

    def _compact_if_sparse(self) -> None:
        if len(self._heap) > 2 * len(self._by_id) + _SLACK:
            self._compact()

    @staticmethod
    def _unlink(index: dict[str, dict[str, Lease]], key: str, lease: Lease) -> None:
        bucket = index[key]
        del bucket[lease.id]
        if not bucket:
            del index[key]

    def end_run(self, run: Run) -> list[Lease]:
        """End every lease of a run; those ended, oldest first."""
        tenant = self._tenants.get(run.tenant)
        ended = list(tenant.by_run.get(run.id, {}).values()) if tenant is not None else []
        for lease in ended:
            self.end(lease)
        return ended

    def end_secret(self, tenant: bytes, secret: str) -> list[Lease]:
        """End every lease of a secret; those ended, oldest first."""
        leases = self._tenants.get(tenant)
        ended = list(leases.by_secret.get(secret, {}).values()) if leases is not None else []
        for lease in ended:
            self.end(lease)
        return ended

    def end_tenant(self, tenant: bytes) -> list[Lease]:
        """End every lease of a tenant, its indexes dropped as a whole; those ended."""
        leases = self._tenants.pop(tenant, None)
        if leases is None:
            return []
        ended: list[Lease] = []
        by_id = self._by_id
        for bucket in leases.by_run.values():
            for lease_id, lease in bucket.items():
                lease.live = False
                del by_id[lease_id]
            self._per_uid.remove(lease.run.uid, len(bucket))  # a bucket is never empty, and one run has one uid
            ended += bucket.values()
        self._per_tenant.remove(tenant, len(ended))
        self._compact_if_sparse()
        return ended

    def end_all(self) -> list[Lease]:
        """End every lease there is; those ended."""
        return [lease for tenant in list(self._tenants) for lease in self.end_tenant(tenant)]

    def due(self, now: Now) -> list[Lease]:
        """End the leases whose time is up; those ended, in the order of their ends."""
        ended: list[Lease] = []
        while self._heap and self._heap[0][0] <= now.boot:
            _, entry, lease = heappop(self._heap)
            if lease.live and entry == lease._entry:
                self.end(lease)
                ended.append(lease)
        return ended

    def next_deadline(self) -> int | None:
        """Boot instant (ns) of the next expiry; entries that no longer count are dropped on the way."""
        while self._heap and not (self._heap[0][2].live and self._heap[0][1] == self._heap[0][2]._entry):
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def of_run(self, run: Run, now: Now) -> list[Lease]:
        """The run's live leases, oldest first."""
        tenant = self._tenants.get(run.tenant)
        return _live(tenant.by_run.get(run.id, {}).values(), now) if tenant is not None else []

    def of_secret(self, tenant: bytes, secret: str, now: Now) -> list[Lease]:
        """The secret's live leases: its holders."""
        leases = self._tenants.get(tenant)
        return _live(leases.by_secret.get(secret, {}).values(), now) if leases is not None else []

    def of_tenant(self, tenant: bytes, now: Now) -> list[Lease]:
        """The tenant's live leases, by run."""
        leases = self._tenants.get(tenant)
        if leases is None:
            return []
        return _live((lease for bucket in leases.by_run.values() for lease in bucket.values()), now)

    def all(self, now: Now) -> list[Lease]:
        """Every live lease, oldest first."""
        return _live(self._by_id.values(), now)


def _live(leases: Iterable[Lease], now: Now) -> list[Lease]:
    return [lease for lease in leases if now.boot < lease.expires]
