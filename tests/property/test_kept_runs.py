"""Runs over power cuts: what was acknowledged to have ended is not there again (I4), what lives is, uses stay used."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.barrier_world import BarrierWorld
from tests.support.kept_world import KeptWorld
from vaultd.access.run import MOST_DEEP
from vaultd.store import Fault, MemoryStore, PowerCut
from vaultd.vault.rotation import finish

if TYPE_CHECKING:
    from vaultd.access.run import Run


class Life:
    """One daemon's life, and what was acknowledged in it: by a flush that covers it."""

    def __init__(self, world: KeptWorld, seed: int) -> None:
        self.world = world
        self.rng = random.Random(seed)
        self.grants = [world.grant(), world.grant(max_uses=9)]
        self.opened: dict[str, Run] = {run.id: run for run in world.book.runs.all(world.now())}
        self.closed: set[str] = set()
        self.known: set[str] = set(self.opened)
        self.gone: set[str] = set()
        self.uses = {run.id: run.uses.get("grant_bounded", 0) for run in self.opened.values()}

    def step(self, action: int) -> None:
        live = [run for run in self.opened.values() if run.live]
        if action <= 2 or not live:
            above = self.rng.choice(live) if live and self.rng.random() < 0.5 else None
            if above is not None and above.depth == MOST_DEEP:
                above = None
            run = self.world.open(confined=self.rng.random() < 0.3, parent=above)
            self.opened[run.id] = run
        elif action <= 4:
            self.world.charge(self.rng.choice(live), self.rng.choice(self.grants))
        elif action <= 6:
            self.world.close(*self.rng.sample(live, self.rng.randint(1, min(3, len(live)))))
            self.closed.update(run.id for run in live if not run.live)
        elif action == 7:
            finish(self.world.vault.barrier.compact_system())
        else:
            self.flush()

    def flush(self) -> None:
        self.world.vault.flush()
        self.known, self.gone = set(self.opened), set(self.closed)
        self.uses = {run.id: run.uses.get("grant_bounded", 0) for run in self.opened.values()}

    def holds(self, after: KeptWorld) -> None:
        """Hold what came back against what was acknowledged."""
        back = {run.id: run for run in after.book.runs.all(after.now())}
        assert not back.keys() & self.gone, "an ended run came back"
        assert self.known - self.closed <= back.keys(), "a live run is lost"
        assert back.keys() <= self.opened.keys()
        for run_id, run in back.items():
            assert run.uses.get("grant_bounded", 0) >= self.uses.get(run_id, 0), "uses were given back"
            assert run.token_hash == self.opened[run_id].token_hash
            assert run.anchor == self.opened[run_id].anchor
            assert run.parent == self.opened[run_id].parent
            assert run.above is (back[run.parent] if run.parent is not None else None), "an orphan came back"
            below = sum(one.uses.get("grant_bounded", 0) for one in run.below.values())
            assert run.uses.get("grant_bounded", 0) >= below, "a child's uses are missing above it"
        assert len(after.watched) >= len(back), "an anchor is not watched"
        confined = any(run.confined for run in self.opened.values() if run.id in self.known)
        assert not confined or after.book.runs.confining, "a confined process was set free"
        assert not after.ends(), "an end was recorded of what did not end then"


STEPS = st.lists(st.integers(0, 9), min_size=1, max_size=16)


@settings(deadline=None, max_examples=100)
@example([[0], [0], [5, 0]], 1478, 7)
@example([[0], [0], [0]], 1478, 5)
@given(st.lists(STEPS, min_size=1, max_size=3), st.integers(0, 1 << 30), st.integers(1, 120))
def test_power_cuts(lives: list[list[int]], seed: int, at: int) -> None:
    """I4, I7: power (or the daemon) goes at any step of any flush, again and again."""
    world = KeptWorld(seed=seed)
    for number, steps in enumerate(lives):
        life = Life(world, seed + number)
        store = world.vault.store
        assert isinstance(store, MemoryStore)
        store.arm(Fault(at))
        try:
            for action in steps:
                life.step(action)
            life.flush()
        except PowerCut:
            pass
        image = store.crash(random.Random(seed + number))
        # Not the seed of a world before: ids would come up twice.
        world = world.after(BarrierWorld(image, seed=seed + 1 + number, clock=world.vault.clock))
        life.holds(world)


@settings(deadline=None, max_examples=50)
@given(STEPS, st.integers(0, 1 << 30))
def test_an_orderly_stop_keeps_every_count(steps: list[int], seed: int) -> None:
    """Told to stop, a daemon leaves exactly what it had, counts of unbounded grants included."""
    world = KeptWorld(seed=seed)
    life = Life(world, seed)
    for action in steps:
        life.step(action)
    world.kept.keep_counts()
    before = {run.id: run.to_dict() for run in world.book.runs.all(world.now())}
    after = world.after(world.vault.reopen())
    assert {run.id: run.to_dict() for run in after.book.runs.all(after.now())} == before
    assert after.restored == (len(before), 0)
