"""The table of live runs: one agent execution each, for one tenant, tied to a process by what the kernel says of it.

Whoever holds a token or an id that does not work here gets one constant answer.
"""

from __future__ import annotations

import hmac
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Any, NamedTuple

from vaultd.access.denials import denied
from vaultd.access.facts import PeerFacts, Process, same_process, same_session
from vaultd.access.ids import RUN, Random, new_id
from vaultd.access.instants import SECOND, Now
from vaultd.access.quotas import Limits, Tally, checked_run_ttl
from vaultd.access.run import TENANT_SIZE, TOKEN_SIZE, Run, hash_token
from vaultd.errors import Internal

if TYPE_CHECKING:
    from vaultd.access.scope import Scope
    from vaultd.names import ServiceName

__all__ = ["OpenedRun", "RunTable"]


class OpenedRun(NamedTuple):
    """A run, and its token: handed over once and wiped by the caller."""

    run: Run
    token: bytearray


class RunTable:
    """All live runs. Finding, opening and ending one take constant time, the next expiry logarithmic.

    Ending a run here does not end its leases: `book.Book` does both, and is what the daemon holds.
    """

    __slots__ = (
        "_by_anchor",
        "_by_hash",
        "_by_id",
        "_by_tenant",
        "_by_uid",
        "_confined",
        "_heap",
        "_implicit",
        "_left",
        "_limits",
        "_per_tenant",
        "_per_uid",
        "_processes_per_uid",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._by_id: dict[str, Run] = {}
        self._by_hash: dict[bytes, Run] = {}
        self._by_tenant: dict[bytes, dict[str, Run]] = {}
        self._by_anchor: dict[int, dict[str, Run]] = {}
        self._implicit: dict[tuple[bytes, str, int, int], dict[str, Run]] = {}
        self._by_uid: dict[int, dict[str, Run]] = {}  # under each of its owners
        self._confined: dict[int, tuple[Process, int]] = {}  # pid -> process, and whose count it is in
        self._left: dict[int, Process] = {}  # session -> the confined process that led it and has ended
        self._heap: list[tuple[int, str]] = []
        self._processes_per_uid: Tally[int] = Tally(limits.runs_per_uid, "confined processes")
        self._per_uid: Tally[int] = Tally(limits.runs_per_uid, "runs")
        self._per_tenant: Tally[bytes] = Tally(limits.runs_per_tenant, "runs")

    def __len__(self) -> int:
        return len(self._by_id)

    def set_limits(self, limits: Limits) -> None:
        """Go by other limits from now on; what is over them already lives on."""
        self._limits = limits
        self._per_uid.cap = self._processes_per_uid.cap = limits.runs_per_uid
        self._per_tenant.cap = limits.runs_per_tenant

    def open(
        self,
        *,
        tenant: bytes,
        service: ServiceName,
        scope: Scope,
        opener: PeerFacts,
        anchor: Process,
        now: Now,
        random: Random,
        ttl: int | None = None,
        uid: int | None = None,
        claimable: bool = False,
        confined: bool = False,
        implicit: bool = False,
        parent: Run | None = None,
    ) -> OpenedRun:
        """Open a run that was allowed (`decide_open`, and within a run `children.refusal`).

        Args:
            tenant: uid of the tenant.
            service: whose grants it leases under.
            scope: what was asked.
            opener: the peer.
            anchor: the process it is tied to; the caller watches it and reports its end.
            now: the instant.
            random: for the id and the token.
            ttl: seconds; None is the default.
            uid: the uid that the token works for; None is the opener's. Another's run has to be claimed by it first.
            claimable: whether a process of the run's uid may take the anchor's place, once.
            confined, implicit: see `Run`.
            parent: the run that it is opened in; it ends no later.

        Raises:
            Invalid: a ttl of zero or below.
            Denied: a ttl above the limit.
            QuotaExceeded: too many live runs of the uid (the opener's too), or of the tenant.
        """
        if len(tenant) != TENANT_SIZE:
            raise Internal("a tenant's uid has 16 bytes")
        seconds = checked_run_ttl(ttl, self._limits)
        run_uid = opener.uid if uid is None else uid
        self._per_uid.check(opener.uid)
        self._per_tenant.check(tenant)
        if confined and not self.confines(anchor):
            self._processes_per_uid.check(opener.uid)
        expires = now.boot + seconds * SECOND
        if parent is not None:
            expires = min(expires, parent.expires)
            if parent.tenant != tenant or parent.service != service or not parent.allows_child(scope, expires):
                raise Internal("a child run was opened beyond its parent")  # I6, whoever asks
        token = bytearray(random(TOKEN_SIZE))
        if len(token) != TOKEN_SIZE:
            raise Internal("the random source gave a token of another size")
        run = Run(
            run_id=new_id(RUN, random),
            tenant=tenant,
            service=service,
            uid=run_uid,
            opener_uid=opener.uid,
            scope=scope,
            opened=now.boot,
            opened_wall=now.wall,
            expires=expires,
            anchor=anchor,
            token_hash=hash_token(token),
            claimable=claimable or run_uid != opener.uid,
            confined=confined,
            implicit=implicit,
            parent=parent.id if parent is not None else None,
        )
        self._enter(run)
        return OpenedRun(run, token)

    def restore(self, run: Run) -> None:
        """Take in a run kept over a restart, after its parent; caps do not apply to what was admitted before."""
        self._enter(run)

    def _enter(self, run: Run) -> None:
        if run.id in self._by_id or run.token_hash in self._by_hash:
            raise Internal("a run's id or token came up twice")
        if run.parent is not None:
            run.join(self._by_id.get(run.parent))
        self._by_id[run.id] = run
        self._by_hash[run.token_hash] = run
        self._by_tenant.setdefault(run.tenant, {})[run.id] = run
        self._by_anchor.setdefault(run.anchor.pid, {})[run.id] = run
        self._link_owners(run)
        if run.confined:
            self._confine(run)
        if run.implicit:
            self._implicit.setdefault(self._implicit_key(run), {})[run.id] = run
        heappush(self._heap, (run.expires, run.id))
        # Counted for who opened it: otherwise one uid could fill another's cap by opening runs for it.
        self._per_uid.add(run.opener_uid)
        self._per_tenant.add(run.tenant)

    @staticmethod
    def _implicit_key(run: Run) -> tuple[bytes, str, int, int]:
        return run.tenant, run.service, run.uid, run.anchor.pid

    def _by_token(self, token: bytes | bytearray | memoryview, now: Now) -> Run | None:
        digest = hash_token(token)
        run = self._by_hash.get(digest)
        # The table is keyed by a hash of what the caller sent, so its timing says nothing of other tokens; the compare
        # of the whole is constant in time all the same.
        if run is None or run.implicit or not hmac.compare_digest(run.token_hash, digest) or now.boot >= run.expires:
            return None
        return run

    def find(self, token: bytes | bytearray | memoryview, facts: PeerFacts, now: Now) -> Run:
        """The run that the token stands for, when this peer may use it now.

        Raises:
            Denied: any reason at all; always the same.
        """
        run = self._by_token(token, now)
        if run is None or not run.admits(facts):
            raise denied()
        return run

    def claimant(self, token: bytes | bytearray | memoryview, facts: PeerFacts, now: Now) -> Run:
        """The run that this peer may claim: still claimable, and of its uid. Nothing changes yet.

        Raises:
            Denied: any reason at all; always the same.
            QuotaExceeded: too many processes are confined to runs of the opener.
        """
        run = self._by_token(token, now)
        if run is None or not run.claimable or facts.uid != run.uid:
            raise denied()
        if not self.confines(facts.process):
            self._processes_per_uid.check(run.opener_uid)
        return run

    def claim(self, token: bytes | bytearray | memoryview, facts: PeerFacts, now: Now) -> Run:
        """Tie the run to the claiming process, once.

        Raises:
            Denied, QuotaExceeded: as `claimant`.
        """
        run = self.claimant(token, facts, now)
        self._unlink_anchor(run)
        run.anchor = facts.process._replace(boot_id=run.anchor.boot_id)
        run.claimable = False
        run.confined = True
        for one in run.subtree():  # what is opened in it is its owners' too
            self._link_owners(one)
        self._by_anchor.setdefault(run.anchor.pid, {})[run.id] = run
        self._confine(run)
        return run

    def _confine(self, run: Run) -> None:
        """Confine the run's anchor for its life: ending its run must not give a process more than it had in it."""
        self.confine(run.anchor, run.opener_uid)

    def confine(self, process: Process, opener_uid: int) -> None:
        """Confine a process for its life; `restore` and `open` do so with their anchors.

        Args:
            process: alive.
            opener_uid: whose count it is in: the uid that opened the run that confines it.
        """
        known = self._confined.get(process.pid)
        if known is not None:
            if same_process(known[0], process):
                return
            self._processes_per_uid.remove(known[1])  # the pid has come to another process, so that one is gone
        self._confined[process.pid] = process, opener_uid
        self._left.pop(process.pid, None)  # the number is another process's by now, so nobody was left in it
        self._processes_per_uid.add(opener_uid)

    def left_by(self, process: Process) -> None:
        """A confined process has ended, before a restart or since; whoever it left in its session is still confined."""
        if same_session(process.session, process.pid) and process.pid not in self._confined:
            self._left[process.pid] = process

    def still_confines(self, process: Process) -> bool:
        """Whether this process is confined, or has ended and may have left others behind."""
        leader = self._left.get(process.pid)
        return self.confines(process) or (leader is not None and same_process(leader, process))

    def process_died(self, process: Process) -> None:
        """A process has ended: it need not be confined any more, but whoever it left in its session still is."""
        known = self._confined.get(process.pid)
        if known is not None and same_process(known[0], process):
            del self._confined[process.pid]
            self._processes_per_uid.remove(known[1])
            self.left_by(process)

    @property
    def left(self) -> dict[int, Process]:
        """Sessions whose leader was confined and has ended, with that leader.

        While anybody is in such a session, the kernel gives its number to no other process.
        """
        return dict(self._left)

    def leader_of(self, session: int) -> Process | None:
        """The confined process that led this session until it ended."""
        return self._left.get(session)

    def forget_session(self, session: int) -> None:
        """Nobody is left in this session."""
        self._left.pop(session, None)

    def implicit(self, tenant: bytes, service: str, facts: PeerFacts, anchor: Process, now: Now) -> Run | None:
        """The live implicit run of this tenant, service, uid and anchor, if there is one."""
        for run in self._implicit.get((tenant, service, facts.uid, anchor.pid), {}).values():
            if now.boot < run.expires and same_process(run.anchor, anchor):
                return run
        return None

    def get(self, run_id: str, now: Now) -> Run | None:
        """The live run with this id: for admins; others ask `owned`."""
        run = self._by_id.get(run_id)
        return run if run is not None and now.boot < run.expires else None

    def owned(self, run_id: str, uid: int, now: Now) -> Run:
        """The live run with this id when `uid` is one of its owners.

        Raises:
            Denied: somebody else's, ended or never there; always the same.
        """
        run = self.get(run_id, now)
        if run is None or uid not in run.owners:
            raise denied()
        return run

    def of_tenant(self, tenant: bytes, now: Now) -> list[Run]:
        """The tenant's live runs, oldest first."""
        return [run for run in self._by_tenant.get(tenant, {}).values() if now.boot < run.expires]

    def of_uid(self, uid: int, now: Now) -> list[Run]:
        """The live runs that this uid owns, oldest first."""
        return [run for run in self._by_uid.get(uid, {}).values() if now.boot < run.expires]

    def all(self, now: Now) -> list[Run]:
        """Every live run, oldest first."""
        return [run for run in self._by_id.values() if now.boot < run.expires]

    def anchored(self, process: Process) -> list[Run]:
        """The runs that live and die with this process."""
        return [run for run in self._by_anchor.get(process.pid, {}).values() if same_process(run.anchor, process)]

    @property
    def confining(self) -> bool:
        """Whether any process is confined at all, or was and may have left others behind."""
        return bool(self._confined or self._left)

    def confines(self, process: Process) -> bool:
        """Whether this process, and with it what it started, is confined to a run; see `Run.confined`."""
        known = self._confined.get(process.pid)
        return known is not None and same_process(known[0], process)

    def confines_session(self, session: int) -> bool:
        """Whether the session is led by a process that is confined to a run."""
        known = self._confined.get(session)
        return known is not None and same_session(known[0].session, session)

    def end(self, run: Run) -> list[Run]:
        """Take a run out, and what was opened in it: all that ended, deepest first; none when it had ended already."""
        ended = run.subtree() if run.live else []
        for one in ended:
            self._end_one(one)
        if ended and len(self._heap) > 2 * len(self._by_id) + 1024:
            # Ended runs leave their entry behind; opening and closing in a loop must not grow the heap (I12).
            self._heap = [(live.expires, live.id) for live in self._by_id.values()]
            heapify(self._heap)
        return ended

    def _end_one(self, run: Run) -> None:
        run.live = False
        del self._by_id[run.id]
        del self._by_hash[run.token_hash]
        self._unlink(self._by_tenant, run.tenant, run)
        for uid in run.owners:
            self._unlink(self._by_uid, uid, run)
        self._unlink_anchor(run)
        if run.implicit:
            self._unlink(self._implicit, self._implicit_key(run), run)
        self._per_uid.remove(run.opener_uid)
        self._per_tenant.remove(run.tenant)
        run.leave()

    def _link_owners(self, run: Run) -> None:
        for uid in run.owners:
            self._by_uid.setdefault(uid, {})[run.id] = run

    def _unlink_anchor(self, run: Run) -> None:
        self._unlink(self._by_anchor, run.anchor.pid, run)

    @staticmethod
    def _unlink(index: dict[Any, dict[str, Run]], key: Any, run: Run) -> None:
        bucket = index[key]
        del bucket[run.id]
        if not bucket:
            del index[key]

    def due(self, now: Now) -> list[Run]:
        """The runs whose time is up, in the order of their ends; the caller ends each."""
        found: list[Run] = []
        while self._heap and self._heap[0][0] <= now.boot:
            run = self._by_id.get(heappop(self._heap)[1])
            if run is not None:
                found.append(run)
        return found

    def next_deadline(self) -> int | None:
        """Boot instant (ns) at which `due` has something; entries of ended runs are dropped on the way."""
        while self._heap and self._heap[0][1] not in self._by_id:
            heappop(self._heap)
        return self._heap[0][0] if self._heap else None
