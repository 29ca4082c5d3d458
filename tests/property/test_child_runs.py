"""I6 over random grants, scopes and trees: a child run may what its parent may at most, and ends no later.

The budgets are held against a model that counts by itself: every acquisition in the run, and in each run above it.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.access_world import ACME, World
from vaultd.access.children import refusal
from vaultd.access.decide import Request, decide
from vaultd.access.instants import SECOND
from vaultd.access.run import MOST_DEEP
from vaultd.access.scope import Scope
from vaultd.errors import Denied, Internal, Throttled

if TYPE_CHECKING:
    from vaultd.access.book import Ended
    from vaultd.access.leases import Lease
    from vaultd.access.run import Run

SECRETS = ["a", "a/b", "a/c", "b/a/b", "c"]
PATTERNS = ["**", "*", "a", "a/*", "a/**", "a/b", "*/b", "**/b", "b/**", "a*/*", "b/a/*", "c"]
PURPOSES = ["chat", "mail"]
DELIVERIES = ["fd", "print"]
UIDS = [1000, 2000]
PIDS = [50, 60, 70, 80]

grants = st.lists(
    st.fixed_dictionaries(
        {"secrets": st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=2)},
        optional={
            "purposes": st.lists(st.sampled_from(PURPOSES), max_size=2),
            "deliver": st.lists(st.sampled_from(DELIVERIES), min_size=1, max_size=3),
            "max_uses": st.integers(1, 4),
            "rate": st.just([3, 60]),
            "max_ttl": st.integers(1, 600),
        },
    ),
    max_size=3,
).flatmap(lambda some: st.sampled_from([None, 2, 5]).map(lambda most: [*some, {"secrets": ["**"], "max_uses": most}]))


class Trees:
    """Opens runs in runs, leases in any of them, ends any of them, and lets time pass."""

    def __init__(self, raws: list[dict[str, Any]], rng: random.Random) -> None:
        self.rng = rng
        self.world = World()
        self.book = self.world.book
        for raw in raws:
            self.world.grant(*raw["secrets"], **{key: value for key, value in raw.items() if key != "secrets"})
        self.all: list[Run] = []
        self.parent: dict[str, Run | None] = {}
        self.left: dict[str, int] = {}
        self.taken: Counter[tuple[str, str]] = Counter()
        self.leases: list[Lease] = []
        self.reported: list[str] = []

    def step(self, action: int) -> None:
        live = [run for run in self.all if run.live]
        if action == 0 or not live:
            self.open()
        elif action <= 4:
            self.open_in(max(self.rng.sample(live, min(2, len(live))), key=lambda run: run.depth))
        elif action <= 9:
            self.acquire(self.rng.choice(live))
        elif action == 10:
            self.renew(self.rng.choice(live))
        elif action == 11:
            self.over(self.book.end_run(self.rng.choice(live)))
        elif action == 12:
            peer = self.world.peer(self.rng.choice(UIDS), self.rng.choice(PIDS))
            self.over(self.book.anchor_died(peer.process))
        else:
            self.world.advance(self.rng.choice([1, 30, 200]))
            if self.rng.random() < 0.5:
                self.over(self.book.expire(self.world.now))

    def scope(self) -> tuple[list[str], str | None, int | None]:
        """What is asked for: patterns, purpose, uses."""
        patterns = self.rng.sample(PATTERNS, self.rng.randint(1, 3))
        return patterns, self.rng.choice([None, None, *PURPOSES]), self.rng.choice([None, None, 1, 2, 3, 5])

    def lineage(self, run: Run) -> list[Run]:
        """The model's own: the run and all above it."""
        found = [run]
        while (above := self.parent[found[-1].id]) is not None:
            found.append(above)
        return found

    def opened(self, run: Run, parent: Run | None, budget: int | None) -> Run:
        self.all.append(run)
        self.parent[run.id] = parent
        if budget is not None:
            self.left[run.id] = budget
        return run

    def open(self) -> None:
        patterns, purpose, budget = self.scope()
        peer = self.world.peer(self.rng.choice(UIDS), self.rng.choice(PIDS))
        ttl = self.rng.randint(1, 900)
        self.opened(self.world.open(*patterns, purpose=purpose, max_uses=budget, peer=peer, ttl=ttl).run, None, budget)

    def open_in(self, parent: Run) -> None:
        """What is refused is not opened, whoever asks; what is taken from the parent as it is, is never refused."""
        patterns, purpose, budget = self.scope()
        uid, same = self.rng.choice(UIDS), self.rng.random() < 0.5
        if same:
            patterns, purpose, uid = [str(one.text) for one in parent.scope.patterns], None, parent.uid
        asked = Scope.parse(patterns, purpose, budget)
        scope = asked.completed(parent.scope)
        options = {"peer": self.world.peer(parent.uid, self.rng.choice(PIDS)), "ttl": self.rng.randint(1, 900)}
        deep = len(self.lineage(parent)) > MOST_DEEP
        if self.world.now.boot >= parent.expires:
            return
        if refusal(parent, asked, parent.uid, uid) is None:
            run = self.world.open(scope=scope, parent=parent, uid=uid, **options).run
            assert run.expires == min(self.world.now.boot + options["ttl"] * SECOND, parent.expires)
            self.opened(run, parent, budget)
            return
        tight = [self.left[one.id] for one in self.lineage(parent) if one.id in self.left]
        assert not same or deep or (budget is not None and tight and budget > min(tight))
        if deep or not scope.within(parent.scope):
            with pytest.raises(Internal):
                self.world.open(scope=scope, parent=parent, **options)

    def acquire(self, run: Run) -> None:
        if self.world.now.boot >= run.expires:
            return
        inside = [secret for secret in SECRETS if run.scope.names(secret)]
        secret = self.rng.choice(inside if inside and self.rng.random() < 0.8 else SECRETS)
        purpose = self.rng.choice([None, None, None, *PURPOSES])
        try:
            lease = self.world.lease(run, secret, purpose=purpose, delivery=self.rng.choice(DELIVERIES))
        except (Denied, Throttled):
            return  # what may be refused is held against the rights below
        self.leases.append(lease)
        for one in self.lineage(run):
            if one.id in self.left:
                self.left[one.id] -= 1
        self.taken[self.lineage(run)[-1].id, lease.grant] += 1

    def renew(self, run: Run) -> None:
        """A renewal costs no budget."""
        held = [lease for lease in self.leases if lease.run is run and self.book.leases.get(lease.id, self.world.now)]
        if held:
            self.world.renew(self.rng.choice(held))

    # -- what must hold

    def over(self, ended: Ended) -> None:
        """Each end is told once, a run's after those below it."""
        for run in ended.runs:
            assert not run.live
            assert run.id not in self.reported
            self.reported.append(run.id)
            assert not any(one.live for one in self.all if run in self.lineage(one))
        order = [run.id for run in ended.runs]
        for at, run in enumerate(ended.runs):
            assert not {one.id for one in self.lineage(run)} & set(order[:at]), "a run was told before one below it"
        assert not any(lease.live for lease in ended.leases)

    def rights(self, run: Run) -> set[tuple[str, str | None, str]]:
        """Everything that may be leased in the run now: secret, the purpose that it is for, delivery."""
        found = set()
        usage = self.book.usage(run)
        for secret in SECRETS:
            for purpose in (None, *PURPOSES):
                for delivery in DELIVERIES:
                    request = Request("lease", "agent", secret, purpose, delivery)
                    if decide(request, self.world.grants.all(), run.scope, usage, self.world.now).allowed:
                        found.add((secret, purpose or run.scope.purpose, delivery))
        return found

    def no_child_has_more_than_its_parent(self) -> None:
        now = self.world.now
        rights = {run.id: self.rights(run) for run in self.all if run.live}
        for run in self.all:
            parent = self.parent[run.id]
            if parent is None or not run.live:
                continue
            assert parent.live
            assert run.above is parent
            assert run.expires <= parent.expires
            assert rights[run.id] <= rights[parent.id]
            assert run.owners >= parent.owners
            if self.book.runs.get(run.id, now) is not None:
                assert self.book.runs.get(parent.id, now) is parent

    def no_budget_is_exceeded(self) -> None:
        assert all(left >= 0 for left in self.left.values())
        for grant in self.world.grants.all():
            if grant.max_uses is not None:
                assert all(taken <= grant.max_uses for (_, one), taken in self.taken.items() if one == grant.id)

    def no_lease_outlives_a_run_above(self) -> None:
        now = self.world.now
        for lease in self.leases:
            if self.book.leases.get(lease.id, now) is not None:
                assert all(one.live and lease.expires <= one.expires for one in self.lineage(lease.run))
        live = {run.id for run in self.all if run.live}
        assert len(self.book.runs) == len(live)
        assert {run.id for run in self.book.runs.of_tenant(ACME, now)} <= live


@settings(max_examples=100, deadline=None)
@given(grants, st.lists(st.integers(0, 13), min_size=40, max_size=60), st.integers(0, 1 << 32))
def test_child_runs_stay_within_their_parents(raws: list[dict[str, Any]], steps: list[int], seed: int) -> None:
    """I6: in any tree, however it came about, no right, time or budget of a run is more than of those above it."""
    trees = Trees(raws, random.Random(seed))
    for action in steps:
        trees.step(action)
        trees.no_budget_is_exceeded()
        trees.no_lease_outlives_a_run_above()
        trees.no_child_has_more_than_its_parent()
