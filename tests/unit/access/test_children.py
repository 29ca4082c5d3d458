"""Runs in runs: what may be opened, whose budgets it draws on, and that it ends with the first above that ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.access_world import World
from vaultd.access.children import MOST_PATTERNS, refusal
from vaultd.access.decide import Rule
from vaultd.access.kept import parents_first
from vaultd.access.quotas import Limits
from vaultd.access.run import MOST_DEEP
from vaultd.access.scope import Scope
from vaultd.errors import Denied, Internal, Invalid, QuotaExceeded

if TYPE_CHECKING:
    from typing import Any

    from vaultd.access.run import Run


@pytest.fixture
def world() -> World:
    """A book and one grant over everything."""
    world = World()
    world.grant(max_ttl=600, deliver=["fd", "env", "print"])
    return world


def child(world: World, parent: Run, *patterns: str, purpose: str | None = None, uses: int | None = None,
          **options: Any) -> Run:  # fmt: skip
    """What the daemon opens, or the refusal that it answers."""
    asked = Scope.parse(patterns or ("**",), purpose, uses)
    uid = options.get("uid") or parent.uid
    refused = refusal(parent, asked, parent.uid, uid)
    if refused is not None:
        raise refused.error()
    options.setdefault("peer", world.peer(parent.uid, 60))
    return world.open(scope=asked.completed(parent.scope), parent=parent, **options).run


def refused(world: World, parent: Run, *patterns: str, **options: Any) -> str:
    """The hint of a refusal; its message is that of every denial."""
    with pytest.raises(Denied) as raised:
        child(world, parent, *patterns, **options)
    assert raised.value.message == "not allowed, or not there"
    return raised.value.hint


def test_each_bound_that_is_asked_beyond(world: World) -> None:
    """Secrets, purpose, uses, uid: each is refused by itself, and says which to who is in the run."""
    parent = world.open("a/*", purpose="chat", max_uses=3).run
    assert "lies within" in refused(world, parent, "**")
    assert "lies within" in refused(world, parent, "a/x", "b")
    assert "purpose" in refused(world, parent, "a/x", purpose="mail")
    assert "3 uses left" in refused(world, parent, "a/x", uses=4)
    found = child(world, parent, "a/x", purpose="chat", uses=3)
    assert (found.scope.purpose, found.scope.max_uses, found.parent, found.depth) == ("chat", 3, parent.id, 1)


def test_what_is_left_out_is_the_parents(world: World) -> None:
    """A child that states no purpose and no uses has its parent's, however much of those is used up."""
    parent = world.open("a/*", purpose="chat", max_uses=3).run
    world.lease(parent, "a/x")
    found = child(world, parent, "a/*")
    assert (found.scope.purpose, found.scope.max_uses) == ("chat", 3)
    assert "2 uses left" in refused(world, parent, "a/*", uses=3)


def test_uses_of_nothing_are_invalid() -> None:
    """A budget of nothing is a mistake, and said to be one."""
    with pytest.raises(Invalid):
        Scope.parse(["a"], None, 0)


def test_time_is_cut_to_the_parents(world: World) -> None:
    """A child that would outlast its parent ends with it, to the nanosecond, whether or not a time was asked for."""
    parent = world.open(ttl=100).run
    world.advance(40.5)
    assert child(world, parent, ttl=3600).expires == parent.expires
    assert child(world, parent).expires == parent.expires
    assert child(world, parent, ttl=10).expires < parent.expires
    world.advance(59.5)
    assert len(world.book.expire(world.now).runs) == 4
    assert not len(world.book.runs)


def test_as_deep_as_eight(world: World) -> None:
    """Eight runs may stand one in another below the first, and no ninth."""
    runs = [world.open().run]
    while len(runs) <= MOST_DEEP:
        runs.append(child(world, runs[-1]))
    assert [run.depth for run in runs] == list(range(MOST_DEEP + 1))
    assert "nest 8 deep" in refused(world, runs[-1])
    with pytest.raises(Internal):
        world.open(scope=runs[-1].scope, parent=runs[-1])
    assert [run.depth for run in world.book.end_run(runs[2]).runs] == [8, 7, 6, 5, 4, 3, 2]
    assert [run.live for run in runs] == [True, True] + [False] * 7


def test_patterns_of_its_own_are_few(world: World) -> None:
    """Names, and patterns that the parent has, cost nothing; others are compared with all, so there are few."""
    wide = [f"a{n}/*" for n in range(60)]
    parent = world.open(*wide).run
    child(world, parent, *wide)
    child(world, parent, *(f"a{n}/x" for n in range(60)))
    own = [f"a{n}/x*" for n in range(MOST_PATTERNS + 1)]
    child(world, parent, *own[1:])
    assert "at most 16 others" in refused(world, parent, *own)


def test_another_uid_only_from_the_trees_own(world: World) -> None:
    """Who opened the whole tree may open a child for another uid; who was handed a run may not hand it on."""
    mine = world.open(peer=world.peer(1000)).run
    handed = child(world, mine, uid=2000)
    assert handed.claimable
    assert not handed.admits(world.peer(2000, 60))
    handed.claimable = False
    for below in (handed, child(world, handed)):
        assert "another uid" in refused(world, below, uid=3000)
        assert "another uid" in refused(world, below, uid=1000)
    assert child(world, mine, uid=3000).uid == 3000


def test_one_acquisition_counts_all_the_way_up(world: World) -> None:
    """A grandchild's acquisition counts in it, in its parent and in the first; a renewal in none."""
    top = world.open(max_uses=3).run
    middle = child(world, top, uses=2)
    low, beside = child(world, middle), child(world, top)
    lease = world.lease(low, "a")
    world.renew(lease)
    assert [run.total for run in (low, middle, top, beside)] == [1, 1, 1, 0]
    world.lease(middle, "a")
    assert world.ask(low, "a").rule is world.ask(middle, "a").rule is Rule.SCOPE_USES
    world.lease(beside, "a")
    assert world.ask(beside, "a").rule is world.ask(top, "a").rule is Rule.SCOPE_USES
    assert [run.uses_left for run in (top, middle, low, beside)] == [0, 0, 0, 0]


def test_a_grants_uses_are_the_trees(world: World) -> None:
    """`max-uses` of a grant is for a run with all its children: opening children gives no more of it."""
    world.grants.remove("grant_0")
    world.grant(max_uses=2)
    top = world.open().run
    world.lease(child(world, top), "a")
    world.lease(child(world, top), "a")
    for run in (child(world, top), top, child(world, child(world, top))):
        assert world.ask(run, "a").rule is Rule.USES
    assert world.ask(world.open().run, "a").allowed


def test_the_runs_above_are_asked_each_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a child was opened with, it leases nothing that a run above may not (I6 by construction)."""
    top = world.open("a/*", purpose="chat").run
    middle = child(world, top, "a/*")
    monkeypatch.setattr(Scope, "within", lambda *_: True)
    low = world.open(scope=Scope.parse(["**"], "mail"), parent=middle).run
    assert world.ask(low, "b").rule is Rule.SCOPE_SECRET
    assert world.ask(low, "a/x").rule is Rule.SCOPE_PURPOSE


def test_a_child_is_of_its_parents_tenant_and_service(world: World) -> None:
    """The table refuses a child of another tenant, whoever asks it."""
    parent = world.open().run
    with pytest.raises(Internal):
        world.open(parent=parent, tenant=b"g" * 16)


def test_ends_take_all_below_along(world: World) -> None:
    """Closed, revoked, or its process gone: all below ends too, leases included, deepest first, each told once."""
    for end in ("end_run", "revoke", "died"):
        top = world.open().run
        middle = child(world, top, peer=world.peer(1000, 70))
        low, beside = child(world, middle), child(world, top, peer=world.peer(1000, 80))
        leases = [world.lease(run, "a") for run in (top, middle, low, beside)]
        if end == "end_run":
            ended = world.book.end_run(middle)
        elif end == "revoke":
            ended = world.book.revoke_run(middle.id, world.now)
        else:
            ended = world.book.anchor_died(world.peer(1000, 70).process)
        assert ended.runs == [low, middle]
        assert {lease.id for lease in ended.leases} == {leases[1].id, leases[2].id}
        assert [lease.live for lease in leases] == [True, False, False, True]
        assert list(top.below) == [beside.id]
        assert not world.book.end_run(middle)
        assert world.book.end_run(top).runs == [beside, top]


def test_owners_of_a_run_own_what_is_below(world: World) -> None:
    """Who opened the first run sees and ends what a uid that was handed it opens; not the other way round."""
    top = world.open(peer=world.peer(1000), uid=2000, claimable=True)
    world.book.claim(top.token, world.peer(2000, 60), world.now)
    low = child(world, top.run)
    assert low.owners == {1000, 2000}
    assert low in world.book.runs.of_uid(1000, world.now)
    handed = child(world, world.open(peer=world.peer(1000)).run, uid=3000)
    assert handed.owners == {1000}
    assert world.book.close_run(low.id, 1000, world.now).runs == [low]


def test_children_count_for_who_opens_them() -> None:
    """Child runs count against the cap of the uid that opens them, and end counting with their parent."""
    world = World(Limits(runs_per_uid=3))
    world.grant()
    top = world.open().run
    child(world, child(world, top))
    with pytest.raises(QuotaExceeded):
        child(world, top)
    world.book.end_run(top)
    for _ in range(3):
        world.open()


def test_parents_come_first() -> None:
    """Whatever order they are read in: also what cannot be a tree, and what is no run at all."""
    kept: dict[str, dict[str, Any]] = {
        "c": {"parent": "b"}, "b": {"parent": "a"}, "a": {"parent": None}, "process_1": {},
        "orphan": {"parent": "gone"}, "round": {"parent": "trip"}, "trip": {"parent": "round"}, "odd": {"parent": 7},
    }  # fmt: skip
    ordered = [name for name, _ in parents_first(kept)]
    assert sorted(ordered) == sorted(kept)
    assert ordered.index("a") < ordered.index("b") < ordered.index("c")
    assert parents_first({}) == []


def test_a_child_does_not_come_back_without_its_parent(world: World) -> None:
    """The table takes no run whose parent it does not have."""
    parent = world.open().run
    run = child(world, parent)
    world.book.end_run(parent)
    run.live = True
    with pytest.raises(Internal):
        world.book.runs.restore(run)
