"""Pruning: by a checkpoint of this vault alone, on record, and never to be taken for a front that somebody cut off."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.barrier_world import ADMIN, BarrierWorld
from vaultd.audit.base import Base
from vaultd.audit.segments import SegmentLimits, base_path, numbers, segment_path
from vaultd.errors import Conflict, Halted, IntegrityError, Sealed, StoreError
from vaultd.store import Fault, MemoryStore
from vaultd.vault.rotation import finish

if TYPE_CHECKING:
    from collections.abc import Callable

    from vaultd.store.disk import Disk
    from vaultd.vault.pruning import Pruning


@pytest.fixture
def world() -> BarrierWorld:
    """A vault with several segments and two tenants."""
    world = BarrierWorld()
    world.barrier.ledger.journal.limits = SegmentLimits(size=4_000)
    for name in ("acme", "beta"):
        world.tenant(name)
    for number in range(8):
        world.put("acme", f"key/{number}", b"value")
    return world


def plan(world: BarrierWorld, signed: str | None = None) -> Pruning:
    return finish(world.barrier.plan_pruning(world.barrier.checkpoint() if signed is None else signed))


def prune(world: BarrierWorld, signed: str | None = None) -> Pruning:
    found = plan(world, signed)
    world.barrier.prune(found, actor=ADMIN)
    world.flush()
    return found


def disk(world: BarrierWorld) -> Disk:
    assert isinstance(world.store, MemoryStore)
    return world.store.disk


def test_it_is_recorded_with_what_went(world: BarrierWorld) -> None:
    """Counts, bytes, times and the checkpoint, in the system's trail, in the clear."""
    signed = world.barrier.checkpoint()
    before = [
        (path, len(disk(world).peek(path))) for path in map(segment_path, range(1, 99)) if world.store.exists(path)
    ]
    first = json.loads(disk(world).peek(segment_path(1)).splitlines()[0])["time"]
    found = prune(world, signed)
    gone = [(path, size) for path, size in before if not world.store.exists(path)]
    (said,) = [json.loads(body) for body in world.bodies() if '"kind":"audit.prune"' in body]
    assert said["actor"]["uid"] == 1000
    assert said["public"] == {
        "begins": found.base.seq + 1,
        "bytes": sum(size for _, size in gone),
        "checkpoint": {"head": found.checkpoint.head.hex(), "size": found.checkpoint.size},
        "first": first,
        "last": found.last,
        "lines": found.base.seq,
        "segments": len(gone),
    }
    assert found.lines == found.base.seq > 0


def test_trails_go_on_after_what_went(world: BarrierWorld) -> None:
    """Each begins with its next record, held against the head before it; all that is left opens, also anew."""
    whole = {name: world.bodies(name) for name in ("acme", "beta", None)}
    prune(world)
    for _ in range(2):
        for name, bodies in whole.items():
            start = world.barrier.beginning(world.barrier.trail_uid(name))
            left = world.bodies(name)
            assert start.seq > 0
            assert left[: len(bodies) - start.seq] == bodies[start.seq :]
        world = world.reopen()
    world.put("beta", "one", b"1")
    assert json.loads(world.bodies("beta")[-1])["tseq"] == len(whole["beta"]) + 1


def test_a_plan_changes_nothing_and_grows_old(world: BarrierWorld) -> None:
    """Looking is not pruning; and of two plans the second to be used is refused, not done twice."""
    files = dict(disk(world).files())
    one, two = plan(world), plan(world)
    assert disk(world).files() == files
    world.barrier.prune(one, actor=ADMIN)
    with pytest.raises(Conflict):
        world.barrier.prune(two, actor=ADMIN)
    world.flush()
    assert world.barrier.prune(plan(world), actor=ADMIN) is None


def test_other_checkpoints_are_refused(world: BarrierWorld) -> None:
    """Another vault's, a forged one, one of more lines than there are, one of other lines."""
    signed = world.barrier.checkpoint()
    with pytest.raises(IntegrityError, match="of vault"):
        plan(world, BarrierWorld(seed=1).barrier.checkpoint())
    head, size, *rest = signed.split("\n")
    with pytest.raises(IntegrityError):
        plan(world, "\n".join([head, str(int(size) - 1), *rest]))
    for bad in ("", "hello", signed + "\n", signed[:-2]):
        with pytest.raises(IntegrityError, match="not a checkpoint"):
            plan(world, bad)


def test_one_from_before_a_restore_is_refused(world: BarrierWorld) -> None:
    """Of lines that are not there any more, or are others: the vault that was put back says so instead of pruning."""
    copy = disk(world).copy()
    for number in range(5):
        world.put("acme", f"later/{number}", b"1")
    signed = world.barrier.checkpoint()
    back = BarrierWorld(MemoryStore(copy), seed=7, clock=world.clock)
    with pytest.raises(IntegrityError, match="when the checkpoint was signed it had"):
        plan(back, signed)
    for number in range(9):
        back.put("acme", f"other/{number}", b"2")
    with pytest.raises(IntegrityError, match="not the one that was signed"):
        plan(back, signed)


def test_sealed_or_halted_nothing_goes(world: BarrierWorld) -> None:
    """It takes the keys, and a disk that takes the record."""
    found = plan(world)
    disk(world).arm(Fault(1, 5, kinds=frozenset({"flush"})))
    with pytest.raises(StoreError):
        world.put("acme", "late", b"1")
    with pytest.raises(Halted):
        world.barrier.prune(found, actor=ADMIN)
    assert world.store.exists(segment_path(1))
    other = BarrierWorld(seed=3)
    signed = other.barrier.checkpoint()
    other.barrier.seal(actor=ADMIN)
    with pytest.raises(Sealed):
        other.barrier.ledger.stage_pruning(plan(other, signed).base, None)  # type: ignore[arg-type]


# -- somebody who writes the disk


def _cut_front(disk: Disk) -> None:
    """As pruning leaves it, with a base made from what anybody can read, and a genuine checkpoint."""
    lines = [json.loads(line) for line in disk.peek(segment_path(1)).splitlines()]
    base = Base(bytes.fromhex(lines[0]["vault"]), 2, lines[-1]["seq"], bytes.fromhex(lines[-1]["hash"]), "x")
    disk.put(segment_path(1), None)
    disk.put(base_path(2), base.encode())


def test_a_front_that_was_cut_off_is_not_taken_for_pruned(world: BarrierWorld) -> None:
    """The anchor says that nothing was pruned."""
    world.barrier.close()
    _cut_front(disk(world))
    with pytest.raises(IntegrityError, match=r"000001\.jsonl is gone"):
        BarrierWorld(world.store)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda disk, n: disk.put(base_path(n), None), "is gone"),
        (
            lambda disk, n: disk.poke(base_path(n), disk.peek(base_path(n)).replace(b'"seq":', b'"seq":1')),
            "anchor names",
        ),
        (lambda disk, n: disk.put(segment_path(n), None), "is gone"),
        (lambda disk, n: disk.put(segment_path(n + 9), b"{}\n"), "lies behind"),
    ],
    ids=["base gone", "base changed", "first gone", "one too many"],
)
def test_a_pruned_journal_that_was_changed(world: BarrierWorld, spoil: Callable[[Disk, int], None], said: str) -> None:
    """The anchor names the beginning by number and hash, and the end."""
    number = prune(world).base.segment
    world.barrier.close()
    spoil(disk(world), number)
    with pytest.raises(IntegrityError, match=said):
        BarrierWorld(world.store)


def test_what_was_pruned_put_back_is_swept(world: BarrierWorld) -> None:
    """An old segment or base in the directory means nothing, goes at unsealing, and is told of."""
    first = disk(world).peek(segment_path(1))
    prune(world)
    world.barrier.close()
    disk(world).put(segment_path(1), first)
    disk(world).put(base_path(2), b"old\n")
    world = BarrierWorld(world.store, clock=world.clock)
    assert not world.store.exists(segment_path(1))
    assert not world.store.exists(base_path(2))
    (told,) = [json.loads(body)["public"] for body in world.bodies() if '"kind":"vault.recovered"' in body]
    assert told["removed"] == 2


def test_an_older_anchor_does_not_undo_it(world: BarrierWorld) -> None:
    """State from before pruning speaks of segments that are gone; with all that went it is an older whole copy."""
    state = disk(world).peek("state")
    prune(world)
    world.barrier.close()
    disk(world).poke("state", state)
    with pytest.raises(IntegrityError):
        BarrierWorld(world.store)


def test_either_slot_opens_it(world: BarrierWorld) -> None:
    """Right after pruning, and right after a segment ended, one damaged slot leaves the other to take over."""
    for change in (lambda: prune(world), lambda: _until_it_ends(world)):
        change()
        for slot in (0, 1):
            copy = disk(world).copy()
            state = bytearray(copy.peek("state"))
            state[slot * 512 + 100] ^= 1
            copy.poke("state", bytes(state))
            again = BarrierWorld(MemoryStore(copy), clock=world.clock)
            assert again.get("acme", "key/1") == b"value"


def _until_it_ends(world: BarrierWorld) -> None:
    count = len(numbers(world.store.list("audit")))
    while len(numbers(world.store.list("audit"))) == count:
        world.put("acme", "key/0", b"x")
