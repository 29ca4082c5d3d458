"""One run, and what it takes to act inside it.

A token is 256 random bits, kept only as its BLAKE2b-256. It works for the run's uid, from the anchor process or its
session, while the anchor lives and the run lasts.

A run may be opened in another. Such a child run may what every run above it may and no more, counts in each of them,
and ends with the first of them that ends.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final

from vaultd.access.facts import PeerFacts, Process, same_process, same_session
from vaultd.access.ids import RUN
from vaultd.access.instants import SECOND, Now
from vaultd.access.scope import Scope
from vaultd.errors import Internal, Invalid
from vaultd.names import ServiceName, service_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["MOST_DEEP", "TENANT_SIZE", "TOKEN_SIZE", "Run", "hash_token"]

MOST_DEEP: Final = 8
"""How many runs may stand above one. Each costs a little in every decision below it."""

TOKEN_SIZE: Final = 32
TENANT_SIZE: Final = 16
_PERSON: Final = b"vaultd.run-token"  # BLAKE2b's personalisation is exactly 16 bytes


def hash_token(token: bytes | bytearray | memoryview) -> bytes:
    """What is kept of a token: 32 bytes. No salt or cost: 256 random bits cannot be guessed."""
    return hashlib.blake2b(token, digest_size=32, person=_PERSON).digest()


class Run:
    """One live run; made by `RunTable` only. All instants are ns.

    Attributes:
        id: `run_...`.
        tenant: the tenant's uid, 16 bytes.
        service: whose grants it leases under.
        uid: the only user id that its token works for.
        opener_uid: who opened it, and may list and close it too; see `owners`.
        scope: what may be leased at most.
        opened: boot time.
        opened_wall: wall time, for people.
        expires: boot time; its leases end no later.
        anchor: the process it lives and dies with.
        claimable: whether a process of `uid` may still take the anchor's place, once.
        confined: whether the anchor and what descends from it get what this run gives and nothing else, token or not,
            for as long as that process lives: also when the run has ended.
        implicit: opened for a lease outside a run; has no token, works from the anchor's session.
        parent: id of the run it was opened in, or None.
        above: that run; None for one that stands in no table yet.
        below: the live runs that were opened in it, by id.
        uses: acquisitions here and below, by grant id.
        total: acquisitions here and below.
        anew: what the run held, by id of the secret and version, when the daemon before this one ended; each may be
            taken once more without counting, since the run has had its value and its lease was charged.
    """

    __slots__ = (
        "above",
        "anchor",
        "anew",
        "below",
        "claimable",
        "confined",
        "expires",
        "id",
        "implicit",
        "live",
        "opened",
        "opened_wall",
        "opener_uid",
        "parent",
        "scope",
        "service",
        "tenant",
        "token_hash",
        "total",
        "uid",
        "uses",
    )

    def __init__(
        self,
        *,
        run_id: str,
        tenant: bytes,
        service: ServiceName,
        uid: int,
        opener_uid: int,
        scope: Scope,
        opened: int,
        opened_wall: int,
        expires: int,
        anchor: Process,
        token_hash: bytes,
        claimable: bool = False,
        confined: bool = False,
        implicit: bool = False,
        parent: str | None = None,
        uses: dict[str, int] | None = None,
        total: int = 0,
    ) -> None:
        self.id = run_id
        self.tenant = tenant
        self.service = service
        self.uid = uid
        self.opener_uid = opener_uid
        self.scope = scope
        self.opened = opened
        self.opened_wall = opened_wall
        self.expires = expires
        self.anchor = anchor
        self.token_hash = token_hash
        self.claimable = claimable
        self.confined = confined
        self.implicit = implicit
        self.parent = parent
        self.above: Run | None = None
        self.below: dict[str, Run] = {}
        self.uses = uses if uses is not None else {}
        self.total = total
        self.anew: dict[tuple[bytes, int], int] = {}
        self.live = True

    def admits(self, facts: PeerFacts) -> bool:
        """Whether the peer may act inside this run: the run's uid, and the anchor or its session.

        A run opened for another uid admits nobody before it is claimed: until then its anchor is the opener.
        """
        if facts.uid != self.uid or (self.claimable and self.opener_uid != self.uid):
            return False
        return same_session(facts.session, self.anchor.session) or same_process(facts.process, self.anchor)

    @property
    def owners(self) -> frozenset[int]:
        """The uids that see the run, hear of it, and may end it: its opener's, and its own once that has claimed it.

        Not before: else one uid could fill another's listings and pushes with runs that it opens for it. Whoever owns a
        run owns what is opened in it. They change by a claim alone.
        """
        waiting = self.claimable and self.opener_uid != self.uid
        owners = frozenset((self.opener_uid,) if waiting else (self.opener_uid, self.uid))
        return owners if self.above is None else owners | self.above.owners

    # -- runs in runs

    def join(self, parent: Run | None) -> None:
        """Take the place below the run it was opened in."""
        if parent is None or parent.id != self.parent or not parent.live:
            raise Internal("a child run came without its parent")
        self.above = parent
        parent.below[self.id] = self

    def leave(self) -> None:
        """It has ended: its parent has it no more."""
        if self.above is not None:
            del self.above.below[self.id]

    def lineage(self) -> Iterator[Run]:
        """This run, the one that it was opened in, and so on to the one that was opened in none."""
        run: Run | None = self
        while run is not None:
            yield run
            run = run.above

    @property
    def root(self) -> Run:
        """The run at the top of its tree."""
        run = self
        while run.above is not None:
            run = run.above
        return run

    @property
    def depth(self) -> int:
        """How many runs stand above it."""
        return sum(1 for _ in self.lineage()) - 1

    @property
    def uses_left(self) -> int | None:
        """Acquisitions that the tightest budget of this run and those above it leaves; None: no run here has one."""
        budgets = [run.scope.max_uses - run.total for run in self.lineage() if run.scope.max_uses is not None]
        return max(0, min(budgets)) if budgets else None

    def subtree(self) -> list[Run]:
        """This run and all below it, deepest first."""
        found = [self]
        for run in found:  # it grows meanwhile
            found += run.below.values()
        return found[::-1]

    def allows_child(self, scope: Scope, expires: int) -> bool:
        """Whether a child run with these bounds stays a subset of this one: every bound, and no later end (I6)."""
        return self.live and expires <= self.expires and self.depth < MOST_DEEP and scope.within(self.scope)

    def charge(self, grant_id: str) -> None:
        """Count one acquisition: here, and in every run above, whose budgets it is drawn from."""
        run: Run | None = self
        while run is not None:
            run.uses[grant_id] = run.uses.get(grant_id, 0) + 1
            run.total += 1
            run = run.above

    def take_anew(self, secret_id: bytes, version: int) -> None:
        """Use up one of what may be taken anew. Raises KeyError when there is none."""
        left = self.anew.pop((secret_id, version)) - 1
        if left:
            self.anew[secret_id, version] = left

    def describe(self, now: Now) -> dict[str, Any]:
        """Plain data for listing, without anything of the token."""
        return {
            "run": self.id,
            "service": str(self.service),
            "uid": self.uid,
            "purpose": self.scope.purpose,
            "scope": [str(matcher.text) for matcher in self.scope.patterns],
            "anchor": self.anchor.pid,
            "claimable": self.claimable,
            "confined": self.confined,
            "uses": self.total,
            "expires_in": max(0, self.expires - now.boot) // SECOND,
        }

    def to_dict(self) -> dict[str, Any]:
        """Plain data for keeping the run over a restart of the daemon; the token itself is not in it."""
        return {
            "id": self.id,
            "tenant": self.tenant,
            "service": str(self.service),
            "uid": self.uid,
            "opener_uid": self.opener_uid,
            "scope": self.scope.to_dict(),
            "opened": self.opened,
            "opened_wall": self.opened_wall,
            "expires": self.expires,
            "anchor": list(self.anchor),
            "token_hash": self.token_hash,
            "claimable": self.claimable,
            "confined": self.confined,
            "implicit": self.implicit,
            "parent": self.parent,
            "uses": dict(self.uses),
            "total": self.total,
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Run:
        """A run back from the store; the caller has checked that its boot is this one and its anchor lives.

        Raises:
            Invalid: something is missing or malformed.
        """
        try:
            tenant, token_hash, parent = raw["tenant"], raw["token_hash"], raw["parent"]
            if not (
                isinstance(tenant, bytes)
                and isinstance(token_hash, bytes)
                and (len(tenant), len(token_hash)) == (TENANT_SIZE, TOKEN_SIZE)
                and str(raw["id"]).startswith(RUN)
                and (parent is None or isinstance(parent, str))
            ):
                raise Invalid("a stored run is malformed", "")
            return cls(
                run_id=str(raw["id"]),
                tenant=tenant,
                service=service_name(raw["service"]),
                uid=int(raw["uid"]),
                opener_uid=int(raw["opener_uid"]),
                scope=Scope.from_dict(raw["scope"]),
                opened=int(raw["opened"]),
                opened_wall=int(raw["opened_wall"]),
                expires=int(raw["expires"]),
                anchor=Process.of(raw["anchor"]),
                token_hash=token_hash,
                claimable=bool(raw["claimable"]),
                confined=bool(raw["confined"]),
                implicit=bool(raw["implicit"]),
                parent=parent,
                uses={str(grant): int(count) for grant, count in raw["uses"].items()},
                total=int(raw["total"]),
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise Invalid("a stored run is malformed", "") from error

    def __repr__(self) -> str:
        return f"Run({self.id}, uid={self.uid}, live={self.live})"
