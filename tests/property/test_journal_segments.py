"""I7 and I9 for a journal of many segments: whatever is written, ended, pruned and cut off, what is left verifies and
every trail opens; a crash in the middle of any of it leaves the old journal or the new one."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

from tests.support.vault_crashes import live_and_crash
from tests.support.vault_world import World, hold_journal
from vaultd.audit.segments import SegmentLimits, base_path, segment_path
from vaultd.audit.verify import verify_directory
from vaultd.errors import StoreError
from vaultd.store import Fault, MemoryStore, PowerCut

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEPS = frozenset({"create", "write", "flush", "rename", "unlink", "mkdir", "sync", "truncate"})


@pytest.mark.parametrize("seed", range(60))
def test_lives_with_many_segments_pruned_often(seed: int) -> None:
    """Lives that end in crashes, with a segment every few lines and one pruned every other step."""
    live_and_crash(seed, pruning=True)


def grown(segments: int = 4) -> World:
    """A vault whose journal has that many segments, the last one empty, and a checkpoint in the middle."""
    world = World(segments=SegmentLimits(1))
    world.create_tenant("acme")
    world.create_tenant("beta")
    world.flush()
    while world.ledger.journal.durable.segment < segments:
        if world.ledger.journal.durable.segment == segments // 2 + 1:
            world.checkpoint()
        world.put("acme", 10)
        world.read("beta")
        world.flush()
    world.checkpoint()
    return world


def dumped(store: MemoryStore, folder: Path) -> Path:
    """The simulated disk's files in a real directory."""
    for path, data in store.disk.files().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return folder


def prune(world: World) -> None:
    world.prune(world.checkpoints[-1])
    world.flush()


def switch(world: World) -> None:
    world.put("acme", 10)
    world.read("beta")
    world.flush()


def count(change: Callable[[World], None]) -> int:
    """How many steps of the file system a change takes."""
    world = grown()
    world.store.disk.arm(None)
    change(world)
    return world.store.disk.steps


@pytest.mark.parametrize("change", [prune, switch], ids=["prune", "switch"])
def test_a_crash_at_every_step(change: Callable[[World], None], tmp_path: Path) -> None:
    """Old or new: the vault opens, nothing is left over, and verifying offline before that finds a journal too."""
    steps = count(change)
    assert steps > 6
    begins = set()
    for at in range(1, steps + 1):
        for seed in range(3):
            world = grown()
            world.rng = random.Random(seed)
            before = world.ledger.journal.durable
            world.store.arm(Fault(at=at))
            with pytest.raises(PowerCut):
                change(world)
            world.acknowledge()
            world.crash()
            report = verify_directory(str(dumped(world.store, tmp_path / f"{at}-{seed}")), pause=lambda _: None)
            # What was being written may be torn, and is cut at the next opening: never what was durable.
            assert report.verdict.seq >= before.seq, report
            assert report.ok or report.file.endswith(segment_path(before.segment)), report
            world.reopen()
            begins.add(world.ledger.base.segment)
    assert begins == ({1, grown().ledger.journal.durable.segment} if change is prune else {1})


@pytest.mark.parametrize("change", [prune, switch], ids=["prune", "switch"])
def test_an_error_at_every_step(change: Callable[[World], None]) -> None:
    """The vault halts, nothing of it is acknowledged, and opening it anew finds the old journal or the new one."""
    for at in range(1, count(change) + 1):
        world = grown()
        world.store.arm(Fault(at=at, error=28, repeat=True, kinds=STEPS))
        with pytest.raises(StoreError):
            change(world)
        assert world.ledger.halted
        world.acknowledge()
        world.kill()
        world.reopen()


def test_pruning_again_and_again() -> None:
    """Each pruning goes on from the one before; one by a checkpoint from before it takes nothing."""
    world = grown(6)
    early, late = world.checkpoints
    first = world.prune(early)
    world.flush()
    assert first.lines > 0
    assert first.stays == first.checkpoint.size - first.base.seq
    hold_journal(world.ledger)
    second = world.prune(late)
    world.flush()
    assert second.lines > 0
    assert world.prune(early).lines == 0
    hold_journal(world.ledger)
    world.kill()
    world.reopen()
    assert world.store.list("audit") == sorted(
        path.removeprefix("audit/")
        for path in (
            base_path(second.base.segment),
            *(segment_path(n) for n in range(second.base.segment, world.ledger.journal.durable.segment + 1)),
        )
    )
