"""Runs and leases against a model of deadlines and ends (I4), and ids of others against absent ones (I2)."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from tests.support.access_world import ACME, GLOBEX, World
from vaultd.access.instants import SECOND, Now
from vaultd.errors import Denied, QuotaExceeded, VaultdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.access.facts import PeerFacts
    from vaultd.access.leases import Lease
    from vaultd.access.run import Run

UIDS = [1000, 2000]
PIDS = [50, 60, 70]
TENANTS = [ACME, GLOBEX]
SECRETS = ["a", "b"]


class _Life:
    """What the model knows of a run or a lease: until when it lives, and whether something ended it."""

    def __init__(self, until: int) -> None:
        self.until = until
        self.ended = False

    def live(self, now: Now) -> bool:
        return not self.ended and now.boot < self.until


class RunsAndLeases(RuleBasedStateMachine):
    """Opens, claims, acquires, renews, ends and lets time pass, in any order, sweeping or not."""

    runs = Bundle("runs")
    leases = Bundle("leases")

    @initialize()
    def start(self) -> None:
        self.world = World()
        self.world.grant(max_ttl=600)
        self.book = self.world.book
        self.tokens: dict[str, bytes] = {}
        self.run_of: dict[str, Run] = {}
        self.lease_of: dict[str, Lease] = {}
        self.run_life: dict[str, _Life] = {}
        self.lease_life: dict[str, _Life] = {}
        self.anchor: dict[str, PeerFacts] = {}
        self.reported: list[str] = []
        self.generation = dict.fromkeys(PIDS, 0)

    def process(self, uid: int, pid: int) -> PeerFacts:
        """The process that has this pid now: after a death, another one with the same pid and session."""
        return self.world.peer(uid, pid, start_time=pid + 1_000 * self.generation[pid])

    def outsider(self, uid: int) -> PeerFacts:
        """A process of the uid in a session of its own."""
        return self.world.peer(uid, 999)

    # -- steps

    @rule(target=runs, uid=st.sampled_from(UIDS), pid=st.sampled_from(PIDS), tenant=st.sampled_from(TENANTS),
          ttl=st.integers(1, 900), claimable=st.booleans())  # fmt: skip
    def open(self, uid: int, pid: int, tenant: bytes, ttl: int, claimable: bool) -> str:
        peer = self.process(uid, pid)
        run, token = self.world.open(peer=peer, tenant=tenant, ttl=ttl, claimable=claimable)
        self.tokens[run.id], self.run_of[run.id] = bytes(token), run
        self.run_life[run.id], self.anchor[run.id] = _Life(self.world.now.boot + ttl * SECOND), peer
        return run.id

    @rule(run=runs, uid=st.sampled_from(UIDS), pid=st.sampled_from(PIDS))
    def claim(self, run: str, uid: int, pid: int) -> None:
        peer = self.process(uid, pid)
        may = self.run_life[run].live(self.world.now) and self.run_of[run].claimable and self.run_of[run].uid == uid
        try:
            self.book.claim(self.tokens[run], peer, self.world.now)
        except Denied:
            assert not may
        else:
            assert may
            self.anchor[run] = peer

    @rule(target=leases, run=runs, secret=st.sampled_from(SECRETS), ttl=st.integers(1, 600))
    def acquire(self, run: str, secret: str, ttl: int) -> str:
        try:
            found = self.book.find_run(self.tokens[run], self.anchor[run], self.world.now)
        except Denied:
            assert not self.run_life[run].live(self.world.now)
            return ""
        assert self.run_life[run].live(self.world.now)
        lease = self.world.lease(found, secret, ttl=ttl)
        until = min(self.world.now.boot + ttl * SECOND, self.run_life[run].until)
        assert lease.expires == until
        self.lease_of[lease.id], self.lease_life[lease.id] = lease, _Life(until)
        return lease.id

    @rule(lease=leases, ttl=st.integers(1, 700))
    def renew(self, lease: str, ttl: int) -> None:
        found = self.lookup(lease)
        if found is not None and self.world.renew(found, ttl).allowed:
            assert ttl <= 600
            run = self.run_life[found.run.id]
            self.lease_life[lease].until = min(self.world.now.boot + ttl * SECOND, run.until)

    @rule(lease=leases)
    def release(self, lease: str) -> None:
        found = self.lookup(lease)
        if found is not None:
            self.ended(self.book.release(found))
            self.lease_life[lease].ended = True

    def lookup(self, lease: str) -> Lease | None:
        """The lease as its run's anchor gets it, held against the model."""
        if not lease:
            return None
        run = self.run_of[self.lease_of[lease].run.id]
        try:
            found = self.book.find_run(self.tokens[run.id], self.anchor[run.id], self.world.now)
            got = self.book.lease_in(lease, found, self.anchor[run.id], self.world.now)
        except Denied:
            assert not self.lease_lives(lease)
            return None
        assert self.lease_lives(lease)
        return got

    @rule(run=runs, uid=st.sampled_from(UIDS))
    def close(self, run: str, uid: int) -> None:
        may = self.run_life[run].live(self.world.now) and self.run_of[run].uid == uid
        try:
            self.ended(self.book.close_run(run, uid, self.world.now))
        except Denied:
            assert not may
        else:
            assert may
            self.run_life[run].ended = True

    @rule(pid=st.sampled_from(PIDS))
    def die(self, pid: int) -> None:
        for uid in UIDS:
            peer = self.process(uid, pid)
            self.ended(self.book.anchor_died(peer.process))
            for run, anchor in self.anchor.items():
                if anchor.process == peer.process:
                    self.run_life[run].ended = True
        self.generation[pid] += 1

    @rule(run=runs)
    def revoke_run(self, run: str) -> None:
        self.ended(self.book.revoke_run(run, self.world.now))
        self.run_life[run].ended = True

    @rule(lease=leases)
    def revoke_lease(self, lease: str) -> None:
        if lease:
            self.ended(self.book.revoke_lease(lease, self.world.now))
            self.lease_life[lease].ended = True

    @rule(tenant=st.sampled_from(TENANTS), secret=st.sampled_from(SECRETS))
    def revoke_secret(self, tenant: bytes, secret: str) -> None:
        self.ended(self.book.revoke_secret(tenant, secret))
        for lease in self.lease_of.values():
            if lease.run.tenant == tenant and lease.secret == secret:
                self.lease_life[lease.id].ended = True

    @rule(tenant=st.sampled_from(TENANTS))
    def revoke_tenant(self, tenant: bytes) -> None:
        self.ended(self.book.revoke_tenant(tenant, self.world.now))
        for run in self.run_of.values():
            if run.tenant == tenant:
                self.run_life[run.id].ended = True

    @rule(ns=st.integers(1, 400 * SECOND))
    def wait(self, ns: int) -> None:
        self.world.now = Now(self.world.now.boot + ns, self.world.now.wall + ns)

    @rule(seconds=st.integers(-(10**7), 10**7))
    def step_the_wall_clock(self, seconds: int) -> None:
        self.world.now = self.world.now._replace(wall=max(0, self.world.now.wall + seconds * SECOND))

    @rule(ahead=st.sampled_from([-1, 0, 1]))
    def wait_to_the_next_end(self, ahead: int) -> None:
        at = self.book.next_deadline()
        if at is not None and at + ahead > self.world.now.boot:
            self.world.now = self.world.now._replace(boot=at + ahead)

    @rule()
    def sweep(self) -> None:
        self.ended(self.book.expire(self.world.now))
        at = self.book.next_deadline()
        assert at is None or at > self.world.now.boot

    # -- what must hold

    def ended(self, ended: Any) -> None:
        """Each end is reported once, and only of what does not live any more."""
        for thing in (*ended.runs, *ended.leases):
            assert not thing.live
            assert thing.id not in self.reported
            self.reported.append(thing.id)

    def lease_lives(self, lease: str) -> bool:
        """By the model: a lease lives while both it and its run do."""
        now = self.world.now
        return self.lease_life[lease].live(now) and self.run_life[self.lease_of[lease].run.id].live(now)

    @invariant()
    def what_ended_answers_nothing(self) -> None:
        """Every lookup agrees with the model: the right peer finds what lives, nobody finds what ended (I4)."""
        now = self.world.now
        for run, token in self.tokens.items():
            lives = self.run_life[run].live(now)
            assert self.finds(lambda: self.book.find_run(token, self.anchor[run], now)) is lives  # noqa: B023
            for uid in UIDS:
                assert not self.finds(lambda: self.book.find_run(token, self.outsider(uid), now))  # noqa: B023
            assert (self.book.runs.get(run, now) is not None) is lives
        for lease, held in self.lease_of.items():
            lives = self.lease_lives(lease)
            assert self.finds(lambda: self.book.lease_in(lease, held.run, self.anchor[held.run.id], now)) is lives  # noqa: B023
            assert not self.finds(lambda: self.book.lease_in(lease, None, self.anchor[held.run.id], now))  # noqa: B023
            assert held.expires <= held.run.expires

    @invariant()
    def lists_hold_what_lives(self) -> None:
        """Every list holds exactly what lives by the model."""
        now = self.world.now
        for tenant in TENANTS:
            runs = {r.id for r in self.run_of.values() if r.tenant == tenant and self.run_life[r.id].live(now)}
            assert {run.id for run in self.book.runs.of_tenant(tenant, now)} == runs
            leases = {i for i, held in self.lease_of.items() if held.run.tenant == tenant and self.lease_lives(i)}
            listed = [le for le in self.book.leases.of_tenant(tenant, now) if now.boot < le.run.expires]
            assert {lease.id for lease in listed} == leases

    @staticmethod
    def finds(look: Callable[[], object]) -> bool:
        try:
            look()
        except Denied:
            return False
        return True


RunsAndLeases.TestCase.settings = settings(max_examples=120, stateful_step_count=50)
TestRunsAndLeases = RunsAndLeases.TestCase


def answer(act: Callable[[], object]) -> tuple[str, str, str] | None:
    """What the caller is told: everything of an error, or None when there was none."""
    try:
        act()
    except VaultdError as error:
        return error.code, error.message, error.hint
    return None


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    uid=st.sampled_from(UIDS),
    absent=st.text(max_size=40),
    inside=st.booleans(),
    ended=st.booleans(),
)
def test_ids_and_tokens_of_others_are_answered_as_absent_ones(
    seed: int, uid: int, absent: str, inside: bool, ended: bool
) -> None:
    """Every call that takes an id or a token answers foreign, ended, random and malformed ones alike (I2)."""
    world = World()
    world.grant()
    foreign_uid = 3000
    foreign = world.open(peer=world.peer(foreign_uid, 80), tenant=GLOBEX, claimable=True)
    lease = world.lease(foreign.run, "a")
    me = world.peer(uid, 50)
    mine = world.open(peer=me).run if inside else None
    if ended:
        world.book.end_run(foreign.run)
    draw = random.Random(seed)
    rnd = "".join(draw.choices("abcdefghijklmnopqrstuvwxyz234567", k=20))
    book, now = world.book, world.now
    lease_ids = [lease.id, "lease_" + rnd, absent, foreign.run.id]
    run_ids = [foreign.run.id, "run_" + rnd, absent, lease.id]
    tokens = [bytes(foreign.token), draw.randbytes(32), absent.encode(), b""]
    answers = {
        *(answer(lambda: book.lease_in(i, mine, me, now)) for i in lease_ids),  # noqa: B023
        *(answer(lambda: book.close_run(i, uid, now)) for i in run_ids),  # noqa: B023
        *(answer(lambda: book.find_run(t, me, now)) for t in tokens),  # noqa: B023
        *(answer(lambda: book.claim(t, me, now)) for t in tokens),  # noqa: B023
    }
    assert len(answers) == 1
    assert None not in answers
    assert foreign.run.live is not ended


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from(UIDS), st.sampled_from(TENANTS), st.integers(1, 4)), max_size=60))
def test_one_tenants_load_changes_nothing_for_another(load: list[tuple[int, bytes, int]]) -> None:
    """Whatever others open and lease, a uid and tenant apart from them sees the same decisions, lists and deadlines."""
    alone, beside = World(), World()
    for world in (alone, beside):
        world.grant(max_uses=3, rate=[5, 60])
    for uid, tenant, count in load:
        try:
            run = beside.open(peer=beside.peer(uid, uid), tenant=tenant).run
            for _ in range(count):
                request = beside.ask(run, "a")
                if request.allowed:
                    beside.lease(run, "a")
        except QuotaExceeded:
            break
    other = b"z" * 16
    seen = []
    for world in (alone, beside):
        world.grants.add(world.grants.remove("grant_0"))
        world.book.forget_grant("grant_0")  # the tenant apart has grants, and so rates, of its own
        run = world.open(peer=world.peer(9000, 90), tenant=other).run
        told = []
        for _ in range(4):
            decision = world.ask(run, "a")
            told.append((decision.allowed, decision.rule, decision.ttl))
            if decision.allowed:
                world.lease(run, "a")
        seen.append(
            (told, len(world.book.leases.of_tenant(other, world.now)), len(world.book.runs.of_tenant(other, world.now)))
        )
    assert seen[0] == seen[1]
