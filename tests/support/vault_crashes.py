"""Lives of a vault, each a random series of changes and flushes that ends in crashes; one number decides all of it."""

from __future__ import annotations

import errno
import random

import pytest

from tests.support.vault_world import World
from vaultd.audit.segments import SegmentLimits
from vaultd.errors import Halted, VaultdError
from vaultd.store import Fault, PowerCut

__all__ = ["live_and_crash"]

_ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)


def _step(world: World, rng: random.Random) -> None:
    """One random action: mostly changes, now and then a flush, a part of one, or a tick."""
    names = sorted(world.state.tenants)
    action = rng.randrange(22)
    if not names or action == 0:
        world.create_tenant(f"t{world.count}-{rng.randrange(10**6)}")
        return
    name = rng.choice(names)
    if action <= 6:
        world.put(name, rng.choice((0, 10, 600, 3000)), system=rng.random() < 0.3)
    elif action <= 8:
        world.read(rng.choice((name, None)))
    elif action == 9:
        world.rotate_tenant(name, keep=rng.choice((None, 0, 2)))
    elif action == 10:
        world.rotate_root()
    elif action == 11:
        world.delete_tenant(name, with_audit=rng.random() < 0.5)
    elif action <= 14:
        if world.flying is None:
            world.take()
        else:
            world.land()
    elif action == 15:
        world.clock.advance(rng.choice((0.2, 0.7, 1.1)))
        world.ledger.evolve()
        world.ledger.tick()
    elif action == 16 and world.flying is None:
        world.reseal()
    elif action == 17:
        uid = world.ledger.find(name)
        assert uid is not None
        world.ledger.close_log(uid)
    elif action == 18:
        world.checkpoint()
    elif action == 19:
        _prune(world, rng)
    else:
        world.flush()


def _prune(world: World, rng: random.Random) -> None:
    """By one of the last checkpoints; what they say is on the disk for good, so none ever fails to fit."""
    if world.checkpoints:
        world.prune(rng.choice(world.checkpoints[-3:]))
    world.checkpoint()


def live_and_crash(seed: int, rounds: int = 3, *, pruning: bool = False) -> None:
    """Live, crash and come back `rounds` times; what comes back is one whole state, acknowledged or later.

    Args:
        pruning: with short segments, and one pruned every other step.
    """
    rng = random.Random(seed ^ 0x5EED)
    segments = SegmentLimits(rng.choice((None, 1, 2_000, 6_000)), rng.choice((None, None, 1)))
    if pruning:
        segments = SegmentLimits(rng.choice((1, 2_000)))
    world = World(seed, snapshot_lines=rng.choice((1, 3, 10)), segments=segments)
    for _ in range(rounds):
        world.store.arm(
            Fault(
                at=rng.randint(1, 90),
                error=rng.choice((None, None, *_ERRORS)),
                repeat=rng.random() < 0.3,
            )
        )
        try:
            for _ in range(rng.randint(1, 40)):
                _step(world, rng)
                if pruning and rng.random() < 0.5:
                    _prune(world, rng)
        except (PowerCut, VaultdError) as error:
            if not isinstance(error, PowerCut):
                # The disk refused, and it was the disk: from here on nothing is staged, taken or acknowledged.
                assert world.store.disk.fired, error  # noqa: PT017  nothing is expected to raise: whatever does must be the disk
                assert world.ledger.halted
                with pytest.raises(Halted):
                    world.read()
        world.acknowledge()
        _come_back(world, rng)


def _come_back(world: World, rng: random.Random) -> None:
    """Crash and open again; the power may go while the vault is put in order, any number of times."""
    while True:
        world.crash() if rng.random() < 0.8 else world.kill()
        cut_again = rng.random() < 0.5
        world.store.disk.arm(Fault(at=rng.randint(1, 12)) if cut_again else None)
        try:
            world.reopen()
        except PowerCut:
            continue
        world.store.disk.arm(None)
        return
